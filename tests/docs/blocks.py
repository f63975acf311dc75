"""The blocks of code of a Markdown page, and what the comments right before them say of how they are run.

A comment is a line of its own before the fence, and several may follow one another:

- ``<!-- not run: WHY -->``: not run here;
- ``<!-- run with: OLD => NEW; OLD => NEW -->``: run with other words in some places, so that it is quick;
- ``<!-- fails: TEXT -->``: ends with an error that says TEXT;
- ``<!-- file: PATH -->``: is written to that file of the page's folder;
- ``<!-- serves: TEXT -->``: goes on until it is ended, once it has printed TEXT;
- ``<!-- while running: COMMAND -->``: runs while COMMAND, which prints an address when it is ready, runs beside it;
- ``<!-- goes on -->``: Python that takes over the names of the Python block before;
- ``<!-- prints -->``: what the block before prints, among other lines; ``...`` stands for anything.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RUN = ("bash", "python")
SHOWN = ("", "text", "json", "yaml", "html", "dockerfile", "toml")
"""Languages of blocks that are read, not run."""
MARKS = {
    "not run": True,
    "run with": True,
    "fails": True,
    "file": True,
    "serves": True,
    "while running": True,
    "goes on": False,
    "prints": False,
}
"""What comments may say, and whether there is more behind it."""


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        line: Of its fence, from 1.
        language: What stands behind the fence.
        code: Its lines, without the margin of the fence.
        marks: What the comments before it say, by their first words.
    """

    line: int
    language: str
    code: str
    marks: dict[str, str]

    def to_run(self) -> str:
        """Return the code with the words that the tests put in place.

        Raises:
            ValueError: A word that is to be replaced is not there.
        """
        code = self.code
        for pair in filter(None, self.marks.get("run with", "").split(";")):
            old, sign, new = (part.strip() for part in pair.partition(" => "))
            if not sign or old not in code:
                raise ValueError(f"line {self.line}: 'run with: {pair.strip()}' fits nothing in the block")
            code = code.replace(old, new)
        return code


def pages() -> list[Path]:
    """Return all pages whose blocks are run."""
    return [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "datasets/README.md",
        *sorted((ROOT / "docs").glob("*.md")),
    ]


def read(page: Path) -> list[Block]:
    """Return the blocks of a page.

    Raises:
        ValueError: A comment is misspelt or stands before no block, or a fence does not end.
    """
    blocks: list[Block] = []
    marks: dict[str, str] = {}
    lines = iter(enumerate(page.read_text(encoding="utf-8").splitlines(), 1))
    for number, line in lines:
        if comment := re.fullmatch(r"\s*<!-- ([a-z ]+?)(?:: (.+?))? -->", line):
            name, text = comment[1], comment[2] or ""
            if name in MARKS:
                if MARKS[name] != bool(text):
                    raise ValueError(f"{page.name} line {number}: '{name}' {'lacks its text' if not text else text}")
                marks[name] = text
                continue
        fence = re.match(r"(\s*)(`{3,})(\S*)", line)
        if marks and not fence:
            raise ValueError(f"{page.name} line {number}: {', '.join(marks)} stands before no block")
        if fence:
            margin, ticks, language = fence.groups()
            code = []
            for _, inner in lines:
                if inner.strip() == ticks:
                    break
                code.append(inner.removeprefix(margin))
            else:
                raise ValueError(f"{page.name} line {number}: the block does not end")
            blocks.append(Block(number, language, "\n".join(code) + "\n", marks))
            marks = {}
    return blocks


def indented(page: Path) -> list[str]:
    """Return lines that Markdown shows as code without a fence: four spaces behind an empty line, outside of lists."""
    found, fenced, before = [], False, ""
    for line in page.read_text(encoding="utf-8").splitlines():
        fenced ^= bool(re.match(r"\s*```", line))
        if not fenced and line.startswith("    ") and not before.strip() and not re.match(r"\s*([-*]|\d+\.) ", line):
            found.append(line)
        before = line
    return found
