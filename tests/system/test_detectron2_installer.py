from __future__ import annotations

import base64
import csv
import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

from ovseg.errors import EnvironmentProblem
from ovseg.system import detectron2_installer


@pytest.fixture
def installer() -> ModuleType:
    return detectron2_installer


@pytest.fixture
def wheel(tmp_path: Path, installer: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small wheel laid out as the pinned one, with its checksum pinned in its place."""
    path = tmp_path / "download" / "sal_detectron2-0.7.2-cp310-none-any.whl"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("detectron2/__init__.py", "__version__ = '0.6'\n")
        archive.writestr("detectron2/_C.cpython-310-x86_64-linux-gnu.so", b"\x7fELF")
        archive.writestr("detectron2/model_zoo/configs/Base.yaml", "VERSION: 2\n")
        for name, (old, _) in installer.ADAPTED.items():
            archive.writestr(name, f"def f():\n    {old}\n")
        archive.writestr("tools/train_net.py", "raise SystemExit\n")
        archive.writestr(f"{installer.DIST_INFO}/LICENSE", "Apache License\n")
        archive.writestr(f"{installer.DIST_INFO}/METADATA", "Name: sal-detectron2\nRequires-Dist: numpy<2\n")
    monkeypatch.setattr(installer, "SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    return path


@pytest.fixture
def site(tmp_path: Path) -> Path:
    folder = tmp_path / "site-packages"
    folder.mkdir()
    return folder


def run_command(*arguments: str, path: Path) -> subprocess.CompletedProcess[str]:
    """Run the installer in a fresh interpreter that finds the modules in ``path`` first."""
    environment = {"PYTHONPATH": str(path), "PATH": "", "PIP_NO_INDEX": "1"}
    command = [sys.executable, "-m", "ovseg.cli", "install-detectron2", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def fake_detectron2(folder: Path, data: str = "") -> Path:
    package = folder / "fake" / "detectron2"
    package.mkdir(parents=True)
    for name, text in {"__init__": "", "config": "", "data": data, "structures": ""}.items():
        (package / f"{name}.py").write_text(text)
    return package


def test_unpacks_the_python_part_only(installer: ModuleType, wheel: Path, site: Path) -> None:
    installer.unpack(wheel, site)
    assert sorted(path.name for path in site.iterdir()) == ["detectron2", installer.DIST_INFO]
    assert not list(site.rglob("*.so"))
    assert (site / "detectron2" / "model_zoo" / "configs" / "Base.yaml").read_text() == "VERSION: 2\n"
    for name, (old, new) in installer.ADAPTED.items():
        text = (site / name).read_text()
        assert new in text and old not in text.replace(new, "")
        compile(text, name, "exec")


def test_metadata_names_the_origin_and_every_file(installer: ModuleType, wheel: Path, site: Path) -> None:
    installer.unpack(wheel, site)
    info = site / installer.DIST_INFO
    assert installer.VERSION in (info / installer.ORIGIN_FILE).read_text()
    assert "Requires-Dist" not in (info / "METADATA").read_text()
    rows = list(csv.reader((info / "RECORD").read_text().splitlines()))
    listed = {row[0]: row for row in rows}
    assert set(listed) == {path.relative_to(site).as_posix() for path in site.rglob("*") if path.is_file()}
    content = (site / "detectron2" / "__init__.py").read_bytes()
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    assert listed["detectron2/__init__.py"][1:] == [f"sha256={digest}", str(len(content))]


def test_unpacking_twice_replaces(installer: ModuleType, wheel: Path, site: Path) -> None:
    installer.unpack(wheel, site)
    (site / "detectron2" / "stale.py").write_text("")
    installer.unpack(wheel, site)
    assert not (site / "detectron2" / "stale.py").exists()
    assert len(list(site.iterdir())) == 2


def test_a_wheel_of_another_checksum_is_refused(
    installer: ModuleType, wheel: Path, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installer, "SHA256", "0" * 64)
    monkeypatch.setattr(installer, "download_wheel", lambda folder: wheel)
    with pytest.raises(EnvironmentProblem, match=r"has sha256 [0-9a-f]{64}, expected 0{64}"):
        installer.install_pinned_wheel(site)
    assert not list(site.iterdir())


def test_a_changed_line_leaves_nothing_behind(
    installer: ModuleType, wheel: Path, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = next(iter(installer.ADAPTED))
    monkeypatch.setitem(installer.ADAPTED, name, ("a line that is not there", ""))
    with pytest.raises(EnvironmentProblem, match="lacks the line"):
        installer.unpack(wheel, site)
    assert not list(site.iterdir())


def test_the_download_asks_for_the_pinned_tags(
    installer: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[list[str]] = []

    def pip(arguments: list[str], fix: str, show: bool = False) -> None:
        calls.append(arguments)
        (tmp_path / "a.whl").write_bytes(b"")

    monkeypatch.setattr(installer, "_pip", pip)
    assert installer.download_wheel(tmp_path) == tmp_path / "a.whl"
    text = " ".join(calls[0])
    assert "--no-deps --only-binary=:all: --python-version 3.10 --implementation cp" in text
    assert "sal-detectron2==0.7.2" in text


def test_no_network_is_one_line(installer: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "PIP_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    with pytest.raises(EnvironmentProblem, match=r"`pip download` failed .*check the network") as caught:
        installer.download_wheel(tmp_path)
    assert "\n" not in str(caught.value)


def test_an_environment_without_pip_gets_pythons_own(
    installer: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(installer, "has_pip", lambda: False)
    monkeypatch.setattr(installer, "BRING_PIP", [sys.executable, "-c", "print('brought')"])
    installer.bring_pip()
    assert "brought by ensurepip" in capsys.readouterr().out
    monkeypatch.setattr(installer, "BRING_PIP", [sys.executable, "-c", "import a_missing_module"])
    with pytest.raises(EnvironmentProblem, match=r"ensurepip failed \(ModuleNotFoundError.* `uv pip install --python"):
        installer.bring_pip()


def test_a_site_folder_without_write_access_is_one_line(
    installer: ModuleType, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installer.os, "access", lambda path, mode: False)  # root may write everywhere
    with pytest.raises(EnvironmentProblem, match=r"no write access .* virtual environment"):
        installer.install_pinned_wheel(site)


def test_keeps_an_importable_detectron2(tmp_path: Path) -> None:
    package = fake_detectron2(tmp_path)
    done = run_command(path=package.parent)
    assert (done.returncode, done.stdout) == (0, f"detectron2: keeping {package}\n"), done.stderr


def test_a_detectron2_that_does_not_import_is_named(tmp_path: Path) -> None:
    package = fake_detectron2(tmp_path, data="import a_missing_module")
    done = run_command(path=package.parent)
    assert done.returncode == 2
    assert done.stderr.startswith("error: Detectron2 is installed but does not import (ModuleNotFoundError: No module")
    assert done.stderr.count("\n") == 1 and "pip uninstall" in done.stderr


def test_from_source_builds_before_it_replaces(installer: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def pip(arguments: list[str], fix: str, show: bool = False) -> None:
        calls.append(arguments[0])
        if arguments[0] == "wheel":
            assert "--no-build-isolation" in arguments and arguments[-1] == "/a/checkout"
            raise EnvironmentProblem("`pip wheel` failed")

    monkeypatch.setattr(installer, "_pip", pip)
    with pytest.raises(EnvironmentProblem, match="`pip wheel` failed"):
        installer.install("/a/checkout")
    assert calls == ["wheel"]


def test_the_installed_detectron2_serves_what_the_toolkit_uses() -> None:
    code = (
        "from detectron2.config import CfgNode, get_cfg\n"
        "from detectron2.data import DatasetCatalog, MetadataCatalog\n"
        "from detectron2.engine import DefaultTrainer, launch\n"
        "from detectron2.evaluation import DatasetEvaluator, SemSegEvaluator\n"
        "from detectron2.modeling import META_ARCH_REGISTRY\n"
        "from detectron2.structures import BitMasks, Instances\n"
        "from detectron2.utils.registry import Registry\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
