"""What the package asks for, and that what its messages and pages tell people to install is there."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from ovseg import __version__

ROOT = Path(__file__).parents[1]
WANTED = {"web", "label", "cluster", "export", "sam3", "hf", "heif", "tiff", "crf", "train", "test", "all"}


READ_SETUP = """
import json, runpy, setuptools
found = {}
setuptools.setup = lambda **given: found.update(given)
runpy.run_path("setup.py")
print(json.dumps({key: found[key] for key in ("install_requires", "extras_require")}))
"""


@pytest.fixture(scope="module")
def metadata() -> dict[str, Any]:
    """What setup.py asks for; from another process, for setuptools wants to be imported before distutils."""
    done = subprocess.run([sys.executable, "-c", READ_SETUP], cwd=ROOT, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


def documented(node: ast.AST) -> bool:
    return isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None


def test_the_extras(metadata: dict[str, Any]) -> None:
    extras = metadata["extras_require"]
    assert extras.keys() >= WANTED
    assert extras["label"] == extras["cluster"]
    users = {need for name, needs in extras.items() if name not in ("test", "docs") for need in needs}
    assert users == set(extras["all"])


def test_every_package_has_a_lower_bound_and_a_version_that_is_tested(metadata: dict[str, Any]) -> None:
    lines = (ROOT / "requirements/constraints.txt").read_text().splitlines()
    tested = {}
    for one in (Requirement(line) for line in lines if line and not line.startswith("#")):
        tested.setdefault(one.name.replace("_", "-").lower(), []).append(str(one.specifier).removeprefix("=="))
    needs = metadata["install_requires"] + [need for extra in metadata["extras_require"].values() for need in extra]
    for need in map(Requirement, needs):
        assert any(one.operator == ">=" for one in need.specifier), f"{need} has no lower bound"
        versions = tested.get(need.name.replace("_", "-").lower(), [])
        outside = [version for version in versions if not need.specifier.contains(version, prereleases=True)]
        assert not outside, f"{need}, but {outside} is tested"


def test_extras_that_messages_and_pages_name_are_there(metadata: dict[str, Any]) -> None:
    named: dict[str, list[str]] = {}
    folders = (ROOT / name for name in ("ovseg", "docs", "tools", "configs", "datasets", "examples"))
    files = [file for folder in folders for file in folder.rglob("*") if file.suffix in (".py", ".md", ".yaml", ".js")]
    for file in [*files, ROOT / "README.md", ROOT / "Makefile", ROOT / "CONTRIBUTING.md"]:
        for extras in re.findall(r"(?:ovseg|whl|-e '?\"?\.)\[([a-z0-9_,-]+)\]", file.read_text(encoding="utf-8")):
            for extra in extras.split(","):
                named.setdefault(extra, []).append(str(file.relative_to(ROOT)))
    assert {"web", "hf", "cluster", "crf"} <= named.keys()
    unknown = {extra: files for extra, files in named.items() if extra not in metadata["extras_require"]}
    assert not unknown


def test_packages_that_messages_name_come_by_an_extra(metadata: dict[str, Any]) -> None:
    """What is in an extra for users is installed by its name, so that its lower bound holds."""
    extras = [needs for name, needs in metadata["extras_require"].items() if name not in ("test", "docs")]
    needs = [need for extra in extras for need in extra]
    ours = {Requirement(need).name.replace("_", "-").lower() for need in needs}
    for file in (ROOT / "ovseg").rglob("*.py"):
        for package in re.findall(r"pip install ([a-zA-Z][\w-]+)", file.read_text(encoding="utf-8")):
            assert package.replace("_", "-").lower() not in ours, f"{file}: pip install {package}"


def test_messages_do_not_send_people_to_files_that_a_wheel_has_not() -> None:
    """What lies in the repository alone is called so: `ovseg` itself is all that an installation is sure to have."""
    for file in (ROOT / "ovseg").rglob("*.py"):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        docs = {id(node.body[0].value) for node in ast.walk(tree) if documented(node)}
        shown = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in docs]
        for text in (node.value for node in shown if isinstance(node.value, str)):
            for found in re.finditer(r"\b(tools|datasets|requirements|tests)/\w+\.(py|sh|md|txt)", text):
                assert text[found.end() :].startswith(" of the repository"), f"{file}: {text}"


def test_the_newest_section_of_the_changelog_is_this_version() -> None:
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), flags=re.M)
    assert headings[0] == "Unreleased"
    releases = [re.fullmatch(r"(\d+\.\d+\.\d+) \((\d{4}-\d{2}-\d{2})\)", heading) for heading in headings[1:]]
    assert all(releases), f"expected '## X.Y.Z (YYYY-MM-DD)', got {headings[1:]}"
    found = [(tuple(map(int, one[1].split("."))), one[2]) for one in releases if one]
    assert found == sorted(found, reverse=True) and len(set(found)) == len(found)
    assert releases[0] is not None and releases[0][1] == __version__
