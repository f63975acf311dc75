"""Building and finding compiled operators: what is made, where it is looked for, and what goes wrong."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from ovseg.cli import main
from ovseg.doctor import check_operators
from ovseg.errors import EnvironmentProblem
from ovseg.ops import build, library

ROOT = Path(__file__).parents[2]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder, and no memory of what was loaded before."""
    monkeypatch.setenv("OVSEG_CACHE", str(tmp_path))
    monkeypatch.setattr(library, "_load", library._load.__wrapped__)
    monkeypatch.setattr(library, "PREBUILT", tmp_path / "prebuilt")
    monkeypatch.delenv(library.SWITCH, raising=False)
    return tmp_path


def test_the_kernels_are_those_of_this_installation(kernels: Path, cache: Path, monkeypatch: Any) -> None:
    assert kernels.name == library.library_name() and torch.__version__ in kernels.name
    assert library.load_kernels() is None and check_operators().ok is None
    (cache / "ops").mkdir()
    shutil.copy(kernels, cache / "ops")
    assert library.load_kernels() == cache / "ops" / kernels.name
    assert all("cpu" in library.kernel_devices(name) for name in library.operators())
    found = check_operators()
    assert found.ok and "mask_pool: cpu" in found.detail and str(cache) in found.detail
    monkeypatch.setenv(library.SWITCH, "torch")
    assert library.load_kernels() is None and "OVSEG_OPS=torch" in check_operators().detail


def test_a_prebuilt_library_comes_first(cache: Path) -> None:
    for folder in (cache / "ops", cache / "prebuilt"):
        folder.mkdir()
        (folder / library.library_name()).touch()
    assert library.find_library() == cache / "prebuilt" / library.library_name()


def test_a_library_that_does_not_load(cache: Path) -> None:
    (cache / "ops").mkdir()
    (cache / "ops" / library.library_name()).write_text("no library")
    with pytest.raises(EnvironmentProblem, match=r"cannot be loaded .*; build them again with `ovseg build-ops`"):
        library.load_kernels()
    found = check_operators()
    assert found.ok is None and "cannot be loaded" in found.detail and found.fix.endswith("build-ops")


def test_without_a_compiler(cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(build, "find_compiler", lambda: None)
    assert main(["build-ops"]) == 2
    assert "there is no C++ compiler" in capsys.readouterr().err
    found = check_operators()
    assert found.ok is None and "no compiler" in found.detail and not found.fix


@pytest.mark.parametrize(("nvcc", "version", "message"), [(None, "13.0", "no nvcc"), ("nvcc", None, "without CUDA")])
def test_cuda_that_cannot_be_built(monkeypatch: Any, tmp_path: Path, nvcc: Any, version: Any, message: str) -> None:
    monkeypatch.setattr(build, "find_compiler", lambda: "g++")
    monkeypatch.setattr(build, "find_nvcc", lambda: nvcc)
    monkeypatch.setattr(torch.version, "cuda", version)
    with pytest.raises(EnvironmentProblem, match=message):
        build.build(tmp_path, cuda=True)


def test_a_compiler_that_fails_says_why(monkeypatch: Any, tmp_path: Path) -> None:
    compiler = build.find_compiler()
    if compiler is None:
        pytest.skip("no C++ compiler")
    (tmp_path / "wrong_cpu.cpp").write_text("int main() { return nothing; }\n")
    monkeypatch.setattr(build, "SOURCES", tmp_path)
    with pytest.raises(EnvironmentProblem, match=r"wrong_cpu.cpp.*\n.*nothing"):
        build.build(tmp_path / "out", cuda=False)
    assert not list((tmp_path / "out").glob("*.so"))


def test_commands_of_the_compilers(monkeypatch: pytest.MonkeyPatch) -> None:
    tools, target = build.Tools("g++", "nvcc"), Path("x.o")
    assert tools.compile(Path("a_cpu.cpp"), target)[0] == "g++"
    assert tools.compile(Path("a_cuda.cpp"), target)[0] == tools.link([target], Path("x.so"))[0] == "nvcc"
    monkeypatch.setattr(build, "run", lambda _: "compute_75\ncompute_90\ncompute_91\n")
    command = [str(word) for word in tools.compile(Path("a.cu"), target)]
    assert [word[-5:] for word in command if "gencode" in word] == ["sm_75", "sm_90"]


def test_the_command_passes_on_what_is_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any) -> None:
    asked = []
    monkeypatch.setattr(build, "build", lambda *wanted: asked.append(wanted[:2]) or wanted[0] or tmp_path / "lib.so")
    assert main(["build-ops"]) == main(["build-ops", "--no-cuda", "--output", str(tmp_path)]) == 0
    assert main(["build-ops", "--cuda"]) == 0
    assert asked == [(None, None), (tmp_path, False), (None, True)]
    assert f"built {tmp_path / 'lib.so'}" in capsys.readouterr().out


def test_an_installation_asks_for_torch_before_it_builds(tmp_path: Path) -> None:
    script = str(ROOT / "setup.py")
    call = f"import pathlib, runpy; runpy.run_path({script!r})['build_operators'](pathlib.Path('.'))"
    (tmp_path / "torch.py").write_text("raise ImportError('none')\n")
    done = subprocess.run(
        [sys.executable, "-c", call, "--version"],
        env={"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1 and "install torch first" in done.stderr, done.stderr
