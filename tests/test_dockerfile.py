"""The Dockerfile takes what is there, runs as nobody special, and starts what the pages say; a linter reads it, too."""

from __future__ import annotations

import fnmatch
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = re.sub(r"\\\n\s*", " ", (ROOT / "Dockerfile").read_text())
LINES = [line for line in TEXT.splitlines() if line.strip() and not line.startswith("#")]


def of(instruction: str) -> list[str]:
    return [line.removeprefix(f"{instruction} ") for line in LINES if line.startswith(f"{instruction} ")]


def test_images_have_a_version() -> None:
    assert all(re.match(r"python:\$\{PYTHON\}-slim\b", image) for image in of("FROM")) and of("FROM")
    assert "PYTHON=3.12" in of("ARG")


def test_what_the_wheel_is_built_from_is_copied_and_nothing_else() -> None:
    """In order: the last rule that fits decides."""
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line]

    def sent(path: str) -> bool:
        fits = [rule for rule in rules if fnmatch.fnmatch(path, rule.removeprefix("!").replace("**/", "*"))]
        return bool(fits) and fits[-1].startswith("!")

    manifest = [line.split()[1] for line in (ROOT / "MANIFEST.in").read_text().splitlines() if line.startswith("graft")]
    for name in (
        "setup.py",
        "pyproject.toml",
        "README.md",
        "MANIFEST.in",
        "LICENSE",
        "ovseg",
        "requirements",
        *manifest,
    ):
        assert sent(name) and (ROOT / name).exists(), name
    assert not any(sent(name) for name in (".git", ".venv", "tests", "tools", "data", "runs", "output"))


def test_it_ends_as_an_ordinary_user_who_may_write_to_the_cache() -> None:
    assert of("USER") == ["1000"] and "--uid 1000 ovseg" in TEXT
    assert "OVSEG_CACHE=/cache" in TEXT and "chown ovseg /cache" in TEXT and of("VOLUME") == ["/cache"]
    assert max(LINES.index(line) for line in LINES if line.startswith("RUN")) < LINES.index("USER 1000")


def test_the_command_is_one_of_ovseg() -> None:
    from ovseg.cli import build_parser

    assert json.loads(of("ENTRYPOINT")[0]) == ["ovseg"]
    args = build_parser().parse_args(json.loads(of("CMD")[-1]))
    assert args.command == "serve" and str(args.port) in of("EXPOSE")
    health = json.loads(of("HEALTHCHECK")[0].split(" CMD ", 1)[1])
    compile(health[-1].strip(), "health check", "exec")
    assert f"{args.port}" in health[-1] and "/health" in health[-1]


def test_the_extras_are_there() -> None:
    (extras,) = (line.removeprefix("EXTRAS=") for line in of("ARG") if line.startswith("EXTRAS="))
    known = (ROOT / "setup.py").read_text()
    assert all(f'"{extra}": [' in known for extra in extras.split(","))


def test_hadolint_has_nothing_to_say() -> None:
    if (hadolint := shutil.which("hadolint")) is None:
        pytest.skip("hadolint is not installed")
    done = subprocess.run([hadolint, str(ROOT / "Dockerfile")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
