"""What lies in the folder of a run: damaged, gone, of somebody else, or at work in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ovseg.errors import InputError
from ovseg.evaluation.runs.claim import FRESH, RESUME
from ovseg.evaluation.runs.plan import Plan
from ovseg.evaluation.runs.run import Job, Run, evaluate
from ovseg.system.lock import only_here


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three images with labels, and predictions of which a part is right."""
    folder, rng = tmp_path / "data", np.random.default_rng(0)
    for name in ("images", "labels", "predictions"):
        (folder / name).mkdir(parents=True)
    for i in range(3):
        Image.fromarray(rng.integers(0, 255, (24, 32, 3), dtype=np.uint8)).save(folder / f"images/{i}.png")
        for name in ("labels", "predictions"):
            Image.fromarray(rng.integers(0, 2, (24, 32), dtype=np.uint8)).save(folder / name / f"{i}.png")
    (folder / "classes.txt").write_text("cat\nsofa\n")
    return folder


def run(data: Path, folder: Path, begin: str = RESUME, predictions: Path | None = None) -> Run:
    plan = Plan(str(data), predictions=str(predictions or data / "predictions"))
    found = evaluate([Job(plan, folder)], begin=begin)
    assert found is not None
    return found[0]


def test_what_is_no_line_of_a_log_does_not_count(data: Path, tmp_path: Path) -> None:
    run(data, tmp_path / "run")
    path = tmp_path / "run/images.jsonl"
    path.write_text("\n".join(["1", "[]", '"x"', '{"a": 1}', *path.read_text().splitlines()[:2]]) + "\n")
    assert run(data, tmp_path / "run").before == 1


def test_images_whose_labels_are_gone_are_done_again(data: Path, tmp_path: Path) -> None:
    first = run(data, tmp_path / "run")
    (tmp_path / "run/labels/1.png").unlink()
    again = run(data, tmp_path / "run")
    assert again.before == 2 and (tmp_path / "run/labels/1.png").is_file()
    assert [one.measured for one in again.log.ordered] == [one.measured for one in first.log.ordered]


def test_nothing_is_written_over_that_no_run_has_written(data: Path, tmp_path: Path) -> None:
    """Ground truth and labels of others lie in folders of the same name."""
    before = {path: path.read_bytes() for path in data.rglob("*") if path.is_file()}
    (tmp_path / "link").symlink_to(data)
    for folder in (data, tmp_path / "link"):
        with pytest.raises(InputError, match="is the data set, which results would mix with"):
            run(data, folder)
    assert before == {path: path.read_bytes() for path in data.rglob("*") if path.is_file()}
    (tmp_path / "mine/labels").mkdir(parents=True)
    (tmp_path / "mine/labels/2.png").write_text("drawn by hand")
    for begin in (RESUME, FRESH):
        with pytest.raises(InputError, match=r"2\.png' is of no run, and would be written over; move it"):
            run(data, tmp_path / "mine", begin)


def test_the_labels_of_a_run_are_not_evaluated_into_it(data: Path, tmp_path: Path) -> None:
    """--fresh would delete what it is about to read."""
    run(data, tmp_path / "run")
    with pytest.raises(InputError, match="labels' would be written over"):
        run(data, tmp_path / "run", FRESH, tmp_path / "run/labels")
    assert len(list((tmp_path / "run/labels").glob("*.png"))) == 3


def test_two_runs_at_once_do_not_meet_in_a_folder(data: Path, tmp_path: Path) -> None:
    """The other one might be of other distractors or another seed, which no line of the log tells."""
    with only_here(tmp_path / "run"), pytest.raises(InputError, match="another process is at work in"):
        run(data, tmp_path / "run", FRESH)
    assert len(run(data, tmp_path / "run").log.good) == 3
    assert not (tmp_path / "run/.lock").exists()
