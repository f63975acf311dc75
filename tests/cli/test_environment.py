"""Odd surroundings: no home, no cache, streams that are closed or full, signals. Commands answer, or say one line."""

from __future__ import annotations

import json
import os
import pwd
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ovseg.cli import COMMANDS, main
from ovseg.cli.process import Output, typed
from ovseg.system.cache_dir import cache_advice, house_libraries

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "ovseg.cli"]


@pytest.fixture
def no_home(monkeypatch):
    """Let nobody know of a home, as in a container with an unknown user."""

    def unknown(_):
        raise KeyError("uid not found")

    for name in ("HOME", "OVSEG_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    keep_environment(monkeypatch)


@pytest.fixture
def home_that_is_no_place(monkeypatch, tmp_path):
    """A home in which nothing can be made, which stops the superuser too: a file is in its place."""
    (tmp_path / "home").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("OVSEG_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    keep_environment(monkeypatch)


def keep_environment(monkeypatch):
    """Bring back afterwards what `house_libraries` sets."""
    for name in (
        "MPLCONFIGDIR",
        "TORCHINDUCTOR_CACHE_DIR",
        "TRITON_CACHE_DIR",
        "HF_HOME",
        "TORCH_HOME",
        "FVCORE_CACHE",
    ):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


CASES = {
    "doctor": (["doctor"], {0, 1}),
    "demo": (["demo", "--output", "o"], {0}),
    "models": (["models"], {0}),
    "models --json": (["models", "--json"], {0}),
    "cache": (["cache"], {0, 2}),
    "cache --clear": (["cache", "--clear"], {0, 2}),
    "cache --remove": (["cache", "--remove", "fast", "--yes"], {2}),
    "download": (["download", "fast"], {2}),
    "segment": (["segment", "a.png", "--classes", "a", "--output", "o"], {0}),
    "label": (["label", "a.png", "--classes", "a", "--model", "mini", "--output", "o"], {0}),
    "serve": (["serve", "--model", "no-such-model"], {2}),
    "datasets status": (["datasets", "status"], {0, 1}),
    "compare": (["compare", "none", "neither"], {2}),
    "eval": (["eval", "--model", "mini", "--dataset", "none", "--output", "o"], {2}),
    "train": (["train", "--config-file", "none.yaml"], {2}),
    "build-ops": (["build-ops"], {2}),
    "export-checkpoint": (["export-checkpoint", "none"], {2}),
    "export": (["export", "mini", "--output", "a.onnx"], {2}),
    "push": (["push", "none", "me/shapes", "--dry-run"], {2}),
    "install-detectron2": (["install-detectron2"], {0}),
    "segment ~nobody": (["segment", "a.png", "--model", "~nobody/x", "--classes", "a", "--output", "o"], {2}),
    "eval ~nosuchuser": (["eval", "--model", "mini", "--dataset", "~nosuchuser/x", "--output", "o"], {2}),
    "train ~nosuchuser": (
        ["train", "--config-file", "san/san_mini_scenes.yaml", "--data", "none", "MODEL.WEIGHTS", "~nosuchuser/x"],
        {2},
    ),
}


def test_every_command_is_in_the_matrix():
    assert {name.split()[0] for name in CASES} == set(COMMANDS)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("home", ["no_home", "home_that_is_no_place"])
def test_every_command_ends_with_an_answer_or_one_line(case, home, request, capsys, tmp_path, monkeypatch):
    request.getfixturevalue(home)
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (16, 12)).save("a.png")
    words, expected = CASES[case]
    status = main(words)
    out, err = capsys.readouterr()
    assert status in expected, err
    assert "Traceback" not in out + err
    if status == 2:
        assert err.startswith("error: ") and err.count("\n") == 1
    else:
        assert out


@pytest.mark.parametrize("home", ["no_home", "home_that_is_no_place"])
@pytest.mark.parametrize("model", ["mini", "maskclip/mini"])
def test_segment_goes_on_without_a_cache(home, model, request, capsys, photo, tmp_path):
    request.getfixturevalue(home)
    arguments = ["segment", str(photo), "--classes", "cat, dog", "--model", model, "--device", "cpu"]
    assert main([*arguments, "--templates", "simple", "--output", str(tmp_path / "out")]) == 0
    out, err = capsys.readouterr()
    assert "1 of 1 images segmented" in out and "1 warning" in out
    (warning,) = [line for line in err.splitlines() if not line.startswith("note: ")]
    assert "going on with embeddings in memory" in warning
    advised = err.partition("export OVSEG_CACHE=")[2].partition("`")[0]
    assert os.access(Path(advised).parent, os.W_OK)


@pytest.mark.parametrize("what", ["file", "read-only"])
def test_a_cache_that_cannot_be_written(what, capsys, photo, tiny_clip, tmp_path, monkeypatch):
    place = tmp_path / "cache"
    if what == "file":
        place.touch()
    else:
        (place / "text").mkdir(parents=True)
        real = Path.mkdir

        def refuse(self, *given, **options):  # permissions would not stop the superuser
            if "text" in self.parts and not self.exists():
                raise OSError(30, "Read-only file system")
            real(self, *given, **options)

        monkeypatch.setattr(Path, "mkdir", refuse)
    monkeypatch.setenv("OVSEG_CACHE", str(place))
    arguments = ["segment", str(photo), "--classes", "cat, dog", "--model", str(tiny_clip), "--device", "cpu"]
    assert main([*arguments, "--output", str(tmp_path / "out")]) == 0
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "export OVSEG_CACHE=" in err and "going on with embeddings in memory" in err


def test_libraries_get_a_place(no_home, monkeypatch, tmp_path):
    house_libraries()
    for name in ("MPLCONFIGDIR", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
        assert os.access(Path(os.environ[name]).parent, os.W_OK)
        monkeypatch.delenv(name)
    assert "HF_HOME" not in os.environ  # what is downloaded is not for a folder that ends with the process
    monkeypatch.setenv("OVSEG_CACHE", str(tmp_path / "cache"))
    house_libraries()
    assert Path(os.environ["HF_HOME"]).parent == Path(os.environ["MPLCONFIGDIR"]).parent == tmp_path / "cache"


def test_libraries_are_left_alone_where_there_is_a_home(monkeypatch, tmp_path):
    keep_environment(monkeypatch)
    monkeypatch.setenv("HOME", str(tmp_path))
    house_libraries()
    assert "MPLCONFIGDIR" not in os.environ
    assert cache_advice() == 'export OVSEG_CACHE="$HOME/ovseg-cache"'


@pytest.mark.skipif(os.name != "posix" or os.getuid() != 0, reason="only the superuser becomes another user")
def test_an_unknown_user_in_an_empty_environment(tiny_clip, photo, tmp_path):
    """As `docker run --user 12345` has it: HOME=/, which cannot be written."""
    for folder in (tmp_path, *tmp_path.parents[:2], tiny_clip, *tiny_clip.parents[:2]):
        folder.chmod(0o777)
    command = [*COMMAND, "segment", photo, "--classes", "cat, dog", "--model", tiny_clip, "--output", tmp_path / "out"]
    environment = {"HOME": "/", "PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    user = {"user": 12345, "group": 12345, "extra_groups": []}
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, cwd=tmp_path, **user
        )
    except PermissionError:
        pytest.skip("the interpreter is closed to other users")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr and (tmp_path / "out" / "photo.json").exists()


@pytest.fixture
def three(pixels, tmp_path):
    (tmp_path / "three").mkdir()
    for name in "abc":
        Image.fromarray(pixels).save(tmp_path / "three" / f"{name}.png")
    return tmp_path / "three"


@pytest.mark.parametrize("way", ["closed", "full", "pipe"])
def test_stdout_that_cannot_be_written_costs_no_result(way, three, tiny_clip, tmp_path):
    if way == "full" and not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    out = tmp_path / "out"
    words = (
        f"segment {three} --classes cat,dog --model {tiny_clip} --templates simple --device cpu --json --output {out}"
    )
    how = {"closed": ">&-", "full": "> /dev/full", "pipe": "| head -c 1; exit ${PIPESTATUS[0]}"}[way]
    shell = f"{' '.join(COMMAND)} {words} {how}"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == {"closed": 0, "full": 1, "pipe": 1}[way]
    lines = done.stderr.splitlines()
    assert [line[:43] for line in lines] == ["error: standard output cannot be written (N"] * (way == "full")
    assert len(list(out.iterdir())) == 9


def test_a_stream_that_fails_is_remembered_and_the_rest_dropped(tmp_path):
    class Full:
        def write(self, text):
            raise OSError(28, "No space left on device")

        def fileno(self):
            raise OSError

    stream = Output(Full())
    print("a", file=stream)
    print("b", file=stream, flush=True)
    assert stream.problem.errno == 28


@pytest.mark.slow
@pytest.mark.parametrize(("name", "status"), [("SIGTERM", 143), ("SIGHUP", 129)])
def test_signals_leave_no_temporary_files(name, status, tiny_clip, pixels, tmp_path):
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    for index in range(40):
        Image.fromarray(np.roll(pixels, index, 1)).resize((400, 300)).save(photos / f"{index:02d}.jpg")
    command = [*COMMAND, "segment", photos, "--classes", "cat, dog", "--output", out]
    command += ["--model", tiny_clip, "--templates", "simple", "--device", "cpu"]
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    heeds = partial(signal.signal, getattr(signal, name), signal.SIG_DFL)  # whatever nohup or a CI makes of it
    with subprocess.Popen(command, **streams, cwd=ROOT, preexec_fn=heeds) as process:
        deadline = time.monotonic() + 120
        while len(list(out.glob("[!.]*.json"))) < 3 and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.005)
        process.send_signal(getattr(signal, name))
        _, stderr = process.communicate()
    assert process.returncode == status, stderr
    assert stderr == "interrupted; what was written before is complete\n"
    assert not list(out.glob(".*"))
    for report in out.glob("*.json"):  # written last
        assert json.loads(report.read_text())["width"] == 400 and (out / f"{report.stem}.overlay.png").exists()


def test_ascii_terminals(three, tiny_clip, tmp_path):
    """Under LC_ALL=C without Python's own remedy words arrive as bytes and letters cannot be printed."""
    (three / "a.png").rename(three / "café.png")
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    arguments = ["--model", tiny_clip, "--templates", "simple", "--device", "cpu", "--output", tmp_path / "out"]
    run = [*COMMAND, "segment", three, "--classes", "bärenklau, 犬", *arguments]
    done = subprocess.run(run, capture_output=True, text=True, check=False, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out" / "café.json").read_text(encoding="utf-8"))
    assert [entry["name"] for entry in report["classes"]] == ["bärenklau", "犬"]
    missing = [*COMMAND, "segment", tmp_path / "nö.png", "--classes", "ä", *arguments]
    done = subprocess.run(missing, capture_output=True, text=True, check=False, cwd=ROOT, env=environment)
    assert done.returncode == 2 and "not found" in done.stderr and done.stderr.count("\n") == 1


def test_typed_words():
    assert typed("cat, dög") == "cat, dög"
    assert typed(os.fsdecode(b"caf\xe9")) == os.fsdecode(b"caf\xe9")  # no UTF-8: left as it is
