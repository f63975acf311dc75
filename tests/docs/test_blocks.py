"""Every block of README and docs is run, or says why not; what is not run names commands and options that there are."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from ovseg.cli import COMMANDS, build_parser
from ovseg.data.scenes.bank import Bank
from tests.docs import stage
from tests.docs.blocks import ROOT, RUN, SHOWN, Block, indented, pages, read

FAST = ["README.md"]
"""Pages whose blocks `make test` runs; those of the others are run by `make test-slow`."""
NAMES = [str(page.relative_to(ROOT)) for page in pages()]
LIKE_A_COMMAND = re.compile(r"\s*(\$ |ovseg |python3? |pip |make |docker |uv |import |from \w+ import )")


@pytest.mark.parametrize("name", NAMES)
def test_every_block_is_accounted_for(name: str) -> None:
    for block in read(ROOT / name):
        assert block.language in (*RUN, *SHOWN), f"{name} line {block.line}: nobody runs '{block.language}'"
        block.to_run()
        if block.language not in RUN and "file" not in block.marks:
            hidden = [line for line in block.code.splitlines() if LIKE_A_COMMAND.match(line)]
            assert not hidden, f"{name} line {block.line}: mark the block as bash or python: {hidden[0]}"
    assert not [line for line in indented(ROOT / name) if LIKE_A_COMMAND.match(line)]


@pytest.mark.parametrize("name", [name for name in NAMES if name in FAST])
def test_blocks_run(name: str, tmp_path: Path, tiny_bank: Bank) -> None:
    run_page(ROOT / name, stage.build(tmp_path / "page", tiny_bank))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if name not in FAST])
def test_blocks_of_other_pages_run(name: str, tmp_path: Path, tiny_bank: Bank) -> None:
    run_page(ROOT / name, stage.build(tmp_path / "page", tiny_bank))


def run_page(page: Path, folder: Path) -> None:
    output = python = ""
    for block in read(page):
        if "not run" in block.marks:
            continue
        if block.language in RUN or "file" in block.marks:
            output = stage.run(block, folder, python)
        elif "prints" in block.marks:
            parts = [re.escape(part.strip()) for part in re.split(r"\.\.\.", block.code)]
            assert re.search(r"[\s\S]*?".join(parts), output), f"line {block.line} shows other words than:\n{output}"
        if block.language == "python":
            python = (python if "goes on" in block.marks else "") + block.to_run()


@pytest.mark.parametrize("name", NAMES)
def test_commands_options_targets_and_files_that_are_named_are_there(name: str) -> None:
    """Of all blocks, run or not."""
    targets = re.search(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), re.M)[1].split()
    extras = extras_of_the_package()
    for block in read(ROOT / name):
        for words in commands(block) if block.language == "bash" else ():
            while "=" in words[0] and words[0].split("=")[0].isupper():
                words = words[1:]
            if words[0] == "ovseg":
                check_options(words[1:], f"{name} line {block.line}")
            elif words[0] == "make":
                assert set(word for word in words[1:] if "=" not in word) <= set(targets), block.line
            elif words[0].startswith("python") and words[1:] and words[1].endswith(".py"):
                assert (ROOT / words[1]).is_file() or "file" in block.marks, words[1]
    for asked in re.findall(r"ovseg\[([\w,]+)\]", (ROOT / name).read_text(encoding="utf-8")):
        assert set(asked.split(",")) <= extras, asked


def extras_of_the_package() -> set[str]:
    return set(re.findall(r'^(?:    |EXTRAS\[)"(\w+)"(?:: \[|\] =)', (ROOT / "setup.py").read_text(), re.M))


def test_the_page_on_installing_has_all_extras() -> None:
    table = (ROOT / "docs/install.md").read_text().split("| extra |")[1].split("\n\n")[0]
    assert set(re.findall(r"`(\w+)`(?=[^|]*\|[^|]*\|\n)", table + "\n")) == extras_of_the_package()


def commands(block: Block) -> list[list[str]]:
    """Return the words of each command of a block of bash, as far as they begin a line or stand behind && and |."""
    code = re.sub(r"<<'?(\w+)'?\n.*?\n\1\n", "\n", block.code, flags=re.DOTALL).replace("\\\n", " ")
    found = []
    for line in code.splitlines():
        words = shlex.split(line, comments=True)
        while words:
            end = next((i for i, word in enumerate(words) if word in ("|", "&&", ";", "&", ">", "2>")), len(words))
            found.append(words[:end])
            words = words[end + 1 :]
    return [words for words in found if words]


def check_options(words: list[str], where: str) -> None:
    """Find a subcommand and its options in the parser."""
    if words[0].startswith("--"):
        return
    assert words[0] in COMMANDS, f"{where}: there is no ovseg {words[0]}"
    (subparsers,) = [action for action in build_parser()._actions if hasattr(action, "choices") and action.choices]
    parser = subparsers.choices[words[0]]
    inner = [action for action in parser._actions if isinstance(action.choices, dict)]
    known = set(parser._option_string_actions)
    for action in inner:
        known |= {option for one in action.choices.values() for option in one._option_string_actions}
    for word in words[1:]:
        option = word.split("=")[0]
        assert not option.startswith("--") or option in known, f"{where}: ovseg {words[0]} has no {option}"


def test_what_the_comments_mean(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    for text, message in (
        ("<!-- not run -->\n```bash\n```\n", "lacks its text"),
        ("<!-- fails: x -->\n\n```bash\n```\n", "stands before no block"),
        ("```bash\nls\n", "does not end"),
    ):
        page.write_text(text)
        with pytest.raises(ValueError, match=message):
            read(page)
    page.write_text(
        "<!-- run with: cat => echo; dog => mouse -->\n```bash\ncat dog\n```\n<!-- prints -->\n```\nmo...e\n```\n"
    )
    block, _ = read(page)
    assert block.to_run() == "echo mouse\n"
    (tmp_path / "bin").mkdir()
    run_page(page, tmp_path)
    page.write_text(page.read_text().replace("mo...e", "mo...a"))
    with pytest.raises(AssertionError, match="shows other words"):
        run_page(page, tmp_path)
    page.write_text("<!-- fails: No such file -->\n```bash\nls nowhere\n```\n")
    run_page(page, tmp_path)
    page.write_text("```bash\nls nowhere\n```\n")
    with pytest.raises(AssertionError, match="ended with"):
        run_page(page, tmp_path)
    with pytest.raises(ValueError, match="fits nothing"):
        Block(1, "bash", "ls\n", {"run with": "cat => dog"}).to_run()


def test_the_first_page_is_short() -> None:
    """At most 1,200 words: all between spaces but comments and the signs of Markdown alone; 8 models at most."""
    text = re.sub(r"<!--.*?-->", "", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len([word for word in text.split() if re.search(r"\w", word)]) <= 1200
    table = re.search(r"\n\| [^\n]*model.*?\n\n", text, re.DOTALL)[0].strip().splitlines()
    assert 3 <= len(table) - 2 <= 8


def test_the_way_of_a_newcomer_has_ten_commands() -> None:
    page = ROOT / "docs/quickstart.md"
    start, end = (page.read_text().splitlines().index(f"## {title}") for title in ("Ten commands", "Photographs"))
    blocks = [block for block in read(page) if start < block.line < end]
    assert [len(commands(block)) for block in blocks] == [1] * 10
    assert not any("not run" in block.marks for block in blocks)


def test_the_site_lists_every_page() -> None:
    listed = re.findall(r"[\w/]+\.md", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    there = {path.with_suffix(".md").name for path in (ROOT / "docs").iterdir() if path.suffix in (".md", ".ipynb")}
    assert there <= set(listed), f"give {', '.join(there - set(listed))} a place in the nav of mkdocs.yml"
