"""MAFT+ end to end with tiny random models: results, texts of the image, training, checkpoints, the API."""

from __future__ import annotations

import copy

import pytest
import torch
from detectron2.structures import Instances
from safetensors.torch import save_file

import ovseg
from ovseg.checkpoint.trained import save_trained, trained_state
from ovseg.config import config_root, load_config
from ovseg.engine.optimizer import parameter_groups
from ovseg.errors import ConfigError, InputError, WeightsError
from ovseg.meta_arch.maft_plus.model import MAFTPlus
from ovseg.meta_arch.maft_plus.weights import official_name
from ovseg.vocabulary import Vocabulary

WORDS = ["cat", "sofa|couch", "quark"]
TRUNK = "clip.model.visual.trunk."
MAFT = {
    "QUERIES": 6,
    "DIM": 32,
    "HEADS": 4,
    "ENCODER_LAYERS": 1,
    "ENCODER_FFN": 32,
    "DECODER_LAYERS": 3,
    "DECODER_FFN": 32,
    "POINTS": 64,
    "TRANSFER_HEADS": 2,
}


def settings(folder, weights="", text=None, **changes):
    return {
        "MODEL": {
            "DEVICE": "cpu",
            "WEIGHTS": str(weights),
            "CLIP": {"FOLDER": str(folder)},
            "TEXT": {"TEMPLATES": "simple", **(text or {})},
            "PROTOCOL": {"SHORT_SIDE": 64, "LONG_SIDE": 128},
            "MAFTPlus": {**MAFT, **changes},
        }
    }


def config(folder, weights="", text=None, file="maftp-b", **changes):
    return load_config(config_root() / f"maft_plus/{file}.yaml", settings(folder, weights, text, **changes))


def build(folder, weights="", words=WORDS, **changes):
    torch.manual_seed(3)
    model = MAFTPlus(config(folder, weights, **changes)).eval()
    model.set_vocabulary(Vocabulary.parse(words))
    return model


@pytest.fixture
def model(tiny_convnext):
    return build(tiny_convnext)


@pytest.fixture
def tuned(model):
    """The model after a training that changed all it may change."""
    torch.manual_seed(4)
    model.train()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.02 * torch.randn_like(parameter))
    return model.eval()


def photo(height=70, width=90, seed=0, **more):
    generator = torch.Generator().manual_seed(seed)
    return {"image": torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8), **more}


def training_photo(seed=0, count=2):
    masks = torch.zeros(count, 64, 128, dtype=torch.bool)
    for i in range(count):
        masks[i, 20 * i : 20 * i + 20, 8:100] = True
    instances = Instances((64, 128), gt_classes=torch.arange(count) % 3, gt_masks=masks)
    return {**photo(64, 128, seed), "instances": instances}


def official(model, teacher=True):
    """Return the weights of a model as the authors' code would save them."""
    state = {official_name(key): value for key, value in model.state_dict().items()}
    clip = model.original().model.state_dict()
    second = {f"backbone_t.clip_model.{key}": value for key, value in clip.items()} if teacher else {}
    return {**state, **second, "criterion.empty_weight": torch.ones(172)}


def test_results_at_the_size_that_was_asked_for(model):
    first, second = model([photo(height=100, width=120), photo(40, 50, 1)])
    assert set(first) == {"labels", "scores", "sem_seg"}
    assert first["labels"].shape == first["scores"].shape == (100, 120)
    assert first["sem_seg"].shape == (3, 100, 120) and second["labels"].shape == (40, 50)
    assert torch.equal(first["sem_seg"].argmax(0).int(), first["labels"])
    assert 0 <= first["scores"].min() and first["scores"].max() <= 1


def test_the_panoptic_model_finds_segments(tiny_convnext):
    cfg = config(tiny_convnext, file="maftp-l-pano", PANOPTIC=True, OBJECT_THRESHOLD=0.0, OVERLAP_THRESHOLD=0.0)
    model = MAFTPlus(cfg).eval()
    model.set_vocabulary(Vocabulary.parse(WORDS))
    assert model.transfer.panoptic
    ids, infos = model([photo()])[0]["panoptic_seg"]
    assert ids.shape == (70, 90) and {info["id"] for info in infos} >= set(ids.unique().tolist()) - {0}


def test_the_panoptic_transfer_starts_as_no_change(tiny_convnext):
    rows = {}
    for panoptic in (True, False):
        model = build(tiny_convnext, PANOPTIC_TRANSFER=panoptic)
        with torch.no_grad():
            rows[panoptic] = model.transfer(torch.randn(2, 16, 3, 4), model.rows()) - model.rows()
    assert not rows[True].any() and rows[False].abs().max() > 0.1


def test_texts_look_at_their_own_image(tuned):
    first, second = (tuned([photo(64, 64, seed)])[0]["sem_seg"] for seed in range(2))
    together = [entry["sem_seg"] for entry in tuned([photo(64, 64, 0), photo(64, 64, 1)])]
    torch.testing.assert_close(together[0], first, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(together[1], second, atol=1e-4, rtol=1e-3)


def test_features_are_cut_as_in_the_original(model):
    dense = torch.randn(2, 64, 2, 3)
    with torch.no_grad():
        found = model.image_features(dense)
        flat = dense[1].flatten()
        wanted = [model.clip.tower.embed(flat[i * 64 : i * 64 + 64][None, None])[0, 0] for i in range(6)]
    assert found.shape == (2, 16, 2, 3)
    torch.testing.assert_close(found[1].flatten(1).T, torch.stack(wanted))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(model, dtype):
    wanted = model([photo(64, 64)])[0]["sem_seg"]
    found = model.to(dtype)([photo(64, 64)])[0]["sem_seg"]
    assert found.isfinite().all()
    assert torch.nn.functional.cosine_similarity(found.flatten(), wanted.flatten(), dim=0) > 0.95


def test_what_is_trained_and_how_fast(model, tiny_convnext):
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {name for name in trainable if name.startswith("clip.")} == {
        name
        for name, _ in model.named_parameters()
        if name.startswith((f"{TRUNK}stem.", f"{TRUNK}stages.", f"{TRUNK}norm_pre."))
    }
    assert {name.partition(".")[0] for name in trainable} == {"clip", "pixel_decoder", "decoder", "void", "transfer"}
    groups = parameter_groups(model, config(tiny_convnext))
    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    for name, parameter in model.named_parameters():
        wanted = None if name not in trainable else 1e-5 if name.startswith("clip.") else 1e-4
        assert rates.get(id(parameter)) == (wanted and pytest.approx(wanted)), name


def test_which_loss_reaches_what(model):
    model.train()
    torch.manual_seed(0)
    losses = model([training_photo(), training_photo(1, 1)])
    assert set(losses) == {
        *(f"loss_{part}{suffix}" for part in ("ce", "mask", "dice") for suffix in ("", "_0", "_1", "_2")),
        *("loss_ma", "loss_rc"),
    }
    assert losses["loss_rc"] == 0  # nothing has been tuned yet
    tower, change = model.get_parameter(f"{TRUNK}stem.0.weight"), model.transfer.linear.weight

    def gradients(*losses):
        return torch.autograd.grad(
            sum(losses), (tower, change, model.void.weight), retain_graph=True, allow_unused=True
        )

    head = gradients(*(loss for name, loss in losses.items() if name not in ("loss_ma", "loss_rc")))
    assert head[0] is None and head[1] is None and head[2].any()
    ranking = gradients(losses["loss_ma"])
    assert ranking[0].any() and ranking[1].any() and (ranking[2] is None or not ranking[2].any())
    kept = gradients(losses["loss_rc"])
    assert kept[1] is None and kept[2] is None


def test_a_training_learns_and_its_teacher_does_not(model):
    model.train()
    before = copy.deepcopy(model.clip.model.visual.trunk.state_dict())
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    batch, totals = [training_photo(0), training_photo(1, 1), training_photo(2, 0)], []
    torch.manual_seed(0)
    for _ in range(20):
        losses = model(batch)
        total = sum(losses.values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(total.item())
    assert sum(totals[-4:]) < 0.85 * sum(totals[:4]) and losses["loss_rc"] > 0
    after, teacher = model.clip.model.visual.trunk.state_dict(), model.teacher.trunk.state_dict()
    assert all(torch.equal(teacher[key], before[key]) for key in before)
    moved = {key for key in before if not torch.equal(after[key], before[key])}
    assert moved == {key for key in before if not key.startswith("head.")}
    assert not any(key.startswith("teacher") for key in model.state_dict())


def test_images_that_are_too_small_to_keep_clip_by_are_refused(model):
    model.train()
    with pytest.raises(InputError, match="wider images"):
        model([{**photo(64, 64), "sem_seg": torch.ones(64, 64, dtype=torch.long)}])


@pytest.mark.parametrize("teacher", [True, False])
def test_released_names_come_back(tuned, tiny_convnext, tmp_path, teacher):
    state = official(tuned, teacher)
    assert {"cdt.cross_atten.MLP.weight", "cdt.cross_atten.multihead_attn.in_proj_weight"} < set(state)
    torch.save({"model": state, "iteration": 7}, tmp_path / "a.pth")
    again = build(tiny_convnext, tmp_path / "a.pth")
    assert torch.equal(again([photo()])[0]["sem_seg"], tuned([photo()])[0]["sem_seg"])


def test_training_goes_on_from_released_weights_with_the_first_teacher(tuned, tiny_convnext, tmp_path):
    torch.save({"model": official(tuned)}, tmp_path / "a.pth")
    again = build(tiny_convnext, tmp_path / "a.pth").train()
    assert again([training_photo()])["loss_rc"] > 0
    assert again.get_parameter(f"{TRUNK}stem.0.weight").requires_grad


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("void_embedding.weight"), "misses void_embedding.weight"),
        (lambda state: state.pop("backbone_t.clip_model.logit_scale"), r"misses backbone_t\.clip_model\.logit_scale"),
        (lambda state: state.update({"backbone_t.more": torch.ones(1)}), r"has unexpected backbone_t\.more"),
        (lambda state: state.update({"cdt.more": torch.ones(1)}), r"has unexpected cdt\.more"),
        (
            lambda state: state.update({"backbone_t.clip_model.visual.trunk.stem.0.weight": torch.ones(2, 3)}),
            r"mis-shaped backbone_t\.clip_model\.visual\.trunk\.stem\.0\.weight",
        ),
    ],
)
def test_what_does_not_fit_is_named(model, tiny_convnext, tmp_path, change, message):
    state = official(model)
    change(state)
    torch.save({"model": state}, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=message) as caught:
        build(tiny_convnext, tmp_path / "a.pth")
    assert "\n" not in str(caught.value)


def test_what_was_trained_is_all_that_has_to_be_kept(tuned, tiny_convnext, tmp_path):
    own = trained_state(tuned)
    assert f"{TRUNK}stem.0.weight" in own and not any("transformer" in key for key in own)
    wanted = tuned([photo()])[0]["sem_seg"]
    save_file({key: value.contiguous() for key, value in own.items()}, tmp_path / "part.safetensors")
    assert torch.equal(build(tiny_convnext, tmp_path / "part.safetensors")([photo()])[0]["sem_seg"], wanted)
    save_trained(own, tmp_path / "exported.safetensors")
    exported = build(tiny_convnext, tmp_path / "exported.safetensors")
    assert torch.equal(exported([photo()])[0]["sem_seg"], wanted)
    save_file(tuned.state_dict(), tmp_path / "all.safetensors")
    assert torch.equal(build(tiny_convnext, tmp_path / "all.safetensors")([photo()])[0]["sem_seg"], wanted)


def test_the_hash_follows_the_tuned_tower(model):
    before = model.weights_hash
    model.train()
    model.get_parameter(f"{TRUNK}stem.0.weight").data += 1
    model.eval()
    assert model.weights_hash != before


def test_mistakes_are_one_line(tiny_convnext, tiny_resnet):
    with pytest.raises(ConfigError, match="use a ConvNeXt"):
        build(tiny_resnet)
    with pytest.raises(ConfigError, match="AutoCLIP"):
        build(tiny_convnext, text={"AUTOCLIP": 0.5, "TEMPLATES": "vild14"})
    with pytest.raises(ConfigError, match="no vocabulary"):
        MAFTPlus(config(tiny_convnext)).eval()([photo()])


def test_the_api_segments_with_it(tiny_convnext, photos, tmp_path):
    file = tmp_path / "tiny.yaml"
    file.write_text(f"_BASE_: {config_root() / 'maft_plus/maftp-l.yaml'}\nVERSION: 2\n")
    segmenter = ovseg.load(str(file), device="cpu", overrides=settings(tiny_convnext))
    results = segmenter(str(photos), ["cat", "sofa|couch"])
    assert [result.labels.shape for result in results] == [(72, 96), (72, 96), (80, 60)]
    assert results[0].meta["settings"]["panoptic_transfer"] is False


@pytest.mark.parametrize("name", ["maftp-b", "maftp-l", "maftp-l-pano"])
def test_released_models_say_what_to_fetch(name):
    with pytest.raises(WeightsError, match=r"fetch maftp_.+\.pth from https://drive\.google\.com/file/d/.+"):
        ovseg.load(name, device="cpu")
