"""Write docs/models.md: every model of the zoo, what its card says of it, what was measured, and what aliases mean.

    python tools/benchmark.py model-costs --json benchmarks/model-costs.json    # the costs, measured anew
    python tools/make_models_page.py                                             # the page
    python tools/make_models_page.py --check                                     # is it up to date?

Facts stand in the cards (configs/), rules of aliases in `ovseg.zoo.aliases`, the text around the tables in
tools/models_page.md.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pages

from ovseg.errors import InputError
from ovseg.zoo import Card, list_models
from ovseg.zoo.aliases import aliases

ROOT = Path(__file__).resolve().parents[1]
PAGE, TEXT = ROOT / "docs/models.md", ROOT / "tools/models_page.md"
COSTS, METHODS = ROOT / "benchmarks/model-costs.json", ROOT / "benchmarks/recalibrations.json"
GOLDENS = {"sam3": ("sam3_dense",), "mini": ("san",)}
"""Folders of tests/golden, of cards whose own folder of configs is called otherwise."""
ADAPTER = "-adapter"
FACTS = """\
## All models

A name with ARCHITECTURE/TAG is a method that runs on any CLIP that has what it needs; [methods.md](methods.md) says
what each changes. The first licence is that of our code, the second that of the weights.

| model | task | trained on | licences | best at, or what it changes |
|---|---|---|---|---|
"""
NUMBERS = """\

## Reported, measured, held

- Reported: by the authors, in the protocol that the cell names; none of it was measured here. Numbers of two rows are
  comparable only where protocol and benchmark are the same. Source: the paper, or what the cell says.
- Cost: time from pixels to labels in units of one plain open_clip ViT-B/16 encoding of 224 x 224 pixels, and peak
  memory above the model itself, with random weights of full size. Of methods: a multiple of the plain encoding of the
  same image, without windows or second backbones ({methods}).
- Goldens: cases in `tests/golden`, made by the authors' code on random weights, that tests compare ours with.

| model | reported | source | cost here | goldens |
|---|---|---|---|---|
"""
RULES = """\

## Names that stand for others

What an alias stands for follows from the cards by its rule. Another card or number may change it; results name the
model itself.

| alias | stands for | by which rule |
|---|---|---|
"""
NOT_MEASURED = "not measured yet"


def facts(card: Card) -> str:
    """Return the row of a model in the table of facts."""
    trained = card.trained_on or (
        "nothing besides the CLIP" if card.weights == "open_clip" else "its card does not say"
    )
    licences = f"{card.code_licence} / {card.weights_licence}"
    return row(f"`{card.name}`", card.task, trained, licences, card.good_for or card.summary)


def numbers(card: Card, costs: dict[str, Any]) -> str:
    """Return the row of a model in the table of numbers."""
    reported = card.reported or "no number is on its card"
    return row(f"`{card.name}`", reported, card.paper or card.source, cost(card, costs), goldens(card))


def row(*cells: str) -> str:
    """Return a row of a table; bars inside of cells would end them."""
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |\n"


def cost(card: Card, costs: dict[str, Any]) -> str:
    """Say what a model was measured to cost."""
    method = card.name.partition("/")[0]
    if card.weights == "open_clip":
        found = costs["methods"].get(method)
        return NOT_MEASURED if found is None else f"{found:.2f} of a plain encoding"
    if (own := costs["models"].get(card.name)) is None:
        return NOT_MEASURED
    return f"{own['units']:.1f} units ({own['seconds']:.2f} s), {own['memory_mib']:.0f} MiB; {own['where']}"


def goldens(card: Card) -> str:
    """Say how many cases of which folders hold a model."""
    method = card.name.partition("/")[0]
    own = (method,) if card.weights == "open_clip" else (Path(card.config).parts[0],)
    folders = GOLDENS.get(card.name, (*own, *(("mask_adapter",) if card.name.endswith(ADAPTER) else ())))
    if card.name == "mini-clearclip":
        folders = ("clearclip",)
    counts = {name: len(list((ROOT / "tests/golden" / name).glob("*.json"))) for name in folders}
    return ", ".join(f"{count} of {name}" for name, count in counts.items() if count) or "none: see methods.md"


def read_costs() -> dict[str, Any]:
    """Read what was measured: of models by name, of methods by name, and where.

    Raises:
        InputError: A file is damaged.
    """
    found: dict[str, Any] = {"models": {}, "methods": {}}
    try:
        if COSTS.is_file():
            found["models"] = {one["model"]: one for one in json.loads(COSTS.read_text(encoding="utf-8"))["rows"]}
        methods = json.loads(METHODS.read_text(encoding="utf-8"))
        found["methods"] = {one["method"].lower(): one["ratio"] for one in methods["rows"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"costs cannot be read ({error!r}); make them by tools/benchmark.py model-costs") from error
    return {**found, "where": methods["where"]}


def page() -> str:
    """Return the whole page."""
    costs, cards, names = read_costs(), list_models(), aliases()
    tables = FACTS + "".join(facts(card) for card in cards)
    tables += NUMBERS.format(methods=costs["where"]) + "".join(numbers(card, costs) for card in cards)
    tables += RULES + "".join(row(f"`{one.name}`", f"`{one.model}`", one.means) for one in names.values())
    text = TEXT.read_text(encoding="utf-8").replace("<!-- tables -->\n", tables)
    for name in ("best", "panoptic"):
        card = next(one for one in cards if one.name == names[name].model)
        fetched = "fetched by name" if card.hub else "fetched by hand"
        text = text.replace(f"<!-- {name} -->", f"`{card.name}`; {card.weights_licence}; {fetched}")
    return text


def main(argv: list[str] | None = None) -> int:
    """Write or check the page."""
    return pages.run(page, PAGE, "make_models_page.py", __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
