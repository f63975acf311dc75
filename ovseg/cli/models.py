"""List models: licences, size, where the weights come from, and what is installed."""

from __future__ import annotations

import argparse
import json
from typing import Any

EXAMPLES = """\
examples:
  ovseg models
  ovseg models --json
  ovseg models --details sclip/mini
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``ovseg models``."""
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--details", metavar="NAME", help="all settings of one model or config, and the card of its method"
    )


def run(args: argparse.Namespace) -> int:
    """Print all cards, or the details of one model."""
    from ovseg.zoo import list_models

    if args.details:
        found = details(args.details)
        print(json.dumps(found, indent=1) if args.json else _as_yaml(found), end="\n" if args.json else "")
    elif args.json:
        print(json.dumps([card.to_json() for card in list_models()], indent=1))
    else:
        _print_cards()
    return 0


def details(model: str) -> dict[str, Any]:
    """Collect what is known of a model without reading its weights.

    Args:
        model: As for `ovseg.load`; a method alone stands for itself on the default CLIP.

    Returns:
        ``name``, ``settings`` (our part of the config) and ``cards``: of the model itself and of its method.

    Raises:
        OvsegError: As `ovseg.zoo.model_config`.
    """
    from ovseg.zoo import list_models, model_config

    cards = {card.name: card for card in list_models()}
    methods = {name.partition("/")[0]: card for name, card in cards.items() if "/" in name}
    filled = f"{model}/ViT-B-16/openai" if model.casefold() in methods else model
    node = model_config(filled).MODEL
    # Through YAML, Detectron2's own way of writing configs, tuples become lists.
    settings = {key: node[key] for key in ("META_ARCHITECTURE", "CLIP", "RECALIBRATION", "TEXT", "PROTOCOL")}
    plain = json.loads(json.dumps(settings))
    wanted = (cards.get(model.rpartition("/")[2]), methods.get(node.RECALIBRATION.NAME.casefold()))
    return {"name": filled, "settings": plain, "cards": [card.to_json() for card in wanted if card]}


def _as_yaml(found: dict[str, Any]) -> str:
    import yaml

    return yaml.safe_dump(found, sort_keys=False, allow_unicode=True, width=120)


def _print_cards() -> None:
    from rich.console import Console
    from rich.padding import Padding

    from ovseg.zoo import list_models

    console = Console(highlight=False)
    for card in list_models():
        size = f"{card.size_mb:.1f} MB, " if card.size_mb else ""
        state = "installed" if card.installed else "weights fetched at first use"
        console.print(f"[bold]{card.name}[/bold]  ({size}{state})")
        for line in (
            f"{card.summary}{f' ({card.paper})' if card.paper else ''}",
            f"[dim]weights: {card.source}; their licence: {card.weights_licence}[/dim]",
        ):
            console.print(Padding(line, (0, 0, 0, 4)))
    print("\nEvery method runs on every CLIP: --model sclip/mini, naclip/ViT-L-14/openai, gem/path/to/folder.")
    print("All settings of one: `ovseg models --details sclip/mini`.")
