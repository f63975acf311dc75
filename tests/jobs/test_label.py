"""Labelling jobs: every image once, whatever is killed, shared out, added, changed or broken."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from ovseg.errors import ConfigError, InputError
from ovseg.jobs.label import labeller as work
from ovseg.jobs.label.here import Here
from ovseg.jobs.label.plan import LabelPlan
from ovseg.jobs.label.run import label
from ovseg.system.lock import only_here
from ovseg.vocabulary import Vocabulary
from tests.conftest import make_photo
from tests.jobs.conftest import CLASSES, assert_same, files_of, start, write_photos, write_video

Ask = Callable[..., LabelPlan]
FORMATS = ("labels", "report", "dataset")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_photos(tmp_path / "photos", 5)


def images(folder: Path) -> list[str]:
    return [json.loads(line)["image"] for line in (folder / "images.jsonl").read_text().splitlines()]


def test_results_are_those_of_the_api_named_after_their_images(plan: Ask, folder: Path, tmp_path: Path) -> None:
    import ovseg
    from ovseg.result.formats.labels import read_label_png

    asked = plan(folder, formats=FORMATS)
    done = label(asked, tmp_path / "out")
    assert [row["image"] for row in done.rows] == ["0000.jpg", "0001.png", "0003.png", "0004.jpg", "deep/0002.jpg"]
    assert (done.total, done.before, done.failed) == (5, 0, [])
    expected = ovseg.load(asked.model, "cpu")(folder / "deep/0002.jpg", CLASSES, templates="none")
    assert (read_label_png(tmp_path / "out/deep/0002.labels.png") == expected.labels).all()
    row = done.rows[-1]
    assert row["score"] == pytest.approx(float(expected.scores.mean()), abs=1e-5)
    assert row["classes"] == [[s.class_id, s.area, pytest.approx(s.score, abs=1e-5)] for s in expected.segments]
    assert (tmp_path / "out/images/0001.png").read_bytes() == (folder / "0001.png").read_bytes()
    assert (tmp_path / "out/review/thumbs/deep/0002.jpg").is_file()
    assert "timings" not in json.loads((tmp_path / "out/0000.json").read_text())["meta"]


def test_bands_are_those_of_frames_too(plan: Ask, tmp_path: Path) -> None:
    write_video(tmp_path / "clips/a.avi", 1)
    scores = [
        label(plan(tmp_path / "clips", bands=bands), tmp_path / f"{bands}").rows[0]["score"]
        for bands in (None, (1, 2, 3), (3, 2, 1))
    ]
    assert scores[0] == scores[1] != scores[2]
    (row,) = label(plan(tmp_path / "clips", bands=(4, 2, 1)), tmp_path / "out").failed
    assert "has 3 bands and bands 4,2,1 were asked for" in row["error"]


def test_a_finished_job_does_nothing_again(
    plan: Ask, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    label(plan(folder), tmp_path / "out")
    before = files_of(tmp_path / "out")
    monkeypatch.setattr(work.Labeller, "_write", lambda *_: pytest.fail("it is done"))
    done = label(plan(folder), tmp_path / "out")
    assert (done.before, len(done.rows)) == (5, 5) and files_of(tmp_path / "out") == before


def test_a_result_that_was_deleted_is_made_again(plan: Ask, folder: Path, tmp_path: Path) -> None:
    label(plan(folder), tmp_path / "out")
    before = files_of(tmp_path / "out")
    (tmp_path / "out/0001.labels.png").unlink()
    assert label(plan(folder), tmp_path / "out").before == 4
    assert files_of(tmp_path / "out") == before


def test_two_processes_equal_one(plan: Ask, folder: Path, tmp_path: Path) -> None:
    for processes in (1, 2):
        label(plan(folder, formats=FORMATS), tmp_path / str(processes), Here(processes))
    assert_same(tmp_path / "1", tmp_path / "2")


def kill_and_resume(arguments: list[Path | str], out: Path, times: int, wait: float) -> int:
    """Kill a job at random moments while images are being labelled, and let it end; returns how often it was killed."""
    rng, killed = random.Random(0), 0
    while killed < times:
        begun = len([*out.rglob("*.labels.png")])
        with start(*arguments, start_new_session=True) as process:
            while process.poll() is None and len([*out.rglob("*.labels.png")]) <= begun:
                time.sleep(0.005)
            time.sleep(rng.random() * wait)
            os.killpg(process.pid, signal.SIGKILL)
            killed += process.wait() == -signal.SIGKILL
    with start(*arguments) as process:
        _, errors = process.communicate()
    assert process.returncode == 0, errors
    return killed


def check_kills(count: int, photos: Path, tiny_clip: Path, tmp_path: Path, processes: str) -> None:
    write_photos(photos, count)
    words = ["--classes", CLASSES, "--model", tiny_clip, "--templates", "none", "--device", "cpu"]
    words += ["--formats", ",".join(FORMATS)]
    with start(photos, *words, "--output", tmp_path / "whole") as process:
        _, errors = process.communicate()
    assert process.returncode == 0, errors
    killed = tmp_path / "killed"
    kill_and_resume([photos, *words, "--output", killed, "--processes", processes], killed, 3, count / 1000)
    assert_same(tmp_path / "whole", tmp_path / "killed")
    assert len(images(tmp_path / "killed")) == len(set(images(tmp_path / "killed"))) == count


@pytest.mark.slow
def test_a_job_that_is_killed_three_times_is_equal_to_the_byte(tiny_clip: Path, tmp_path: Path) -> None:
    check_kills(60, tmp_path / "photos", tiny_clip, tmp_path, "1")


@pytest.mark.slow
@pytest.mark.parametrize("processes", ["1", "2"])
def test_five_hundred_images_killed_three_times(tiny_clip: Path, tmp_path: Path, processes: str) -> None:
    check_kills(500, tmp_path / "photos", tiny_clip, tmp_path, processes)


class Losing(Here):
    """Loses a worker in the middle of a file, as a cluster may; another one does its work."""

    def run(self, plan: LabelPlan, folder: Path, *rest: object) -> None:
        super().run(plan, folder, *rest)  # type: ignore[arg-type]
        (folder / "deep/.0123456789ab.tmp.png").write_bytes(b"half a picture")


def test_a_lost_worker_leaves_no_half_of_a_file(plan: Ask, folder: Path, tmp_path: Path) -> None:
    label(plan(folder), tmp_path / "here")
    label(plan(folder), tmp_path / "out", Losing())
    assert_same(tmp_path / "here", tmp_path / "out")


@pytest.mark.slow
def test_processes_end_with_the_first_one(tiny_clip: Path, tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", 400)
    out = tmp_path / "out"
    words = ["--classes", CLASSES, "--model", tiny_clip, "--templates", "none", "--device", "cpu", "--processes", "2"]
    with start(photos, *words, "--output", out) as process:
        while not [*out.rglob("*.labels.png")] and process.poll() is None:
            time.sleep(0.01)
        process.kill()  # the first one alone, which then can end nobody
    counts = [-2, -1]
    while counts[-1] != counts[-2]:  # until it has come to rest
        time.sleep(1.5)
        counts.append(len([*out.rglob("*.labels.png")]))
    assert 0 < counts[-1] < 400


def logged(out: Path, image: str) -> bool:
    """Tell whether a process has logged an image."""
    return any(f'"{image}"' in log.read_text() for log in out.glob("records/*.jsonl"))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("processes", ["1", "2"])
def test_it_stops_in_order(tiny_clip: Path, tmp_path: Path, number: signal.Signals, processes: str) -> None:
    photos = write_photos(tmp_path / "photos", 300)
    (photos / "0000.jpg").write_text("no image")
    out = tmp_path / "out"
    words = ["--classes", CLASSES, "--model", tiny_clip, "--templates", "none", "--device", "cpu"]
    with start(photos, *words, "--output", out, "--processes", processes, start_new_session=True) as process:
        while not (len([*out.rglob("*.labels.png")]) >= 3 and logged(out, "0000.jpg")) and process.poll() is None:
            time.sleep(0.01)  # of two processes one may be ahead of the other, which has the broken image
        os.killpg(process.pid, number)
        _, errors = process.communicate()
    assert process.returncode == 128 + number
    assert errors.endswith("interrupted; what was written before is complete\n") and "Traceback" not in errors
    assert not [*out.rglob(".*.tmp*")] and not (out / ".lock").exists()
    for path in out.rglob("*.labels.png"):
        Image.open(path).load()
    assert "0000.jpg" in (out / "failed.jsonl").read_text()


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"classes": "cat, red chair|armchair, door"}, r"classes: 1 renamed \(window -> door\)"),
        ({"classes": "cat, window, red chair|armchair"}, r"classes: 2 in another order"),
        ({"formats": ("labels", "report")}, r'formats was \["labels"\], is \["labels", "report"\]'),
        ({"formats": ("png",), "options": {"uint8": True}}, r"options.uint8 was null, is true"),
        ({"background": "words"}, "background was none, is words"),
        ({"templates": "simple"}, "templates was none, is simple"),
        ({"keep_tree": True}, "keep_tree was false, is true"),
        ({"every": 2}, "every was 1, is 2"),
    ],
)
def test_what_was_asked_for_may_not_change(plan: Ask, folder: Path, tmp_path: Path, changed: dict, says: str) -> None:
    out = tmp_path / "out"
    label(plan(folder), out, limit=1)
    before = files_of(out)
    with pytest.raises(
        InputError, match=rf"'{out}' holds labels of something else: .*{says}.*; start anew with --fresh"
    ):
        label(plan(folder, **changed), out)
    assert files_of(out) == before
    asked = plan(folder, **changed)
    label(asked, out, fresh=True)
    label(asked, tmp_path / "other")
    assert_same(out, tmp_path / "other")


def test_other_weights_are_refused(plan: Ask, folder: Path, tmp_path: Path, tiny_clip: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    model = shutil.copytree(tiny_clip, tmp_path / "model")
    label(plan(folder, model=str(model)), tmp_path / "out", limit=1)
    moved = shutil.copytree(model, tmp_path / "elsewhere")
    label(plan(folder, model=str(moved)), tmp_path / "out", limit=2)  # the same weights in another place
    state = load_file(model / "open_clip_model.safetensors")
    save_file(
        {key: value + 0.01 * torch.ones(value.shape) for key, value in state.items()},
        model / "open_clip_model.safetensors",
    )
    with pytest.raises(InputError, match=r"weights_hash was .*, is "):
        label(plan(folder, model=str(model)), tmp_path / "out")


def test_images_that_changed_or_went_are_refused_and_moved_ones_are_the_same(
    plan: Ask, folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    label(plan(folder), out, limit=4)
    moved = Path(shutil.copytree(folder, tmp_path / "moved"))
    Image.fromarray(make_photo(48, 36, seed=99)).save(moved / "deep/0002.jpg")  # not labelled yet
    assert label(plan(moved), out, limit=4).before == 4
    Image.fromarray(make_photo(48, 36, seed=99)).save(moved / "0001.png")
    with pytest.raises(InputError, match=r"images: 1 changed \(0001.png\)"):
        label(plan(moved), out)
    (folder / "0003.png").unlink()
    with pytest.raises(InputError, match=r"images: 1 removed \(0003.png\)"):
        label(plan(folder), out)


def test_an_image_that_is_added_moves_no_name(plan: Ask, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    label(plan(folder), out)
    before = {name: data for name, data in files_of(out).items() if name.endswith(".labels.png")}
    Image.fromarray(make_photo(48, 36, seed=50)).save(folder / "0000.png")  # beside 0000.jpg
    Image.fromarray(make_photo(48, 36, seed=51)).save(folder / "deep/9.png")
    done = label(plan(folder), out)
    assert done.before == 5
    after = {name: data for name, data in files_of(out).items() if name.endswith(".labels.png")}
    assert before.items() <= after.items() and after.keys() - before.keys() == {
        "0000.png.labels.png",
        "deep/9.labels.png",
    }


def test_with_the_tree_kept_a_name_depends_on_its_image_alone(plan: Ask, folder: Path, tmp_path: Path) -> None:
    Image.fromarray(make_photo(48, 36, seed=50)).save(folder / "0000.png")
    done = label(plan(folder, keep_tree=True), tmp_path / "out")
    assert [row["name"] for row in done.rows] == [row["image"] for row in done.rows]
    assert (tmp_path / "out/deep/0002.jpg.labels.png").is_file()


def test_bad_images_are_listed_and_tried_again_on_request(plan: Ask, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    whole = (folder / "0001.png").read_bytes()
    (folder / "0001.png").write_bytes(whole[:200])
    (folder / "raw.dng").write_bytes(b"")
    done = label(plan(folder), out)
    assert [row["image"] for row in done.failed] == ["0001.png", "raw.dng"]
    listed = [json.loads(line) for line in (out / "failed.jsonl").read_text().splitlines()]
    assert [row["image"] for row in listed] == ["0001.png", "raw.dng"]
    assert "0001.png" in listed[0]["error"] and "raw file" in listed[1]["error"]
    (folder / "0001.png").write_bytes(whole)
    (folder / "raw.dng").unlink()
    assert len(label(plan(folder), out).failed) == 1  # not by itself
    assert not label(plan(folder), out, retry=True).failed
    assert not (out / "failed.jsonl").exists()
    label(plan(folder), tmp_path / "other")
    assert_same(out, tmp_path / "other")


def test_an_error_that_nobody_foresaw_costs_its_image_alone(
    plan: Ask, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = work.read_image

    def fails(source, *options):
        if "0001" in str(source):
            raise ZeroDivisionError("odd header")
        return real(source, *options)

    monkeypatch.setattr(work, "read_image", fails)
    (row,) = label(plan(folder), tmp_path / "out").failed
    assert row["error"] == "'0001.png' cannot be read (ZeroDivisionError: odd header)"


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_the_job_goes_on_later(tiny_clip: Path, folder: Path, tmp_path: Path) -> None:
    import resource

    words = ["--classes", CLASSES, "--model", tiny_clip, "--templates", "none", "--device", "cpu"]
    arguments = [folder, *words, "--output", tmp_path / "out", "--formats", "labels,npz"]

    def little_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, 12_000))

    with start(*arguments, preexec_fn=little_room) as process:
        _, errors = process.communicate()
    assert process.returncode == 2 and errors.count("\n") == 1, errors
    assert "(File too large)" in errors and "run the same command again" in errors
    with start(*arguments) as process:
        _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert len(images(tmp_path / "out")) == 5


def test_two_jobs_in_one_folder(plan: Ask, folder: Path, tmp_path: Path) -> None:
    with only_here(tmp_path / "out"), pytest.raises(InputError, match="another process is at work in"):
        label(plan(folder), tmp_path / "out")


def test_files_of_others_are_not_replaced_and_stay_with_fresh(plan: Ask, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    label(plan(folder, formats=("report",)), out)
    (out / "mine.txt").write_text("mine")
    (out / "deep/mine.txt").write_text("mine")
    label(plan(folder, formats=("labels",), classes="cat"), out, fresh=True)
    assert not [*out.rglob("*.json")] == [] or (out / "run.json").is_file()
    assert sorted(path.name for path in out.rglob("*.json")) == ["run.json"]
    assert (out / "mine.txt").read_text() == (out / "deep/mine.txt").read_text() == "mine"
    other = tmp_path / "other"
    other.mkdir()
    (other / "0001.json").write_text("{}")
    with pytest.raises(InputError, match=r"0001\.json' is no result of ovseg"):
        label(plan(folder, formats=("report",)), other)
    (other / "run.json").write_text("{}")
    with pytest.raises(InputError, match="is not of a labelling job"):
        label(plan(folder), other)


def test_a_model_is_named(plan: Ask, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--model auto may be another one tomorrow"):
        label(plan(folder, model="auto"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_plan_and_classes_travel(plan: Ask, folder: Path) -> None:
    asked = plan(folder)
    assert dataclasses.replace(asked, classes=Vocabulary.parse(CLASSES)) == asked
