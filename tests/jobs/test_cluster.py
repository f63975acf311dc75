"""Jobs on a Ray cluster of this machine: the same bytes as here, also where a worker is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ovseg.cli import main
from ovseg.jobs.label import cluster
from ovseg.jobs.label.cluster import Cluster
from ovseg.jobs.label.plan import LabelPlan
from ovseg.jobs.label.run import label
from tests.jobs.conftest import CLASSES, assert_same, files_of, write_photos

ray = pytest.importorskip("ray", reason="extra cluster is not installed")
pytestmark = pytest.mark.slow
Ask = Callable[..., LabelPlan]


@pytest.fixture(scope="module", autouse=True)
def two_workers() -> Iterator[None]:
    ray.init(num_cpus=2, log_to_driver=False, logging_level="ERROR", include_dashboard=False)
    yield
    ray.shutdown()


def actors() -> list[int]:
    """Return the processes that hold the model."""
    found = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True, check=True).stdout
    return [int(line.split()[0]) for line in found.splitlines() if "ray::" in line and "MapBatches" in line]


def test_a_worker_that_is_lost_changes_nothing(plan: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = write_photos(tmp_path / "photos", 120)
    (photos / "0004.jpg").write_text("no image")
    formats = ("labels", "report", "dataset")
    label(plan(photos, formats=formats), tmp_path / "here")
    monkeypatch.setattr(cluster, "BLOCK", 8)
    killed: list[int] = []

    def kill_one(done: int, _total: int, what: str, _failed: int) -> None:
        if what == "images" and done >= 16 and not killed:
            killed.append(actors()[0])
            os.kill(killed[0], signal.SIGKILL)

    done = label(plan(photos, formats=formats), tmp_path / "ray", Cluster(actors=2), kill_one)
    assert killed and len(done.rows) == 120 and len(done.failed) == 1
    assert_same(tmp_path / "here", tmp_path / "ray")


def test_results_in_a_store_are_those_of_a_folder(plan: Ask, tmp_path: Path, tiny_clip: Path) -> None:
    photos = write_photos(tmp_path / "photos", 20)
    label(plan(photos, formats=("labels", "dataset")), tmp_path / "here")
    url = f"file://{tmp_path}/store/job"
    words = ["--classes", CLASSES, "--model", str(tiny_clip), "--templates", "none", "--device", "cpu"]
    command = [
        "label",
        str(photos),
        *words,
        "--formats",
        "labels,dataset",
        "--output",
        url,
        "--ray",
        "--processes",
        "2",
    ]
    assert main([*command, "--limit", "7"]) == 0
    assert main(command) == 0
    assert_same(tmp_path / "here", tmp_path / "store/job")
    assert main([*command, "--templates", "simple"]) == 2
    assert main([*command, "--templates", "simple", "--fresh"]) == 0
    assert files_of(tmp_path / "store/job").keys() == files_of(tmp_path / "here").keys()


def test_mistakes_are_one_line(plan: Ask, tmp_path: Path, capfd: pytest.CaptureFixture[str], tiny_clip: Path) -> None:
    photos = write_photos(tmp_path / "photos", 3)
    words = ["--classes", CLASSES, "--output", str(tmp_path / "out"), "--ray"]
    assert main(["label", str(photos), "--model", str(tmp_path / "nowhere"), *words]) == 2
    assert main(["label", str(photos), "--model", str(tiny_clip), *words[:2], "--output", "s3x://a/b", "--ray"]) == 2
    assert main(["label", str(photos), "--model", str(tiny_clip), *words[:2], "--output", "s3://a/b"]) == 2
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error")]
    assert len(lines) == 3 and "s3x" in lines[1] and "or --ray" in lines[2]


@pytest.mark.parametrize("where", ["", "file://"])
def test_the_first_process_may_be_killed(tmp_path: Path, tiny_clip: Path, plan: Ask, where: str) -> None:
    photos = write_photos(tmp_path / "photos", 300)
    label(plan(photos), tmp_path / "here")
    words = ["--classes", CLASSES, "--model", str(tiny_clip), "--templates", "none", "--device", "cpu", "--ray"]
    call = [sys.executable, "-m", "ovseg.cli", "label", str(photos), "--output", f"{where}{tmp_path}/out", *words]
    with subprocess.Popen(call, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        while not [*tmp_path.glob("out/**/*.labels.png")] and process.poll() is None:
            time.sleep(0.02)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert main(call[3:]) == 0
    assert_same(tmp_path / "here", tmp_path / "out")
