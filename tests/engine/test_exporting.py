"""A run is a model before its end: its checkpoint, its average; and what must not replace good files."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import ovseg
from ovseg.checkpoint.run_state import require_run_state, save_run_state
from ovseg.cli import main
from ovseg.engine.exporting import export_checkpoint
from ovseg.errors import InputError, TrainingError, WeightsError
from tests.engine.conftest import killed_at

Train = Callable[..., Path]
ROOT = Path(__file__).parents[2]


@pytest.fixture
def killed(train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Train and kill the run in step 5, behind the checkpoint of step 3; returns its folder."""

    def start(**solver: object) -> Path:
        with monkeypatch.context() as patch:
            killed_at(patch, 5)
            with pytest.raises(KeyboardInterrupt):
                train("killed", **solver)
        return tmp_path / "killed"

    return start


EMA = {"EMA": {"ENABLED": True, "DECAY": 0.5}}


@pytest.mark.parametrize("solver", [{}, EMA], ids=["plain", "average"])
def test_a_killed_run_is_a_model(killed: Callable[..., Path], own_data: Path, solver: dict[str, object]) -> None:
    folder = killed(**solver)
    state = torch.load(folder / "last.pt", weights_only=True)
    wanted = {**state["model"], **state["average"]}
    said = "step 3 of 8, the average of its weights" if solver else "step 3 of 8"
    with pytest.warns(UserWarning, match=f"last.pt' is the checkpoint of a training at {said}$"):
        segmenter = ovseg.load(str(folder), "cpu")
    assert torch.equal(segmenter.model.void_row, wanted["void_row"])
    assert (not torch.equal(state["model"]["void_row"], wanted["void_row"])) == bool(solver)
    result = segmenter(own_data / "images/00.jpg")
    assert result.classes.names == ["glorp", "blix"] and result.meta["settings"]["training"] == said


@pytest.mark.parametrize("solver", [{}, EMA], ids=["plain", "average"])
def test_a_checkpoint_is_exported(
    killed: Callable[..., Path], tmp_path: Path, solver: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, into = killed(**solver), tmp_path / "model"
    assert main(["export-checkpoint", str(folder), "--output", str(into)]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("step 3 of 8")
    state = torch.load(folder / "last.pt", weights_only=True)
    found = load_file(into / "model.safetensors")
    assert found.keys() == state["model"].keys()
    assert all(torch.equal(value, state["average"].get(key, state["model"][key])) for key, value in found.items())
    assert sorted(path.name for path in into.iterdir()) == [
        "classes.json",
        "config.yaml",
        "data.jsonl",
        "model.safetensors",
    ]
    assert ovseg.load(str(into), "cpu").model.training_state == ""
    assert main(["export-checkpoint", str(folder / "last.pt")]) == 0 and (folder / "model.safetensors").is_file()


def test_what_cannot_be_exported(killed: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no run \(last.pt\); expected the OUTPUT_DIR"):
        export_checkpoint(tmp_path)
    folder = killed()
    (folder / "config.yaml").unlink()
    with pytest.raises(WeightsError, match=r"has no config.yaml, which .* earlier versions .*--resume --adopt"):
        export_checkpoint(folder)
    (folder / "last.pt").write_bytes(b"broken")
    with pytest.raises(WeightsError, match="is no checkpoint of a run, or is damaged"):
        export_checkpoint(folder)


def test_a_model_that_is_behind_its_run_says_so(
    train: Train, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    folder = train(MAX_ITER=2)
    ovseg.load(str(folder), "cpu")
    assert not [one for one in recwarn if "step" in str(one.message)]
    with monkeypatch.context() as patch:
        killed_at(patch, 5)
        with pytest.raises(KeyboardInterrupt):
            train(resume=True, MAX_ITER=8)
    with pytest.warns(
        UserWarning, match=r"model.safetensors' is of step 2, .* at step 3 of 8 by now; `ovseg export-ch"
    ):
        ovseg.load(str(folder), "cpu")


def test_weights_that_are_not_finite_replace_nothing(train: Train) -> None:
    folder = train(MAX_ITER=3)
    before = (folder / "last.pt").read_bytes()
    raw = require_run_state(folder / "last.pt").raw
    raw["model"] = {**raw["model"], "void_row": raw["model"]["void_row"] * float("nan")}
    with pytest.raises(TrainingError, match=r"after step 3 'void_row' is not finite, so .*last.pt' is not written"):
        save_run_state(folder / "last.pt", raw)
    assert (folder / "last.pt").read_bytes() == before
    torch.save(raw, folder / "last.pt")
    model = (folder / "model.safetensors").read_bytes()
    with pytest.raises(TrainingError, match=r"model.safetensors' is not written"):
        export_checkpoint(folder)
    assert (folder / "model.safetensors").read_bytes() == model


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="no limit of file sizes here")
def test_a_full_disk_is_one_line_and_keeps_the_last_good_file(train: Train, training_config: Path) -> None:
    """The limit of a file's size stands for a disk that is full: the writers of PyTorch and safetensors meet both."""
    folder = train(MAX_ITER=3)
    before = {name: (folder / name).read_bytes() for name in ("last.pt", "model.safetensors")}
    size = len(before["last.pt"]) // 2
    limit = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)"
    limit += f"; resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))"
    words = ["train", "--config-file", str(training_config), "--resume", "OUTPUT_DIR", str(folder)]
    for call in (words, ["export-checkpoint", str(folder)]):
        small = limit if call is words else limit.replace(str(size), "1000")
        code = f"import torch, ovseg.engine.run; {small}\nfrom ovseg.cli import main; raise SystemExit(main({call!r}))"
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
        assert done.stderr.count("\n") == 1 and done.stderr.startswith("error: cannot write '"), done.stderr
        assert {name: (folder / name).read_bytes() for name in before} == before
        assert not list(folder.glob(".*tmp*"))
