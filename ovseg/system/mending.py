"""Runs the lines that mend an installation, one after another, until nothing is left that a line can mend."""

from __future__ import annotations

import importlib.machinery
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

OFFLINE = (
    "without a network: put the packages into a folder on a machine that has one (`pip download`), copy it, and run "
    "this again with PIP_NO_INDEX=1 PIP_FIND_LINKS=THE_FOLDER set; docs/install.md of the project shows how"
)


class Finding(Protocol):
    """What a check has found; see `ovseg.doctor.Check`."""

    @property
    def fix(self) -> str:
        """The shell line that mends it; empty where nothing needs mending."""

    @property
    def by_hand(self) -> bool:
        """Whether only the user can or should run that line."""


Found = TypeVar("Found", bound=Finding)


def has_pip() -> bool:
    """Tell whether this environment has pip.

    Only its folders are asked: who asks the whole import system for pip is taken for pip by setuptools, which then
    cannot be imported any more (`_distutils_hack`), and torch compiles nothing.
    """
    return importlib.machinery.PathFinder.find_spec("pip") is not None


def pip_line(action: str) -> str:
    """Return the beginning of a shell line by which packages come and go: that of pip, or of uv where it made this.

    Args:
        action: ``install`` or ``uninstall``.
    """
    python = shlex.quote(sys.executable)
    if not has_pip() and shutil.which("uv"):
        return f"uv pip {action} --python {python}"
    return f"{python} -m pip {action}"


def mend(
    findings: Sequence[Found], look: Callable[[], Sequence[Found]], say: Callable[[str], None]
) -> tuple[Sequence[Found], list[str]]:
    """Run the lines of what is found, in their order, and look again after each: one line may mend several things.

    Each line runs once at most, so this ends; where nothing is wrong, nothing runs.

    Args:
        findings: What was found first.
        look: Looks anew, in a fresh process: what is imported here stays as it was.
        say: Takes one line for each step.

    Returns:
        What is found in the end, and the lines that failed.
    """
    tried: list[str] = []
    failed: list[str] = []
    while line := next((one.fix for one in findings if one.fix and not one.by_hand and one.fix not in tried), ""):
        tried.append(line)
        say(f"running: {line}")
        status = subprocess.run(line, shell=True, check=False).returncode
        if status:
            failed.append(line)
            say(f"this line failed with exit status {status}")
        findings = look()
    return findings, failed
