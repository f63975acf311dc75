from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import warnings
from collections import namedtuple
from pathlib import Path

import pytest
from rich.console import Console

from ovseg import doctor
from ovseg.doctor import Check
from ovseg.errors import EnvironmentProblem
from ovseg.system import cache_dir as cache_module
from ovseg.system.cache_dir import cache_dir

ROOT = Path(__file__).parent.parent
Usage = namedtuple("Usage", "total used free")


def checks_in_subprocess(tmp_path: Path, modules: dict[str, str], **environment: str) -> dict[str, Check]:
    """Run all checks in a fresh interpreter where fake modules stand before the installed ones."""
    for name, text in modules.items():
        path = tmp_path / "fake" / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    code = (
        "import dataclasses, json\nfrom ovseg.doctor import run_checks\n"
        "print(json.dumps([dataclasses.asdict(check) for check in run_checks()]))"
    )
    path = os.pathsep.join([str(tmp_path / "fake"), str(ROOT)])
    env = {**os.environ, "PYTHONPATH": path, "OVSEG_CACHE": str(tmp_path / "cache"), **environment}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {row["name"]: Check(**row) for row in json.loads(done.stdout.splitlines()[-1])}


def test_this_environment_is_healthy(tmp_path: Path) -> None:
    checks = checks_in_subprocess(tmp_path, {})
    broken = {name: check for name, check in checks.items() if check.ok is False and name != "embedded model"}
    assert not broken
    assert {*doctor.PACKAGES, "python", "detectron2", "devices", "operators", "cache", "disk"} < set(checks)
    assert "cpu" in checks["devices"].detail
    assert str(tmp_path / "cache") in checks["cache"].detail


def test_broken_torchvision_is_the_one_cause(tmp_path: Path) -> None:
    blocked = tmp_path / "a file"
    blocked.write_text("")
    message = "operator torchvision::nms does not exist"
    modules = {
        "torchvision": f"raise RuntimeError({message!r})",
        "detectron2": "import torchvision",
        "segment_anything": "import torchvision",
        "open_clip": "import torchvision",
    }
    checks = checks_in_subprocess(tmp_path, modules, OVSEG_CACHE=str(blocked / "cache"))
    assert checks["torch"].ok
    assert message in checks["torchvision"].detail and "beside torch" in checks["torchvision"].detail
    for name in ("torchvision", "open_clip_torch", "segment-anything", "detectron2"):
        assert checks[name].ok is False
        assert checks[name].fix == doctor.TORCH_FIX and checks[name].by_hand  # never another torch without being asked
    assert checks["cache"].ok is False and checks["cache"].fix.startswith("export OVSEG_CACHE=")
    assert str(blocked) in checks["cache"].detail


def test_broken_torch_and_detectron2_do_not_stop_the_checks(tmp_path: Path) -> None:
    modules = {"torch": "raise OSError('libcudart.so.13: cannot open')", "detectron2": "import a_missing_module"}
    checks = checks_in_subprocess(tmp_path, modules)
    assert "libcudart" in checks["torch"].detail and checks["torch"].fix == doctor.TORCH_FIX
    assert checks["devices"].ok is False and checks["devices"].fix == doctor.TORCH_FIX
    assert checks["numpy"].ok and checks["cache"].ok


@pytest.mark.parametrize(
    ("problem", "start"),
    [
        (ModuleNotFoundError("No module named 'detectron2'", name="detectron2"), doctor.sys.executable),
        (ModuleNotFoundError("No module named 'fvcore.common'", name="fvcore.common"), f"{doctor.PIP} fvcore"),
        (RuntimeError("undefined symbol"), f"{doctor.sys.executable} -m pip uninstall -y detectron2"),
    ],
)
def test_detectron2_fixes(monkeypatch: pytest.MonkeyPatch, problem: Exception, start: str) -> None:
    monkeypatch.setattr(doctor, "import_problem", lambda modules: problem)
    check = doctor.check_detectron2({})
    assert check.ok is False and check.fix.startswith(start)
    assert "install-detectron2" in check.fix or "fvcore" in check.fix


def test_package_states(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = doctor.check_package("no-such-package", ["nothing"], ">=1.0", {})
    assert (absent.ok, absent.fix) == (False, f"{doctor.PIP} 'no-such-package>=1.0'")
    old = doctor.check_package("rich", ["rich"], ">=999", {})
    assert (old.ok, old.fix) == (False, f"{doctor.PIP} --upgrade 'rich>=999'")
    assert doctor.check_package("rich", ["rich"], ">=1", {}).ok
    lacking = doctor.check_package("rich", ["rich", "no_such_module"], "", {})
    assert (lacking.ok, lacking.fix) == (False, f"{doctor.PIP} rich")
    monkeypatch.setattr(doctor, "import_problem", lambda modules: RuntimeError("bad build"))
    assert doctor.check_package("rich", ["rich"], "", {}).fix == f"{doctor.PIP} --force-reinstall --no-deps rich"


@pytest.mark.parametrize(("version", "bound", "fits"), [("2.4.0+cpu", ">=2.4", True), ("2.3", ">=2.4", False)])
def test_local_version_parts_do_not_matter(version: str, bound: str, fits: bool) -> None:
    assert doctor.satisfies(version, bound) is fits


def test_an_old_driver_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def unavailable() -> bool:
        warnings.warn("The NVIDIA driver on your system is too old (found version 11040).\nPlease update", stacklevel=2)
        return False

    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", unavailable)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    devices, driver = doctor.check_devices({})
    assert devices.ok and driver.ok is False
    assert "found version 11040" in driver.detail and "\n" not in driver.detail
    assert "torch<2.9" in driver.fix


def test_little_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OVSEG_CACHE", str(tmp_path))
    for free, ok in ((doctor.LOW_DISK - 1, None), (doctor.NO_DISK - 1, False), (doctor.LOW_DISK, True)):
        monkeypatch.setattr(doctor.shutil, "disk_usage", lambda folder, free=free: Usage(free, 0, free))
        disk = doctor.check_cache()[-1]
        assert disk.ok is ok and bool(disk.fix) is (ok is not True)


def test_embedded_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    monkeypatch.setattr(doctor, "MINI", tmp_path)
    assert "open_clip_config.json is missing" in doctor.check_mini().detail
    (tmp_path / "open_clip_config.json").write_text("{}")
    weights = tmp_path / "open_clip_model.safetensors"
    for path in (weights, tmp_path / "san.safetensors"):
        assert f"{path.name} is missing" in doctor.check_mini().detail
        save_file({"a": np.zeros(1000, np.float32)}, path)
    assert doctor.check_mini().ok and doctor.check_mini().detail.startswith("mini: 2 tensors")
    weights.write_bytes(weights.read_bytes()[:-100])
    truncated = doctor.check_mini()
    assert truncated.ok is False and "cannot be read" in truncated.detail and truncated.fix


def test_report_prints_each_fix_once_and_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    fix = "python -m pip install " + " ".join(f"package{number}[extra]" for number in range(20))
    found = [Check("a", True, "1.0"), Check("b", False, "is [broken]", fix), Check("c", False, "too", fix)]
    monkeypatch.setattr(doctor, "run_checks", lambda: found)
    text = io.StringIO()
    assert doctor.report(Console(file=text, width=60)) is False
    assert text.getvalue().count(fix) == 1
    assert "[broken]" in text.getvalue()
    monkeypatch.setattr(doctor, "run_checks", lambda: [found[0], Check("d", None, "a note", "do this")])
    assert doctor.report(Console(file=io.StringIO())) is True


def test_cache_dir_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OVSEG_CACHE", str(tmp_path / "a" / "b"))
    assert cache_dir() == tmp_path / "a" / "b" and cache_dir().is_dir()
    monkeypatch.delenv("OVSEG_CACHE")
    monkeypatch.setattr(cache_module, "platform_cache", lambda: tmp_path / "platform")
    assert cache_dir() == tmp_path / "platform" / "ovseg"


def test_cache_dir_that_cannot_be_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("OVSEG_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(EnvironmentProblem, match=r"cannot create the cache folder .* `export OVSEG_CACHE") as caught:
        cache_dir()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("platform", "variable", "tail"),
    [("linux", "XDG_CACHE_HOME", ".cache"), ("win32", "LOCALAPPDATA", "Local"), ("darwin", None, "Caches")],
)
def test_platform_cache(monkeypatch: pytest.MonkeyPatch, platform: str, variable: str | None, tail: str) -> None:
    monkeypatch.setattr(cache_module.sys, "platform", platform)
    if variable:
        monkeypatch.setenv(variable, "/named")
        assert cache_module.platform_cache() == Path("/named")
        monkeypatch.delenv(variable)
    assert cache_module.platform_cache().name == tail


def test_a_check_that_breaks_down_is_a_finding(monkeypatch):
    def break_down(*_):
        raise RuntimeError("Could not determine home directory.")

    for name in ("check_packages", "check_detectron2", "check_devices", "check_operators", "check_cache", "check_mini"):
        monkeypatch.setattr(doctor, name, break_down)
    checks = doctor.run_checks()
    assert [check.ok for check in checks] == [True] + [False] * 6
    assert all("home directory" in check.detail for check in checks[1:])


def test_fix_runs_what_it_may_and_looks_again(tmp_path, monkeypatch, capsys):
    from ovseg.cli import main

    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    written = tmp_path / "written"
    fix = f"touch {written}"
    broken = [Check("a", False, "is broken", fix), Check("cache", None, "little room", "export A=b", by_hand=True)]
    monkeypatch.setattr(doctor, "run_checks", lambda: broken)
    asked = []

    def afresh():
        asked.append(written.exists())
        return [Check("a", True, "fine now"), broken[1]]

    monkeypatch.setattr(doctor, "run_checks_afresh", afresh)
    assert main(["doctor", "--fix"]) == 0
    out = capsys.readouterr().out
    assert asked == [True] and f"running: {fix}" in out and "fine now" in out and "export A=b" in out
    assert "without a network" not in out
    monkeypatch.setattr(doctor, "run_checks_afresh", lambda: [Check("a", False, "is broken", "exit 1")])
    assert main(["doctor", "--fix"]) == 1
    out = capsys.readouterr().out
    assert "failed with exit status 1" in out and "PIP_FIND_LINKS" in out


def test_checks_afresh_are_those_of_this_installation(tmp_path, monkeypatch):
    monkeypatch.setenv("OVSEG_CACHE", str(tmp_path / "cache"))
    (tmp_path / "tifffile.py").write_text("raise OSError('cut off')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    checks = {check.name: check for check in doctor.run_checks_afresh()}
    assert checks["python"].ok and checks["numpy"].ok and checks["detectron2"].ok
    assert checks["tifffile"].ok is False and "cut off" in checks["tifffile"].detail
    (tmp_path / "json.py").write_text("raise OSError('cut off')")
    with pytest.raises(EnvironmentProblem, match=r"cannot run any more \(OSError: cut off\)"):
        doctor.run_checks_afresh()


def test_commands_name_a_broken_package_in_one_line(tmp_path):
    """As where torch and torchvision come from different indexes."""
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    env = {**os.environ, "PYTHONPATH": path, "OVSEG_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "ovseg.cli", "demo", "--output", str(tmp_path / "out")]
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "torchvision::nms does not exist" in done.stderr and "`ovseg doctor`" in done.stderr
