"""The files by which a project presents itself: they name what is there, and the version that is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from ovseg import __version__

ROOT = Path(__file__).parents[1]


def test_the_version_that_is_cited_is_this_one() -> None:
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == __version__


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "SECURITY.md"])
def test_paths_that_are_named_are_there(name: str) -> None:
    text = (ROOT / name).read_text()
    named = re.findall(r"`((?:ovseg|configs|tests|tools|docs|requirements)/[\w/.]*)", text)
    named += re.findall(r"\]\(([\w/.]+)\)", text)
    for path in named:
        assert (ROOT / re.split("NAME|METHOD", path)[0]).exists(), path
    assert named


def test_forms_and_hooks_can_be_read() -> None:
    for file in (ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml"):
        form = yaml.safe_load(file.read_text())
        assert file.name == "config.yml" or {"name", "description", "body"} <= form.keys()
    (local,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [hook["entry"].split()[0] for hook in local["hooks"]] == [".venv/bin/ruff"] * 2 + [".venv/bin/mypy"]
