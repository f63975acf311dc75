"""Whole runs of a tiny SAN: the same curve after an interruption, accumulation, averages, precision, breakdowns."""

from __future__ import annotations

import itertools
import re

import pytest
import torch
from safetensors.torch import load_file

import ovseg
from ovseg.checkpoint.trained import load_trained_state, save_trained, trained_state
from ovseg.engine.trainer import Trainer
from ovseg.errors import ConfigError, InputError, TrainingError, WeightsError
from tests.engine.conftest import curve, killed_at, rows


def test_a_run(train, own_data, capsys):
    folder = train(changes={"DATASETS": {"TEST": (str(own_data),)}})
    losses = curve(folder)
    assert len(losses) == 8 and [row["step"] for row in rows(folder)] == [*range(8), 7]
    assert 0 <= rows(folder)[-1][f"{own_data}/miou_present"] <= 1
    text = (folder / "log.txt").read_text()
    assert capsys.readouterr().out == text
    for pattern in (
        r"SAN: 0\.\d+ M parameters are trained, \d\.\d+ M are frozen",
        r"data: 12 images, 2 classes, 1\.3 epochs",
        r"batch: 2 = 1 processes x 1 passes x 2 images",
        r"expected memory per process: \d\.\d\d GiB",
        r"step 8/8  loss \d+\.\d+ \(ce .*, mask .*, dice .*\)  lr .* grad .* s/step .* eta 0:00:00  memory \d.* GiB",
        r"own: mIoU .* over the 2 classes present",
    ):
        assert re.search(pattern, text), pattern
    assert list((folder / "tensorboard").iterdir())
    assert set(load_file(folder / "model.safetensors")) == set(torch.load(folder / "last.pt")["model"])
    assert not any(key.startswith("clip.") for key in load_file(folder / "model.safetensors"))
    segmenter = ovseg.load(str(folder), "cpu")
    assert segmenter(own_data / "images/00.jpg").classes.names == ["glorp", "blix"]
    assert torch.equal(segmenter.model.void_row, load_file(folder / "model.safetensors")["void_row"])


MUON = pytest.param(5, "MUON", marks=pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch < 2.9"))


@pytest.mark.parametrize(("step", "optimizer"), [(1, "ADAMW"), (5, "ADAMW"), (6, "ADAMW"), MUON])
def test_killed_and_resumed_the_curve_is_the_same(train, monkeypatch, step, optimizer):
    solver = {"EMA": {"ENABLED": True, "DECAY": 0.5}, "OPTIMIZER": optimizer}
    whole = train("whole", **solver)
    with monkeypatch.context() as patch:
        killed_at(patch, step)
        with pytest.raises(KeyboardInterrupt):
            train("part", **solver)
    with (whole.parent / "part/log.jsonl").open("a") as file:
        file.write('{"step": 5, "lo')
    if step > 3:
        with pytest.raises(InputError, match=f"holds a run at step {step // 3 * 3}; go on with --resume"):
            train("part", **solver)
    part = train("part", resume=True, **solver)
    assert curve(part) == curve(whole)
    first, second = (load_file(folder / "model.safetensors") for folder in (whole, part))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_another_config_does_not_resume(train):
    folder = train(MAX_ITER=1)
    with pytest.raises(ConfigError, match=r"the run in '.*' was made .*: SOLVER.BASE_LR was 0.003, is 0.5; choose"):
        train(resume=True, BASE_LR=0.5)
    train(resume=True, MAX_ITER=3)
    assert len(curve(folder)) == 3
    (folder / "last.pt").write_bytes(b"broken")
    with pytest.raises(WeightsError, match="is no checkpoint of a run"):
        train(resume=True)


def test_accumulation_sees_the_same_images(train):
    seen = {}
    real = Trainer._learn

    def learn(self, batch, passes, last):
        seen.setdefault(passes, []).extend(entry["file_name"] for entry in batch)
        return real(self, batch, passes, last)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_learn", learn)
        train("one", IMS_PER_BATCH=4, MAX_ITER=3)
        train("two", IMS_PER_BATCH=4, ACCUMULATE=2, MAX_ITER=3)
    assert seen[1] == seen[2] and len(seen[1]) == 12
    with pytest.raises(ConfigError, match=r"IMS_PER_BATCH 2 over 1 processes and SOLVER.ACCUMULATE 3 passes"):
        train("three", ACCUMULATE=3)


def test_gradients_of_passes_add_up(train, monkeypatch):
    """With a loss that is a mean over images, two passes of one image are one pass of two."""

    def loss(self, inputs, words):
        images = torch.stack([entry["image"].float().mean() for entry in inputs]) / 255
        return {"loss_toy": ((self.void_row.sum() - images) ** 2).mean()}

    from ovseg.meta_arch.san.model import SAN

    monkeypatch.setattr(SAN, "losses", loss)
    assert curve(train("one")) == pytest.approx(curve(train("two", ACCUMULATE=2)), rel=1e-5)


def test_averages(train):
    plain = load_file(train("plain") / "model.safetensors")
    averaged = load_file(train("averaged", EMA={"ENABLED": True, "DECAY": 0.9}) / "model.safetensors")
    still = load_file(train("still", EMA={"ENABLED": True, "DECAY": 0.9}, BASE_LR=0.0) / "model.safetensors")
    moved = (plain["void_row"] - still["void_row"]).norm()
    assert 0 < (averaged["void_row"] - still["void_row"]).norm() < 0.8 * moved
    with pytest.raises(ConfigError, match="expected at least 0 and less than 1"):
        train("wrong", EMA={"ENABLED": True, "DECAY": 1.0})


def test_half_precision_learns_alike(train):
    plain, half = curve(train("plain")), curve(train("half", AMP={"ENABLED": True}))
    assert half != plain and half == pytest.approx(plain, rel=0.15)
    with pytest.raises(ConfigError, match="expected fp16 or bf16"):
        train("wrong", AMP={"DTYPE": "fp8"})


def test_a_loss_that_is_not_finite(train, monkeypatch, capfd):
    from ovseg.meta_arch.san.model import SAN

    real, calls = SAN.losses, itertools.count()

    def losses(self, inputs, words):
        found = real(self, inputs, words)
        return {**found, "loss_mask": found["loss_mask"] * float("nan")} if next(calls) == 6 else found  # 1 is a trial

    monkeypatch.setattr(SAN, "losses", losses)
    with pytest.raises(TrainingError) as caught:
        train()
    message = str(caught.value)
    assert re.match(r"training stopped at step 5, not finite: loss_mask nan; images .*\.jpg, .*\.jpg; ", message)
    assert "the checkpoint of step 3 is kept" in message and "\n" not in message
    assert "Traceback" not in "".join(capfd.readouterr())
    monkeypatch.setattr(SAN, "losses", real)
    assert len(curve(train(resume=True))) == 8


def test_gradients_that_are_not_finite(train):
    with pytest.raises(TrainingError, match=r"stopped at step \d, not finite.*nothing was saved|.*is kept"):
        train(BASE_LR=1e30, CLIP_GRADIENTS={"ENABLED": False})


def test_a_matching_that_breaks_down(train, monkeypatch):
    from ovseg.meta_arch.san.model import SAN

    def losses(self, inputs, words):
        if next(calls):
            raise FloatingPointError("the matching cost is not finite")
        return {"loss_toy": self.void_row.sum()}

    calls = itertools.count()
    monkeypatch.setattr(SAN, "losses", losses)
    with pytest.raises(TrainingError, match="step 0, not finite: the matching cost"):
        train()


def test_data_are_checked_first(train, tmp_path):
    (tmp_path / "own/labels/05.png").unlink()
    with pytest.raises(InputError, match=r"05.jpg' has no label"):
        train()
    assert not (tmp_path / "run/log.jsonl").exists()


def test_trained_weights_are_loaded_strictly(train, tmp_path):
    folder = train(MAX_ITER=1)
    model = ovseg.load(str(folder), "cpu").model
    state = trained_state(model)
    for change, message in (
        (
            {k: v for k, v in state.items() if k != "void_row"},
            "does not fit the SAN of this config: it misses void_r",
        ),
        ({**state, "extra": torch.zeros(1)}, "it has unexpected extra"),
        ({**state, "void_row": torch.zeros(2)}, r"mis-shaped void_row \(got \(2,\) torch.float32, expected \(1, 32\)"),
    ):
        with pytest.raises(WeightsError, match=message):
            load_trained_state(model, change, "file")
    save_trained({**state, "void_row": torch.zeros(1, 32)}, folder / "model.safetensors")
    assert not ovseg.load(str(folder), "cpu").model.void_row.any()
