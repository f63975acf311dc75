"""List models: aliases first, then task, licences, size, and what is installed."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from ovseg.zoo import Card

WIDTH = 100
"""Columns that the tables take at most."""

EXAMPLES = """\
examples:
  ovseg models
  ovseg models --installed
  ovseg models --commercial --json
  ovseg models --backbones
  ovseg models --details sclip/mini
  ovseg models --details sclip --protocol voc21
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``ovseg models``."""
    parser.add_argument("--installed", action="store_true", help="only those whose weights are on this machine")
    parser.add_argument("--commercial", action="store_true", help="only those whose licences allow commercial use")
    parser.add_argument("--json", action="store_true", help="print JSON, with all that the cards say")
    parser.add_argument(
        "--details", metavar="NAME", help="all settings of one model or config, their sources, and its method's card"
    )
    parser.add_argument("--backbones", action="store_true", help="the image-text models that any method runs on")
    parser.add_argument("--protocol", default="", help="with --details: a benchmark such as voc21, or common")


def run(args: argparse.Namespace) -> int:
    """Print all cards, or the details of one model."""
    from ovseg.errors import ConfigError

    if args.protocol and not args.details:
        raise ConfigError(f"--protocol is '{args.protocol}' without a model; name it by --details, or leave it out")
    asked = [flag for flag in ("--details", "--backbones", "--installed", "--commercial") if getattr(args, flag[2:])]
    if len(asked) > 1 and asked != ["--installed", "--commercial"]:
        raise ConfigError(f"{' and '.join(asked)} do not go together; leave one out (both filters go together)")
    if args.backbones:
        return show_backbones(args.json)
    if args.details:
        found = details(args.details, args.protocol)
        print(json.dumps(found, indent=1) if args.json else _as_text(found), end="\n" if args.json else "")
        return 0
    cards = _chosen(args.installed, args.commercial)
    if args.json:
        print(json.dumps([{**card.to_json(), "aliases": _aliases_of(card)} for card in cards], indent=1))
    else:
        _print(cards)
    return 0


def show_backbones(as_json: bool) -> int:
    """Print the image-text models that any method runs on."""
    from ovseg.zoo.backbones import as_text, list_backbones

    print(json.dumps([one.to_json() for one in list_backbones()], indent=1) if as_json else as_text())
    return 0


def _chosen(installed: bool, commercial: bool) -> list[Card]:
    """Return the cards to show."""
    from ovseg.zoo import list_models

    found = [card for card in list_models() if card.commercial or not commercial]
    return [card for card in found if not installed or card.installed]


def _aliases_of(card: Card) -> list[str]:
    from ovseg.zoo.aliases import aliases

    return [alias.name for alias in aliases().values() if alias.model == card.name != alias.name]


def details(model: str, protocol: str = "") -> dict[str, Any]:
    """Collect what is known of a model without reading its weights.

    Args:
        model: As for `ovseg.load`; a method alone stands for itself on the default CLIP, and ``auto`` for what it
            would be now.
        protocol: As for `ovseg.load`.

    Returns:
        ``name``, ``protocol``, ``settings`` (our part of the config), ``sources`` (where each setting comes from, by
        dotted key), ``protocols`` (those that it or its method has) and ``cards``: its own and that of its method.

    Raises:
        OvsegError: As `ovseg.zoo.model_config`.
    """
    from ovseg.zoo import list_models, resolve
    from ovseg.zoo.aliases import AUTO, stands_for
    from ovseg.zoo.auto import best_name
    from ovseg.zoo.names import COMMON, embedded_clip, list_protocols, method_config

    methods = {card.name.partition("/")[0]: card for card in list_models() if "/" in card.name}
    model = best_name() if model == AUTO else stands_for(model)
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


def _print(cards: Sequence[Card]) -> None:
    """Print aliases and cards as two tables of at most 100 columns."""
    from rich.table import Table

    from ovseg.system import terminal
    from ovseg.zoo.aliases import aliases

    console, shown = terminal.console(), {card.name for card in cards}
    short = Table("alias", "stands for", "which is", box=None, pad_edge=False, width=min(console.width, WIDTH))
    for alias in aliases().values():
        if alias.model in shown:
            short.add_row(alias.name, alias.model, alias.means)
    models = Table(box=None, pad_edge=False, width=min(console.width, WIDTH))
    for column in ("name", "task", "licence of code / weights", "commercial", "size", "installed"):
        align: Literal["left", "right"] = "right" if column == "size" else "left"
        models.add_column(column, overflow="fold", justify=align, no_wrap=column == "name")
    for card in sorted(cards, key=lambda one: one.weights == "open_clip"):
        models.add_row(*row_of(card))
    console.print(short, highlight=False)
    print()
    console.print(models, highlight=False)
    _print_legend()


def _print_legend() -> None:
    print("""
no?: a licence is unclear or that of the CLIP that you choose, and so it counts as no.
A method runs on every CLIP that has what it needs (docs/towers.md), such as sclip/mini or
naclip/ViT-L-14/openai; CLIPs by name: `ovseg models --backbones`.
Sources, papers, licences in full: `ovseg models --json`; settings: `ovseg models --details NAME`.
Weights are fetched when they are first used, or by `ovseg download NAME`.""")


def row_of(card: Card) -> tuple[str, ...]:
    """Return what the table says of a model: name, task, licences, commercial use, size, whether it is installed."""
    from ovseg.zoo.card import COMMERCIAL, NOT_COMMERCIAL

    def short(licence: str) -> str:
        if licence in COMMERCIAL or licence in NOT_COMMERCIAL:
            return licence
        return "the CLIP's" if "chosen CLIP" in licence else "unclear"

    return (
        card.name.replace("ARCHITECTURE", "ARCH"),
        card.task,
        f"{short(card.code_licence)} / {short(card.weights_licence)}",
        "yes" if card.commercial else "no?" if card.unclear else "no",
        "" if card.size_mb is None else f"{card.size_mb:.0f} MB",
        "" if card.weights == "open_clip" else "yes" if card.installed else "no",
    )
