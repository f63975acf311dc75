"""List or clear the text embeddings that are kept on disk."""

from __future__ import annotations

import argparse

EXAMPLES = """\
examples:
  ovseg cache
  ovseg cache --clear
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``ovseg cache``."""
    parser.add_argument("--clear", action="store_true", help="delete all cached embeddings")


def run(args: argparse.Namespace) -> int:
    """Print what is cached, or delete it."""
    from rich.table import Table
    from rich.text import Text

    from ovseg.system import terminal
    from ovseg.system.cache_dir import cache_path
    from ovseg.vocabulary import TextCache

    cache = TextCache(cache_path() / "text")
    if args.clear:
        print(f"cleared {cache.clear() / 1e6:.1f} MB in {cache.folder}")
        return 0
    view = Table(title=Text(str(cache.folder)), title_justify="left")
    for column in ("model", "templates", "texts", "MB"):
        view.add_column(column, justify="left" if column == "model" else "right")
    for entry in cache.entries():
        view.add_row(Text(entry.model), str(entry.templates), str(entry.texts), f"{entry.size / 1e6:.2f}")
    terminal.console().print(view)
    print(f"{cache.size() / 1e6:.1f} MB of at most {cache.limit / 1e6:.0f} MB; clear with `ovseg cache --clear`")
    return 0
