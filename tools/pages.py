"""Pages of the documentation that are made by a tool: written, or only compared with what is there."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from ovseg.errors import OvsegError
from ovseg.system.files import atomic_write


def run(page: Callable[[], str], file: Path, tool: str, doc: str | None, argv: list[str] | None) -> int:
    """Be the command line of such a tool.

    Args:
        page: Makes the text.
        file: Where it belongs.
        tool: Name of the tool, for messages.
        doc: Its help.
        argv: Arguments; None are those of the process.

    Returns:
        The exit status: 1 where ``--check`` finds another text, 2 where the page cannot be made.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only compare; status 1 if it is not up to date")
    args = parser.parse_args(argv)
    try:
        text = page()
    except OvsegError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if args.check:
        current = file.is_file() and file.read_text(encoding="utf-8") == text
        print(f"{file.name} is up to date" if current else f"{file.name} is out of date; run tools/{tool}")
        return int(not current)
    with atomic_write(file) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return 0
