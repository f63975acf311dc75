"""Write docs/methods.md: one row for every registered training-free method.

    python tools/benchmark.py recalibrations --json benchmarks/recalibrations.json    # the costs, measured anew
    python tools/make_methods_page.py                                                  # the page
    python tools/make_methods_page.py --check                                          # is it up to date?

What a method changes, its paper and the licence of the original are on the card in its file
(configs/training_free), the goldens in tests/golden; they are run here.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pages
from check_golden import check_case

from ovseg.errors import InputError
from ovseg.recalibration import list_recalibrations, recalibration_class
from ovseg.zoo import Card, list_models, model_config

ROOT = Path(__file__).resolve().parents[1]
PAGE, COSTS = ROOT / "docs/methods.md", ROOT / "benchmarks/recalibrations.json"
MARK = " †"
HEAD = """\
# Training-free methods

Written by `tools/make_methods_page.py` from the registry; do not edit by hand. Any of them runs on any plain ViT of
open_clip: `ovseg segment photo.jpg --classes "cat, sofa" --model METHOD/ViT-B-16/openai`, or `METHOD/mini` on the
embedded CLIP. `ovseg models --details METHOD` prints every setting and where it comes from; `--protocol voc21` takes
the settings that the paper used on a benchmark, `--protocol common` those under which all methods can be compared.

- Cost: time from a normalised image to patch scores of {classes} classes, as a multiple of one plain image encoding of
  open_clip in the same process ({where}).
  {apart}
  Second backbones are not in it (the guide is the CLIP itself), nor what a method does beside one pass over one image:
  SAM, upsamplers, windows, the whole image beside them, and what is done to labels.
- Way out: how the scores of patches come to the pixels of a photograph that the original sees whole: at once, or by way
  of the size of the network input, in two interpolations (`MODEL.PROTOCOL.RESIZE: twice`; padded ones always come so).
  Windows are averaged at that size, with every method. Under `--protocol common` all come at once.
- Golden: how many of the cases in `tests/golden` our code reproduces; they hold inputs, random weights and outputs of
  the original code.

| method | what it changes | cost | way out | paper | licence of the original | golden |
|---|---|---|---|---|---|---|
"""


def golden(name: str) -> str:
    """Run the golden cases of a method: ``3 of 3``, or why there is none."""
    files = sorted((ROOT / "tests/golden" / name.lower()).glob("*.json"))
    if not files:
        return f"none: {recalibration_class(name).without_golden}"
    return f"{sum(check_case(file).status == 'PASS' for file in files)} of {len(files)}"


def row(name: str, card: Card, cost: dict[str, Any]) -> str:
    """Return the table row of a method."""
    cells = (
        f"[{name}](../{source(name)})",
        card.summary,
        f"{cost['ratio']:.2f}{MARK if cost.get('where') else ''}",
        way_out(name),
        card.paper,
        card.original_licence,
        golden(name),
    )
    return f"| {' | '.join(cells)} |\n"


def way_out(name: str) -> str:
    """Say how a method's config brings the scores of a whole image to the photograph."""
    settings = model_config(f"{name}/ViT-B-16/openai").MODEL.PROTOCOL
    # Padding on both sides is for windows alone: the originals that have it do not pad whole images.
    once = settings.RESIZE == "once" and settings.PADDING != "corner"
    return "at once" if once else "by the input's size"


def source(name: str) -> str:
    """Return the file of a method inside the repository."""
    return f"{recalibration_class(name).__module__.replace('.', '/')}.py"


def read_costs() -> dict[str, Any]:
    """Read the measured costs.

    Raises:
        InputError: The file is missing or lacks a method.
    """
    try:
        found: dict[str, Any] = json.loads(COSTS.read_text())
        found["rows"] = {row["method"]: {**row, "ratio": float(row["ratio"])} for row in found["rows"]}
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"cannot read {COSTS} ({error}); make it with tools/benchmark.py recalibrations") from error
    missing = sorted(set(list_recalibrations()) - set(found["rows"]))
    if missing:
        raise InputError(f"{COSTS} lacks {', '.join(missing)}; measure again with tools/benchmark.py recalibrations")
    return found


def page() -> str:
    """Return the whole page."""
    costs = read_costs()
    cards = {card.name.partition("/")[0]: card for card in list_models() if "/" in card.name}
    rows = (row(name, cards[name.lower()], costs["rows"][name]) for name in list_recalibrations())
    return HEAD.format(where=costs["where"], classes=costs["classes"], apart=apart(costs)) + "".join(rows)


def apart(costs: dict[str, Any]) -> str:
    """Say which methods were measured in a run of their own, and how."""
    own = sorted({row["where"] for row in costs["rows"].values() if row.get("where")})
    return f"{MARK.strip()} marks those of a run of its own: {'; '.join(own)}." if own else ""


def main(argv: list[str] | None = None) -> int:
    """Write or check the page."""
    return pages.run(page, PAGE, "make_methods_page.py", __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
