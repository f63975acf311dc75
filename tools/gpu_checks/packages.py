"""What a machine without a network lacks, from a folder of wheels; and how that folder is filled elsewhere."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

ROOT = Path(__file__).resolve().parents[2]
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
GIVEN = ("torch", "triton", "nvidia-")  # what the machine must have: gigabytes that fit its driver


def requirements() -> list[str]:
    """Return what the package itself asks for, read from setup.py without setuptools, which may be missing."""
    taken: dict[str, Any] = {}
    fake, command = ModuleType("setuptools"), ModuleType("setuptools.command.build_py")
    fake.__dict__.update(
        setup=lambda **options: taken.update(options), Distribution=object, find_packages=lambda **_: []
    )
    command.__dict__["build_py"] = object
    modules = {"setuptools": fake, "setuptools.command": ModuleType("setuptools.command"), command.__name__: command}
    with mock.patch.dict(sys.modules, modules):
        runpy.run_path(str(ROOT / "setup.py"))
    return list(taken["install_requires"])


def name_of(requirement: str) -> str:
    """Return the name of a package without its bounds, such as ``torch`` of ``torch>=2.4``."""
    found = re.match(r"[\w.-]+", requirement)
    return found[0] if found else requirement


def missing() -> list[str]:
    """Return the requirements whose packages are not installed."""
    lacking = []
    for requirement in requirements():
        try:
            metadata.version(name_of(requirement))
        except metadata.PackageNotFoundError:
            lacking.append(requirement)
    return lacking


def install(wheels: Path) -> str:
    """Install what is missing from a folder, without a network; return what was done, in a line.

    Raises:
        RuntimeError: The folder lacks something.
    """
    lacking = missing()
    if lacking:
        _call([*PIP, "install", "--quiet", "--no-index", "--find-links", str(wheels), *lacking])
    options = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels)} if wheels.is_dir() else {}
    with mock.patch.dict("os.environ", options):
        told = _call([sys.executable, "-m", "ovseg.cli", "install-detectron2"]).strip().splitlines()[-1]
    return f"{', '.join(map(name_of, lacking)) or 'nothing'} installed; {told}"


def download(wheels: Path) -> str:
    """Fill a folder with wheels of everything but torch, for a Python and system like this one.

    Raises:
        RuntimeError: Something cannot be had.
    """
    from ovseg.system.detectron2_installer import check_sha256, download_wheel

    wheels.mkdir(parents=True, exist_ok=True)
    constraints = ROOT / "requirements/constraints.txt"
    _call([*PIP, "wheel", "--quiet", "--wheel-dir", str(wheels), "-c", str(constraints), *requirements(), "setuptools"])
    for path in wheels.glob("*.whl"):
        name = path.name.split("-")[0].replace("_", "-") + "-"
        if name.startswith(tuple(f"{given.rstrip('-')}-" for given in GIVEN)):
            path.unlink()
    check_sha256(download_wheel(wheels))
    files = list(wheels.glob("*.whl"))
    return f"{len(files)} wheels, {sum(path.stat().st_size for path in files) / 2**20:.0f} MiB in {wheels}"


def _call(command: list[str]) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        errors = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        told = next((line for line in errors if line.lower().startswith("error")), errors[-1] if errors else "")
        raise RuntimeError(f"`{' '.join(command[1:5])} ...` failed: {told}")
    return done.stdout
