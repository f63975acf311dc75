"""List models: licences, size, where the weights come from, and what is installed."""

from __future__ import annotations

import argparse
import json

from rich.console import Console
from rich.table import Table

EXAMPLES = """\
examples:
  ovseg models
  ovseg models --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``ovseg models``."""
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print all cards."""
    from ovseg.zoo import list_models

    cards = list_models()
    if args.json:
        print(json.dumps([card.to_json() for card in cards], indent=1))
        return 0
    view = Table(title="models", title_justify="left", show_lines=True)
    for column in ("name", "what it does", "weights", "size", "weights licence", "installed"):
        view.add_column(column)
    for card in cards:
        size = f"{card.size_mb:.1f} MB" if card.size_mb else "-"
        view.add_row(
            card.name,
            f"{card.summary}\n[dim]{card.paper}[/dim]",
            card.source,
            size,
            card.weights_licence,
            "yes" if card.installed else "at first use",
        )
    Console().print(view)
    print("Every method runs on every CLIP: --model sclip/mini, naclip/ViT-L-14/openai, gem/path/to/folder.")
    return 0
