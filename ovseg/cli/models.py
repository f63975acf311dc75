"""List models: licences, size, where the weights come from, and what is installed."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from typing import Any

EXAMPLES = """\
examples:
  ovseg models
  ovseg models --json
  ovseg models --backbones
  ovseg models --details sclip/mini
  ovseg models --details sclip --protocol voc21
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``ovseg models``."""
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--details", metavar="NAME", help="all settings of one model or config, their sources, and its method's card"
    )
    parser.add_argument("--backbones", action="store_true", help="the image-text models that any method runs on")
    parser.add_argument("--protocol", default="", help="with --details: a benchmark such as voc21, or common")


def run(args: argparse.Namespace) -> int:
    """Print all cards, or the details of one model."""
    from ovseg.errors import ConfigError
    from ovseg.zoo import list_models

    if args.protocol and not args.details:
        raise ConfigError(f"--protocol is '{args.protocol}' without a model; name it by --details, or leave it out")
    if args.backbones:
        return show_backbones(args.json)
    if args.details:
        found = details(args.details, args.protocol)
        print(json.dumps(found, indent=1) if args.json else _as_text(found), end="\n" if args.json else "")
    elif args.json:
        print(json.dumps([card.to_json() for card in list_models()], indent=1))
    else:
        _print_cards()
    return 0


def show_backbones(as_json: bool) -> int:
    """Print the image-text models that any method runs on."""
    from ovseg.zoo.backbones import as_text, list_backbones

    print(json.dumps([one.to_json() for one in list_backbones()], indent=1) if as_json else as_text())
    return 0


def details(model: str, protocol: str = "") -> dict[str, Any]:
    """Collect what is known of a model without reading its weights.

    Args:
        model: As for `ovseg.load`; a method alone stands for itself on the default CLIP.
        protocol: As for `ovseg.load`.

    Returns:
        ``name``, ``protocol``, ``settings`` (our part of the config), ``sources`` (where each setting comes from, by
        dotted key), ``protocols`` (those that it or its method has) and ``cards``: its own and that of its method.

    Raises:
        OvsegError: As `ovseg.zoo.model_config`.
    """
    from ovseg.zoo import list_models, resolve
    from ovseg.zoo.names import COMMON, embedded_clip, list_protocols, method_config

    methods = {card.name.partition("/")[0]: card for card in list_models() if "/" in card.name}
    filled = f"{model}/ViT-B-16/openai" if model.casefold() in methods else model
    spec = resolve(filled, protocol)
    node = spec.config.MODEL
    free = node.META_ARCHITECTURE == "TrainingFree"
    own = ("RECALIBRATION", "REGIONS") if free else (node.META_ARCHITECTURE,)
    names = ("META_ARCHITECTURE", "CLIP", *own, "TEXT", "PROTOCOL")
    plain = json.loads(json.dumps({key: node[key] for key in names if key in node}))  # tuples become lists
    method = node.RECALIBRATION.NAME.casefold() if free else ""
    general = methods.get(method)
    wanted = (embedded_clip(spec) if spec.card in (None, general) else spec.card, general)
    return {
        "name": filled,
        "protocol": protocol,
        "settings": plain,
        "sources": spec.sources,
        "protocols": [COMMON, *list_protocols(method_config(method) if free else spec.path)],
        "cards": [card.to_json() for card in wanted if card],
    }


def _as_text(found: dict[str, Any]) -> str:
    """Return the details as YAML, with the source of each setting as a comment behind it."""
    import yaml

    rows = list(_rows(found["settings"], 2, "MODEL."))
    width = max(len(line) for line, _ in rows)
    lines = [
        f"{line:<{width}}  # {found['sources'].get(key, 'default of ovseg')}" if key else line for line, key in rows
    ]
    first, last = (
        yaml.safe_dump({key: found[key] for key in keys}, sort_keys=False, allow_unicode=True, width=120)
        for keys in (("name", "protocol"), ("protocols", "cards"))
    )
    return "\n".join([f"{first}settings:", *lines, last])


def _rows(node: dict[str, Any], indent: int, prefix: str) -> Iterator[tuple[str, str]]:
    """Yield a line of YAML for each key, and the dotted key where it has a value."""
    for key, value in node.items():
        if isinstance(value, dict) and value:
            yield f"{' ' * indent}{key}:", ""
            yield from _rows(value, indent + 2, f"{prefix}{key}.")
        else:
            yield f"{' ' * indent}{key}: {json.dumps(value)}", f"{prefix}{key}"


def _print_cards() -> None:
    from rich.padding import Padding

    from ovseg.system import terminal
    from ovseg.zoo import list_models

    console = terminal.console()
    for card in list_models():
        size = f"{card.size_mb:.1f} MB, " if card.size_mb else ""
        state = "installed" if card.installed else "weights fetched at first use"
        console.print(f"[bold]{card.name}[/bold]  ({size}{state})", highlight=False)
        for line in (
            f"{card.summary}{f' ({card.paper})' if card.paper else ''}",
            f"[dim]weights: {card.source}; their licence: {card.weights_licence}[/dim]",
        ):
            console.print(Padding(line, (0, 0, 0, 4), expand=False), highlight=False)
    print("\nEvery method runs on every CLIP: --model sclip/mini, naclip/ViT-L-14/openai, gem/path/to/folder.")
    print("All settings of one: `ovseg models --details sclip/mini`.")
