"""Comparisons on data whose answer is known."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ovseg.data.dataset import PANOPTIC, SEMANTIC
from ovseg.errors import ConfigError, InputError
from ovseg.evaluation import PanopticEvaluator, SemanticEvaluator
from ovseg.evaluation.metrics.segments import from_labels
from ovseg.evaluation.reports.compare import bootstrap_weights, compare, numbers, read_entries, statistics
from ovseg.evaluation.reports.compare_report import (
    BOTH,
    FIRST,
    NEITHER,
    OTHER,
    difference_map,
    markdown,
    write_comparison,
)
from ovseg.evaluation.reports.finish import finish
from ovseg.evaluation.runs.plan import Plan
from ovseg.evaluation.runs.run import Job, evaluate

SIZE = (20, 20)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Ten images, half cat and half sofa, and predictions of which a share is right."""
    folder = tmp_path / "data"
    for name in ("images", "labels", "perfect", "half", "worse"):
        (folder / name).mkdir(parents=True)
    truth = np.zeros(SIZE, np.uint8)
    truth[10:] = 1
    for i in range(10):
        Image.fromarray(np.full((*SIZE, 3), 9 * i, np.uint8)).save(folder / f"images/{i}.png")
        Image.fromarray(truth).save(folder / f"labels/{i}.png")
        Image.fromarray(truth).save(folder / f"perfect/{i}.png")
        Image.fromarray(truth if i % 2 else 1 - truth).save(folder / f"half/{i}.png")
        worse = truth.copy()
        worse[: i + 1] = 1
        Image.fromarray(worse).save(folder / f"worse/{i}.png")
    (folder / "classes.txt").write_text("cat\nsofa\nmoon\n")
    return folder


def runs(data: Path, *names: str, **options: Any) -> list[Path]:
    folders = [data.parent / f"run-{name}" for name in names]
    for name, folder in zip(names, folders, strict=True):
        found = evaluate([Job(Plan(str(data), predictions=str(data / name), **options), folder)])
        assert found is not None
        finish(found)
    return folders


def test_numbers_are_those_of_the_evaluators() -> None:
    rng = np.random.default_rng(0)
    semantic, panoptic = SemanticEvaluator(5), PanopticEvaluator(5)
    tables: dict[str, list[np.ndarray]] = {SEMANTIC: [], PANOPTIC: []}
    for _ in range(6):
        truth = rng.integers(-1, 4, (6, 6)).repeat(3, 0).repeat(3, 1)
        guess = np.where(rng.random(truth.shape) < 0.8, truth, rng.integers(-1, 5, truth.shape))
        tables[SEMANTIC].append(semantic.add(truth, guess).table(5))
        tables[PANOPTIC].append(panoptic.add(from_labels(truth), from_labels(guess)).table(5))
    sums = {task: np.stack(rows).sum(0, keepdims=True).astype(float) for task, rows in tables.items()}
    found = {**numbers(SEMANTIC, sums[SEMANTIC]), **numbers(PANOPTIC, sums[PANOPTIC])}
    whole = semantic.evaluate()
    for name in ("miou_present", "miou_all", "pixel_accuracy"):
        assert found[name][0] == pytest.approx(getattr(whole, name), abs=1e-12)
    assert found["pq"][0] == pytest.approx(panoptic.evaluate().overall.pq, abs=1e-12)


def test_intervals_of_known_data(data: Path) -> None:
    """A perfect model has no spread; of one that is right on every other image the share right is binomial."""
    summary, _ = compare(runs(data, "perfect", "half", "worse"), resamples=2000, seed=3)
    perfect, half, worse = summary["models"]
    assert perfect["numbers"]["miou_present"] == {"value": 1, "low": 1, "high": 1}
    assert perfect["numbers"]["miou_all"]["value"] == pytest.approx(2 / 3, abs=1e-6)
    assert perfect["difference"]["miou_present"] == {"value": 0, "low": 0, "high": 0, "better": 0.5}
    share = half["numbers"]["pixel_accuracy"]
    assert share["value"] == 0.5
    assert (share["low"], share["high"]) == (0.2, 0.8)  # the 2.5 % and 97.5 % points of Binomial(10, 1/2)
    gap = half["difference"]["pixel_accuracy"]
    assert (gap["value"], gap["low"], gap["high"]) == (-0.5, -0.8, -0.2) and gap["better"] < 0.01
    assert worse["difference"]["miou_present"]["high"] < 0
    assert summary["classes"][0]["name"] in ("cat", "sofa") and len(summary["classes"]) == 2


def test_the_bootstrap_is_paired(data: Path) -> None:
    """Two equal models differ by nothing in every resampled data set, however much their numbers spread."""
    first = runs(data, "worse")[0]
    again = data.parent / "again"
    found = evaluate([Job(Plan(str(data), predictions=str(data / "worse")), again)])
    assert found is not None
    finish(found)
    summary, _ = compare([first, again], resamples=200)
    number, gap = summary["models"][1]["numbers"]["miou_present"], summary["models"][1]["difference"]["miou_present"]
    assert number["low"] < number["value"] < number["high"]
    assert gap == {"value": 0, "low": 0, "high": 0, "better": 0.5}


def test_resampled_numbers_equal_a_loop(data: Path) -> None:
    """A resampled data set is one in which images stand as often as they were drawn."""
    entries, shared = read_entries(runs(data, "half", "worse"))
    table = statistics(entries[1], shared, SEMANTIC)
    assert table is not None
    weights = bootstrap_weights(len(shared), 20, 1)
    assert (weights.sum(1) == len(shared)).all() and (weights == bootstrap_weights(len(shared), 20, 1)).all()
    fast = numbers(SEMANTIC, np.einsum("bn,nrk->brk", weights, table))["miou_present"]
    for row, value in zip(weights, fast, strict=True):
        drawn = np.repeat(table, row.astype(int), axis=0).sum(0, keepdims=True)
        assert numbers(SEMANTIC, drawn)["miou_present"][0] == value


def test_files(data: Path, tmp_path: Path) -> None:
    summary, entries = compare(runs(data, "half", "perfect"), resamples=50)
    write_comparison(tmp_path / "out", summary, entries)
    assert json.loads((tmp_path / "out/compare.json").read_text()) == summary
    table = (tmp_path / "out/compare.md").read_text().splitlines()
    assert len(table) == 4 and table[2].startswith(f"| {data / 'perfect'} | 100.0 [100.0, 100.0]")
    assert "+" in table[2] and table == markdown(summary).splitlines()
    text = (tmp_path / "out/compare.html").read_text()
    assert not re.search(r"https?://", text) and "both wrong" in text and text.count("data:image/png") == 8 * 5
    assert "<b>0.png</b>" in text and "<b>1.png</b>" not in text.split("<b>0.png</b>")[0]  # the largest gaps first


def test_difference_map() -> None:
    truth = np.array([[0, 0, 0, 0, -1]])
    drawn = difference_map(truth, np.array([[0, 0, 1, 1, 0]]), np.array([[0, 1, 0, 1, 0]]))
    assert [tuple(pixel) for pixel in drawn[0].tolist()] == [BOTH, FIRST, OTHER, NEITHER, (255, 255, 255)]


def test_images_that_failed_somewhere_are_left_out_and_settings_that_differ_are_said(data: Path) -> None:
    (data / "half/3.png").unlink()
    folders = [*runs(data, "half"), *runs(data, "perfect", seed=4)]
    summary, _ = compare(folders, resamples=10)
    assert summary["images"] == 9
    assert "9 images were evaluated by all; 1 by some only, and are left out" in summary["notes"]
    assert any(note.startswith("different seeds: ") for note in summary["notes"])


def test_what_cannot_be_compared_is_refused(data: Path, tmp_path: Path) -> None:
    first = runs(data, "half")[0]
    with pytest.raises(ConfigError, match="got 1 folder to compare"):
        compare([first])
    with pytest.raises(InputError, match=r"holds no result\.json"):
        compare([first, tmp_path / "nothing"])
    with pytest.raises(ConfigError, match="--resamples is 0"):
        compare([first, first], resamples=0)
    second = runs(data, "perfect", limit=4)[0]
    with pytest.raises(InputError, match=r"are of different things \(images: 6 removed \(4\.png, "):
        compare([first, second])


def test_missing_images_cost_pictures_only(data: Path, tmp_path: Path) -> None:
    folders = runs(data, "half", "perfect")
    for path in (data / "images").iterdir():
        path.unlink()
    summary, entries = compare(folders, resamples=10)
    write_comparison(tmp_path / "out", summary, entries)
    assert "data:image/png" not in (tmp_path / "out/compare.html").read_text()


def copy_of(data: Path) -> Path:
    return Path(shutil.copytree(data, data.parent / "elsewhere/data"))


def paint_anew(data: Path, name: str) -> None:
    path = data / name / "0.png"
    values = np.asarray(Image.open(path))
    Image.fromarray(255 - values if name == "images" else 0 * values).save(path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda other: paint_anew(other, "images"), r"images: 1 changed \(0\.png\)"),
        (lambda other: paint_anew(other, "labels"), r"labels: 1 changed \(0\.png\)"),
        (lambda other: (other / "classes.txt").write_text("sofa\ncat\nmoon\n"), "classes: 2 in another order"),
    ],
)
def test_data_of_equal_names_and_other_contents_are_not_compared(
    data: Path, change: Callable[[Path], object], said: str
) -> None:
    first, other = runs(data, "half")[0], copy_of(data)
    change(other)
    with pytest.raises(InputError, match=f"are of different things .*{said}"):
        compare([first, runs(other, "half")[0]])


def test_equal_data_in_another_place_are_compared(data: Path) -> None:
    summary, _ = compare([*runs(data, "half"), *runs(copy_of(data), "perfect")], resamples=10)
    assert summary["images"] == 10 and summary["notes"] == []


def test_other_measures_are_not_compared(data: Path) -> None:
    first, second = runs(data, "half", "perfect")
    result = json.loads((second / "result.json").read_text())
    (second / "result.json").write_text(json.dumps({**result, "measures": 0}))
    with pytest.raises(InputError, match=r"different things \(measures: 1 and 0"):
        compare([first, second])


def test_images_that_have_changed_since_are_not_drawn(data: Path, tmp_path: Path) -> None:
    folders = runs(data, "half", "perfect")
    for path in (data / "images").iterdir():
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(path)
    page = compared(folders, tmp_path)
    assert "data:image/png" not in page and "8 of 8 images are not drawn: they are others by now" in page


def test_pictures_are_not_drawn_in_the_colours_of_other_classes(data: Path, tmp_path: Path) -> None:
    """Not an image has changed, but what the values of the labels mean."""
    folders = runs(data, "half", "perfect")
    assert "data:image/png" in compared(folders, tmp_path)
    (data / "classes.txt").write_text("sofa\ncat\nmoon\n")
    page = compared(folders, tmp_path)
    assert "data:image/png" not in page and "another by now (classes: 2 in another order (cat, sofa" in page


def compared(folders: list[Path], out: Path) -> str:
    write_comparison(out, *compare(folders, resamples=10))
    return (out / "compare.html").read_text()


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("result.json", "[]", "holds no result.json"),
        ("result.json", '{"format": 2}', "result.json' is not whole; run ovseg eval again"),
        ("data.jsonl", "", "data.jsonl' is empty"),
        ("images.jsonl", "1\n", "share no image that was evaluated"),
    ],
)
def test_damaged_runs_are_one_line(data: Path, name: str, content: str, said: str) -> None:
    folders = runs(data, "half", "perfect")
    (folders[1] / name).write_text(content)
    with pytest.raises(InputError, match=said):
        compare(folders)
