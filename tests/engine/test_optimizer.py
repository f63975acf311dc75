"""Groups, schedules and clipping against the recipes of the originals."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from ovseg.config import config_root, load_config
from ovseg.engine.optimizer import build_optimizer, clip_gradients, learning_rate_factor, parameter_groups
from ovseg.errors import ConfigError, EnvironmentProblem, UnknownNameError


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.clip = nn.Linear(3, 3).requires_grad_(False)
        self.norm, self.group_norm = nn.LayerNorm(3), nn.GroupNorm(1, 3)
        self.query_embed = nn.Embedding(4, 3)
        self.backbone = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3))
        self.pos_embed = nn.Parameter(torch.zeros(2))
        self.head = nn.Linear(3, 2)


def settings(**solver):
    usual = load_config(config_root() / "san/san_mini_scenes.yaml").clone()
    usual.defrost()
    usual.SOLVER.LR_MULTIPLIERS, usual.SOLVER.DECAY_MULTIPLIERS = [], []
    for key, value in {"BASE_LR": 0.01, "WEIGHT_DECAY": 0.05, **solver}.items():
        usual.SOLVER[key] = value
    return usual


def by_name(model, cfg):
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        names[id(parameter)]: (round(group["lr"], 9), group["weight_decay"])
        for group in parameter_groups(model, cfg)
        for parameter in group["params"]
    }


def test_groups_of_fcclip_and_maft():
    found = by_name(Model(), settings(LR_MULTIPLIERS=[["backbone", 0.1]]))
    assert not any(name.startswith("clip") for name in found)
    assert found["norm.weight"] == found["group_norm.bias"] == found["query_embed.weight"] == (0.01, 0.0)
    assert found["head.weight"] == found["head.bias"] == found["pos_embed"] == (0.01, 0.05)
    assert found["backbone.0.weight"] == (0.001, 0.05) and found["backbone.1.weight"] == (0.001, 0.0)


def test_groups_of_san():
    rules = [["backbone.1", 1.0], ["pos_embed|query_embed", 0.0]]
    found = by_name(Model(), settings(DECAY_MULTIPLIERS=rules))
    assert found["backbone.1.weight"] == (0.01, 0.05), "the norms of the fusion decay"
    assert found["pos_embed"] == found["norm.weight"] == (0.01, 0.0)


def test_released_configs_name_parameters_that_exist(tiny_clip):
    from detectron2.modeling import build_model

    import ovseg.meta_arch  # noqa: F401

    changes = {"MODEL": {"DEVICE": "cpu", "CLIP": {"FOLDER": str(tiny_clip)}, "SAN": {"FRONT_BLOCKS": 1}}}
    changes["MODEL"]["SAN"] |= {"DEPTH": 2, "FUSION": ["0->0", "1->1"], "SUPERVISED_BLOCKS": [2], "WIDTH": 24}
    cfg = load_config(config_root() / "san/san-vit-b-16.yaml", changes)
    found = by_name(build_model(cfg), cfg)
    decayed = {name for name, (_, decay) in found.items() if decay}
    assert {"side_adapter.fusion_layers.0.norm.weight", "void_row"} <= decayed
    assert not {"position", "side_adapter.pos_embed", "side_adapter.blocks.0.norm1.weight"} & decayed
    assert {rate for rate, _ in found.values()} == {0.0001}


def test_wrong_rules():
    for rules in ([["backbone"]], [["(", 1.0]], ["ab"]):
        with pytest.raises(ConfigError, match=r"expected .*regular expression, factor"):
            parameter_groups(Model(), settings(LR_MULTIPLIERS=rules))
    with pytest.raises(ConfigError, match="'^clip', which fits no trainable parameter".replace("^", r"\^")):
        parameter_groups(Model(), settings(DECAY_MULTIPLIERS=[["^clip", 0.0]]))
    with pytest.raises(ConfigError, match="no trainable parameter"):
        parameter_groups(Model().requires_grad_(False), settings())
    with pytest.raises(UnknownNameError, match="did you mean ADAMW"):
        build_optimizer(Model(), settings(OPTIMIZER="ADAM"))


needs_muon = pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="Muon came with torch 2.9")


@needs_muon
def test_muon_moves_matrices_and_adamw_the_rest():
    torch.manual_seed(0)
    model = Model()
    cfg = settings(OPTIMIZER="MUON", LR_MULTIPLIERS=[["head.weight", 2.0]])
    optimizer = build_optimizer(model, cfg)
    muon, adamw = optimizer.parts
    assert isinstance(muon, torch.optim.Muon) and isinstance(adamw, torch.optim.AdamW)
    moved = {id(value) for group in muon.param_groups for value in group["params"]}
    names = {name for name, value in model.named_parameters() if id(value) in moved}
    assert names == {"backbone.0.weight", "head.weight"}, "neither tables of embeddings, nor vectors, nor frozen ones"
    every = [value for group in optimizer.param_groups for value in group["params"]]
    assert len(every) == len({id(value) for value in every}) == sum(v.requires_grad for v in model.parameters())
    rates = {id(value): group["lr"] for group in optimizer.param_groups for value in group["params"]}
    assert rates[id(model.head.weight)] == 0.02 and rates[id(model.head.bias)] == 0.01
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    sum(value.square().sum() + value.sum() for value in every).backward()
    optimizer.step()
    changed = {name for name, value in model.named_parameters() if not torch.equal(before[name], value)}
    assert changed == {name for name, value in model.named_parameters() if value.requires_grad}
    optimizer.zero_grad()
    assert all(value.grad is None for value in every)


@needs_muon
def test_muon_goes_on_from_its_state():
    def steps(model, optimizer, count):
        for step in range(count):
            optimizer.zero_grad()
            (model.head(torch.full((1, 3), 0.5)) * (step + 1)).square().sum().backward()
            optimizer.step()
        return torch.cat([value.detach().flatten() for value in model.parameters()])

    cfg = settings(OPTIMIZER="MUON")
    torch.manual_seed(0)
    first = Model()
    optimizer = build_optimizer(first, cfg)
    steps(first, optimizer, 3)
    second = Model()
    second.load_state_dict(first.state_dict())
    resumed = build_optimizer(second, cfg)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    torch.testing.assert_close(steps(second, resumed, 2), steps(first, optimizer, 2), rtol=0, atol=0)


def test_without_muon(monkeypatch):
    monkeypatch.delattr(torch.optim, "Muon", raising=False)
    with pytest.raises(
        EnvironmentProblem, match=r"has no Muon; update it to 2\.9 or newer, or set SOLVER.OPTIMIZER to ADAMW"
    ):
        build_optimizer(Model(), settings(OPTIMIZER="MUON"))


def test_schedules():
    poly = settings(MAX_ITER=100, WARMUP_ITERS=0)
    assert learning_rate_factor(poly, 0) == 1 and learning_rate_factor(poly, 50) == pytest.approx(0.5**0.9)
    assert learning_rate_factor(poly, 99) == pytest.approx(0.01**0.9)
    steps = settings(LR_SCHEDULER_NAME="WarmupMultiStepLR", STEPS=(80, 60), GAMMA=0.1, WARMUP_ITERS=10)
    steps.SOLVER.WARMUP_FACTOR = 0.5
    found = [learning_rate_factor(steps, step) for step in (0, 5, 10, 59, 60, 80)]
    assert found == pytest.approx([0.5, 0.75, 1, 1, 0.1, 0.01])
    steps.SOLVER.WARMUP_METHOD = "constant"
    assert learning_rate_factor(steps, 9) == 0.5
    cosine = settings(LR_SCHEDULER_NAME="WarmupCosineLR", MAX_ITER=100, WARMUP_ITERS=0)
    found = [learning_rate_factor(cosine, step) for step in (0, 25, 50, 100)]
    assert found == pytest.approx([1, 0.5 + 0.5**1.5, 0.5, 0])
    cosine.SOLVER.BASE_LR_END = cosine.SOLVER.BASE_LR / 10
    found = [learning_rate_factor(cosine, step) for step in (0, 50, 100)]
    assert found == pytest.approx([1, 0.55, 0.1])
    with pytest.raises(UnknownNameError, match="WarmupPolyLR"):
        learning_rate_factor(settings(LR_SCHEDULER_NAME="WarmupPoly"), 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"LR_SCHEDULER_NAME": "WarmupPolyLR", "BASE_LR_END": 1e-6},
            "WarmupCosineLR alone ends, and the schedule is Warm",
        ),
        ({"LR_SCHEDULER_NAME": "WarmupCosineLR", "BASE_LR_END": -1e-6}, "BASE_LR_END is -1e-06; expected 0 to BASE_LR"),
        ({"LR_SCHEDULER_NAME": "WarmupCosineLR", "BASE_LR_END": 1e3}, "BASE_LR_END is 1000.0; expected 0 to BASE_LR"),
    ],
)
def test_an_end_that_a_schedule_has_not_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        learning_rate_factor(settings(**changes), 0)


def test_clipping_takes_all_gradients_together():
    parameters = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1))]

    def norms(cfg):
        parameters[0].grad, parameters[1].grad = torch.tensor([3.0, 0.0]), torch.tensor([4.0])
        return float(clip_gradients(parameters, cfg)), [p.grad.norm().item() for p in parameters]

    cfg = settings()
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = 0.01
    before, after = norms(cfg)
    assert before == 5 and after == pytest.approx([0.006, 0.008], rel=1e-3)
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = False
    assert norms(cfg) == (5, [3, 4])
    cfg = SimpleNamespace(SOLVER=settings().SOLVER)
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = "value"
    with pytest.raises(ConfigError, match="expected full_model"):
        clip_gradients(parameters, cfg)
