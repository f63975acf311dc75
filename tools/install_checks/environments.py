"""Interpreters and environments for the checks of an installation; the standard library alone is needed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "SYSTEMROOT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")
"""Variables of this shell that a check sees, beside those of pip and uv: no PYTHONPATH, no settings of ovseg."""


class CannotCheck(Exception):
    """Something that a check needs is not here; the message says what."""


@dataclass(frozen=True)
class Environment:
    """A virtual environment.

    Attributes:
        folder: Where it is.
    """

    folder: Path

    @property
    def bin(self) -> Path:
        """The folder of its programs."""
        return self.folder / ("Scripts" if os.name == "nt" else "bin")

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.bin / "python"

    def variables(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return the variables of a shell in which this environment is active and nothing else is set."""
        kept = {name: os.environ[name] for name in os.environ if name in KEPT or name.startswith(("PIP_", "UV_"))}
        path = os.pathsep.join([str(self.bin), kept.get("PATH", os.defpath)])
        return {**kept, "PATH": path, "VIRTUAL_ENV": str(self.folder), "OMP_NUM_THREADS": "2", **(more or {})}

    def run(
        self, command: Sequence[str | Path], folder: Path, more: Mapping[str, str] | None = None, timeout: float = 1800
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in a folder, with this environment active; standard error goes with standard output."""
        first, *rest = map(str, command)
        known = shutil.which(first, path=str(self.bin)) or first
        return subprocess.run(
            [known, *rest],
            cwd=folder,
            env=self.variables(more),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
        )


def call(command: Sequence[str | Path], **options: object) -> str:
    """Run a command of this shell; return what it printed.

    Raises:
        CannotCheck: It failed, or is not there.
    """
    words = [str(word) for word in command]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]
    except OSError as error:
        raise CannotCheck(f"`{words[0]}` cannot be run ({error.strerror})") from error
    if done.returncode:
        reason = last_line(done.stderr) or last_line(done.stdout)
        raise CannotCheck(f"`{' '.join(words[:4])} ...` failed with exit status {done.returncode}: {reason}")
    return str(done.stdout)


def last_line(text: str) -> str:
    """Return the last line of a text that holds anything."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


def find_python(version: str) -> Path:
    """Find an interpreter: on the path, or among those of pyenv.

    Args:
        version: Such as ``3.10``.

    Raises:
        CannotCheck: There is none.
    """
    if found := shutil.which(f"python{version}"):
        works = subprocess.run([found, "-c", "pass"], capture_output=True, check=False).returncode == 0
        if works:  # pyenv puts programs on the path that only say which version to choose
            return Path(found)
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    inside = sorted(versions.glob(f"{version}.*/bin/python3"))
    if not inside:
        raise CannotCheck(f"there is no Python {version} here")
    return inside[-1]


def make_environment(python: Path, folder: Path) -> Environment:
    """Make an empty environment with pip.

    Raises:
        CannotCheck: Python's `venv` does not work.
    """
    call([python, "-m", "venv", "--clear", folder])
    return Environment(folder)


def find_uv(tools: Path) -> Path:
    """Return uv: that on the path, else one from the package index, in an environment of its own.

    Raises:
        CannotCheck: It cannot be had.
    """
    if found := shutil.which("uv"):
        return Path(found)
    environment = Environment(tools)
    if not (environment.bin / "uv").exists():
        make_environment(Path(sys.executable), tools)
        call([environment.python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "uv"])
    return environment.bin / "uv"


def build(folder: Path) -> Path:
    """Build a source distribution of this checkout, and of that alone the wheel.

    Args:
        folder: Where both go.

    Returns:
        The wheel.

    Raises:
        CannotCheck: Something cannot be built.
    """
    tools = make_environment(Path(sys.executable), folder / "build-tools")
    call([tools.python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "build"])
    dist = folder / "dist"
    call([tools.python, "-m", "build", "--outdir", dist, ROOT])  # without flags: the wheel is built from the sdist
    shutil.rmtree(tools.folder)
    (wheel,) = dist.glob("*.whl")
    (_,) = dist.glob("*.tar.gz")
    return wheel


def missing_files(wheel: Path) -> list[str]:
    """Return what a checkout has and its wheel lacks: modules, data of the package, configs, examples."""
    wanted = {f"ovseg/{path.relative_to(ROOT / 'ovseg').as_posix()}" for path in _files(ROOT / "ovseg")}
    wanted |= {
        f"ovseg/zoo/configs/{path.relative_to(ROOT / 'configs').as_posix()}" for path in _files(ROOT / "configs")
    }
    wanted |= {f"ovseg/serve/examples/{path.name}" for path in _files(ROOT / "examples")}
    with zipfile.ZipFile(wheel) as archive:
        return sorted(wanted - set(archive.namelist()))


def _files(folder: Path) -> list[Path]:
    """Return what git knows below a folder; everything but caches where this is no checkout of git."""
    try:
        listed = call(["git", "ls-files", "-z", "--", folder], cwd=ROOT).split("\0")
        return [ROOT / name for name in listed if name and (ROOT / name).is_file()]
    except CannotCheck:
        return [path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
