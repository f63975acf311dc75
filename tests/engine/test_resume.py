"""A run goes on only with what it was made of, by content; what has changed is said, and can be accepted."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from ovseg.engine import run
from ovseg.engine.held_out import HeldOut
from ovseg.errors import ConfigError, InputError, WeightsError
from tests.engine.conftest import curve, killed_at, rows

Train = Callable[..., Path]


def reorder(data: Path, clip: Path) -> None:
    (data / "classes.txt").write_text("blix\nglorp|glorps\n")


def rename(data: Path, clip: Path) -> None:
    (data / "classes.txt").write_text("glorp|glorps\nwomble\n")


def forget_a_synonym(data: Path, clip: Path) -> None:
    (data / "classes.txt").write_text("glorp\nblix\n")


def remove(data: Path, clip: Path) -> None:
    for file in (data / "images/03.jpg", data / "labels/03.png"):
        file.unlink()


def add(data: Path, clip: Path) -> None:
    shutil.copy(data / "images/03.jpg", data / "images/99.jpg")
    shutil.copy(data / "labels/03.png", data / "labels/99.png")


def label(data: Path, clip: Path) -> None:
    Image.new("L", (48, 40), 1).save(data / "labels/03.png")


def picture(data: Path, clip: Path) -> None:
    Image.new("RGB", (48, 40), "red").save(data / "images/03.jpg")


def weights(data: Path, clip: Path) -> None:
    state = load_file(clip / "open_clip_model.safetensors")
    state["visual.conv1.weight"] = state["visual.conv1.weight"] + 0.01
    save_file(state, clip / "open_clip_model.safetensors")


@pytest.fixture
def own_clip(tmp_path: Path, tiny_clip: Path, training_config: Path) -> Path:
    """The CLIP of the training in a folder that may change."""
    folder = tmp_path / "clip"
    shutil.copytree(tiny_clip, folder)
    training_config.write_text(training_config.read_text().replace(str(tiny_clip), str(folder)))
    return folder


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (reorder, "classes: 2 in another order"),
        (rename, "classes: 1 renamed (blix -> womble)"),
        (forget_a_synonym, "classes: 1 with other synonyms (glorp)"),
        (remove, "images: 1 removed (03.jpg)"),
        (add, "images: 1 added (99.jpg)"),
        (label, "labels: 1 changed (03.jpg)"),
        (picture, "images: 1 changed (03.jpg)"),
        (weights, "frozen weights: were "),
    ],
)
def test_another_content_does_not_resume(
    train: Train, own_data: Path, own_clip: Path, change: Callable[..., None], said: str
) -> None:
    folder = train(MAX_ITER=3)
    change(own_data, own_clip)
    before = (folder / "last.pt").read_bytes()
    with pytest.raises(ConfigError) as caught:
        train(resume=True, MAX_ITER=6)
    assert said in str(caught.value) and "--resume --adopt" in str(caught.value) and "\n" not in str(caught.value)
    assert (folder / "last.pt").read_bytes() == before and len(curve(folder)) == 3
    train(resume=True, adopt=True, MAX_ITER=4)
    assert len(curve(folder)) == 4 and f"adopted: {said}" in (folder / "log.txt").read_text()
    assert any(said in line for line in json.loads((folder / "training.json").read_text())["adopted"])
    train(resume=True, MAX_ITER=5)  # it is what the run is made of from now on
    assert len(curve(folder)) == 5


def test_other_words_and_other_settings_do_not_resume(train: Train) -> None:
    train(MAX_ITER=3)
    with pytest.raises(ConfigError, match=r"INPUT.COLOR_AUG_SSD was true, is false; SOLVER.BASE_LR was 0.003"):
        train(resume=True, BASE_LR=0.5, changes={"INPUT": {"COLOR_AUG_SSD": False}})
    with pytest.raises(ConfigError, match="classes: the values of the files stand for others of them"):
        train("other", MAX_ITER=3, changes={"DATASETS": {"RENAME": "glorp=mumph", "VOCABULARY": "mumph"}})
        train("other", resume=True, changes={"DATASETS": {"RENAME": "blix=mumph", "VOCABULARY": "mumph"}})
    with pytest.raises(ConfigError, match=r"classes: 1 added \(tree\)"):
        train(resume=True, changes={"DATASETS": {"VOCABULARY": "glorp|glorps, blix, tree"}})


def test_other_start_weights_do_not_resume(train: Train, tmp_path: Path) -> None:
    start = {"MODEL": {"WEIGHTS": str(train("first", MAX_ITER=2) / "model.safetensors")}}
    second = train("second", MAX_ITER=3, changes=start)
    other = {"MODEL": {"WEIGHTS": str(train("third", MAX_ITER=1) / "model.safetensors")}}
    for changes in (other, {}):
        with pytest.raises(ConfigError, match=r"weights that it started from \(MODEL.WEIGHTS\): were "):
            train("second", resume=True, MAX_ITER=4, changes=changes)
    train("second", resume=True, MAX_ITER=4, changes=start)
    train("second", resume=True, MAX_ITER=5, config=second)  # its own folder says all that is needed
    assert len(curve(second)) == 5


def test_places_and_times_do_not_count(
    train: Train, own_data: Path, own_clip: Path, training_config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same data and the same CLIP elsewhere, touched: the same run."""
    share = {"DATASETS": {"TEST": ("25%",)}}
    whole = train("whole", changes=share)
    with monkeypatch.context() as patch:
        killed_at(patch, 4)
        with pytest.raises(KeyboardInterrupt):
            train("part", changes=share)
    moved, clip = own_data.with_name("moved"), own_clip.with_name("other clip")
    own_data.rename(moved)
    own_clip.rename(clip)
    for file in (moved / "images").iterdir():
        os.utime(file, (1, 1))
    text = training_config.read_text().replace(str(own_data), str(moved)).replace(str(own_clip), str(clip))
    training_config.write_text(text)
    assert curve(train("part", resume=True, changes=share)) == curve(whole)


def as_before(folder: Path) -> None:
    """Make a run look as an earlier version has left it: settings and weights in last.pt, and no other record."""
    state = torch.load(folder / "last.pt", weights_only=True)
    for key in ("weights", "data", "steps"):
        del state[key]
    torch.save(state, folder / "last.pt")
    for name in ("config.yaml", "classes.json", "data.jsonl", "training.json"):
        (folder / name).unlink()


def test_runs_of_earlier_versions_are_adopted_on_request(train: Train) -> None:
    folder = train(MAX_ITER=3)
    (folder / "model.safetensors").unlink()
    as_before(folder)
    with pytest.raises(ConfigError, match=r"an earlier version has not recorded them; .*--resume --adopt"):
        train(resume=True)
    train(resume=True, adopt=True)
    assert len(curve(folder)) == 8 and (folder / "config.yaml").exists()
    assert torch.load(folder / "last.pt", weights_only=True)["steps"] == 8


def test_sections_that_were_renamed_are_the_same_settings(tmp_path: Path) -> None:
    from ovseg.engine.identity import Identity

    saved = {"settings": {"MODEL.MAFT.QUERIES": "100", "SEED": "0"}}
    now = Identity({"MODEL.MAFTPlus.QUERIES": "50", "SEED": "0"}, {}, ())
    assert now.changes(saved, tmp_path)[:-1] == ["MODEL.MAFTPlus.QUERIES was 100, is 50"]
    same = Identity({"MODEL.MAFTPlus.QUERIES": "100", "SEED": "0"}, {}, ())
    assert len(same.changes(saved, tmp_path)) == 1


@pytest.mark.parametrize("step", [2, 4, 6])
def test_a_share_that_is_held_out_stays_so(train: Train, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Killed and resumed: the same images, the same curve, the same numbers."""
    share = {"DATASETS": {"TEST": ("25%",)}, "TEST": {"EVAL_PERIOD": 3}}
    whole = train("whole", changes=share)
    with monkeypatch.context() as patch:
        killed_at(patch, step)
        with pytest.raises(KeyboardInterrupt):
            train("part", changes=share)
    part = train("part", resume=True, changes=share)
    assert HeldOut.read(part) == HeldOut.read(whole) and curve(part) == curve(whole)
    numbers = [[row for row in rows(folder) if "loss" not in row] for folder in (whole, part)]
    assert numbers[0] == numbers[1] and [row["step"] for row in numbers[0]] == [2, 5, 7]
    first, second = (load_file(folder / "model.safetensors") for folder in (whole, part))
    assert all(torch.equal(first[key], second[key]) for key in first)
    with pytest.raises(ConfigError, match="images: 2 removed"):
        train("part", resume=True, changes={"DATASETS": {"TEST": ("40%",)}})


def test_a_validation_that_a_kill_has_cut_off_is_made_up_for(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    share = {"DATASETS": {"TEST": ("25%",)}}
    whole = train("whole", changes=share)
    with monkeypatch.context() as patch:
        patch.setattr("ovseg.engine.hooks.validate", lambda model, tests: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train("part", changes=share)
    assert (whole.parent / "part/model.safetensors").exists()  # the model was written first
    part = train("part", resume=True, changes=share)
    assert [row for row in rows(part) if "loss" not in row] == [row for row in rows(whole) if "loss" not in row]
    train("part", resume=True, changes=share)
    assert len([row for row in rows(part) if "loss" not in row]) == 1  # and once


def test_a_drawn_seed_is_kept(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        killed_at(patch, 4)
        with pytest.raises(KeyboardInterrupt):
            train(changes={"SEED": -1})
    folder = train(changes={"SEED": -1}, resume=True)
    seed = json.loads((folder / "training.json").read_text())["seed"]
    log = (folder / "log.txt").read_text()
    assert f"the seed {seed} was drawn" in log and f"the seed {seed} is that of the run" in log
    assert f"SEED: {seed}\n" in (folder / "config.yaml").read_text()
    assert curve(folder) == curve(train("whole", changes={"SEED": seed})) != curve(train("other", changes={"SEED": -1}))


def test_a_model_is_not_overwritten_by_another_run(train: Train) -> None:
    folder = train(MAX_ITER=1)
    (folder / "last.pt").unlink()
    with pytest.raises(InputError, match="holds a model and no run to go on with; choose another OUTPUT_DIR"):
        train(MAX_ITER=1)


def test_adopt_needs_resume(training_config: Path) -> None:
    with pytest.raises(ConfigError, match=r"--adopt goes on .*; give --resume, too"):
        run.train(str(training_config), {}, adopt=True)


def test_a_second_log_never_ends_a_training(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorBoard in its own way of failing."""
    from torch.utils.tensorboard import SummaryWriter

    def fail(*_: object, **__: object) -> None:
        raise ValueError("no board")

    monkeypatch.setattr(SummaryWriter, "add_scalar", fail)
    folder = train()
    assert len(curve(folder)) == 8 and (folder / "log.txt").read_text().count("TensorBoard is left out") == 1
    monkeypatch.setattr(SummaryWriter, "__init__", fail)
    assert "TensorBoard is left out" in (train("b") / "log.txt").read_text()


def test_where_a_run_goes_on_is_said(train: Train) -> None:
    folder = train(resume=True, MAX_ITER=3)
    train(resume=True, MAX_ITER=3)
    log = (folder / "log.txt").read_text()
    assert "--resume: there is no run in" in log and "has 3 steps, and SOLVER.MAX_ITER is 3: nothing is left" in log


def test_missing_weights_are_said_before_the_data_are_read(train: Train, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"nix\.pt does not exist"):
        train(changes={"MODEL": {"WEIGHTS": str(tmp_path / "nix.pt")}})
    assert "looking at" not in (tmp_path / "run/log.txt").read_text()
