"""Write docs/towers.md: which method runs on which family of towers, and how each gives dense features.

    python tools/make_towers_page.py            # the page
    python tools/make_towers_page.py --check    # is it up to date?

Nothing in it is written by hand: what fits is computed from what methods need and towers have, for the narrowed towers
of tests/clip/towers.py, on which the tests run every pair that fits; recipes are what the towers say of themselves.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pages

from ovseg.clip.tokens import FITTING, LEVELS
from ovseg.meta_arch.san.model import NEEDS
from ovseg.recalibration import list_recalibrations, recalibration_class

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/towers.md"
HEAD = """\
# Methods and towers

Written by `tools/make_towers_page.py`; do not edit by hand. A method says what it needs of an image-text model, a tower
what it has, and a pair that does not fit is refused in one sentence. Every pair that fits ({count} of them) runs in the
tests on narrowed towers with random weights: batches give what single images give, at odd sizes, and half precision
nearly so. Which weights there are: `ovseg models --backbones`.

How to write it:

| `--model` | what it is |
|---|---|
| `clearclip/ViT-B-16/openai` | a tag of open_clip |
| `clearclip/ViT-B-16/path/to/file` | a weights file in any layout: open_clip, OpenAI, transformers, of a training |
| `clearclip/path/to/folder` | with `open_clip_config.json`, or `config.json` of transformers |
| `clearclip/hf:OWNER/NAME` | a repository of the hub in the layout of transformers (`@REVISION` behind it) |
| `clearclip/hf-hub:OWNER/NAME` | one in that of open_clip |
| `clearclip/clip:A+B` | several of these as one, weighed by the words |

Files are recognised by the names of their tensors: also below `state_dict`, `model` and the like, behind `module.`,
`_orig_mod.` or `clip_model.`, beside an optimizer, in shards with an index; of weights and their average the average is
taken, which is said. No code of a file runs. Position embeddings of another size are an error that names both, or
interpolated with `MODEL.CLIP.RESIZE_POSITION: true`. What is no CLIP is called what it looks like.

## What runs where

"""
ENSEMBLES = """
## Several CLIPs as one

`clip:A+B` lets CLIPs with other widths, tokenizers, means and patches answer together, with any training-free method
that fits each of them; one needs two or more, all different, and AutoCLIP is refused. All see the grid of the first
one's patches: for another patch size the image is resized. A method runs on each alone, and the scores are summed.

The idea is MoDE's (arXiv 2404.16030), which trains experts on clusters of captions and weighs them by how near the
words of a task lie to the centres of the clusters. Whichever CLIPs a user has bring no centres, so the weights are
ours: the texts of a request stand in a few sentences each, and a CLIP that has learnt a word gives it one place in all
of them, apart from other words. The *dispersion* is how far the rows of a text are on average from their mean, the
*margin* how far that is on average from the nearest one of another class (both as 1 less the cosine), and a CLIP's
weight is its share of margin / (margin + dispersion). Scores of this kind are known to tell from texts alone something
of how well a CLIP does on a task (LOVM, arXiv 2306.08893). The weights depend on the words of a request and on nothing
else; the result names them. Nobody has measured how much they help.
"""


def pairs() -> Any:
    """Import the towers and pairs of the tests, which are in no package that is installed."""
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    from tests.clip import pairs as found

    return found


def groups() -> dict[frozenset[str], list[str]]:
    """Return the methods by what they need, the least first."""
    found: dict[frozenset[str], list[str]] = {}
    for name in list_recalibrations():
        found.setdefault(recalibration_class(name).requires, []).append(name)
    return dict(sorted(found.items(), key=lambda item: (len(item[0]), item[1])))


def table() -> str:
    """Return the table of families and groups of methods, and of models with trained heads."""
    columns = list(groups().values())
    heads = [", ".join(names) for names in columns]
    lines = [
        f"| family | {' | '.join(heads)} | SAN | FC-CLIP, MAFT+ |",
        f"|---|{':-:|' * (len(heads) + 2)}",
    ]
    for family in pairs().FAMILIES:
        has = pairs().tower(family).has
        ticks = [*(pairs().fits(names[0], family) for names in columns), has >= NEEDS, LEVELS in has]
        lines.append(f"| {family} | {' | '.join('yes' if tick else '' for tick in ticks)} |")
    return "\n".join(lines) + "\n"


def needs() -> str:
    """Return what each group of methods needs, in words."""
    lines = ["\nWhat they need:\n"]
    lines += [
        f"- {', '.join(names)}: {'; '.join(need for need in FITTING if need in wanted)}."
        for wanted, names in groups().items()
    ]
    return "\n".join(lines) + "\n"


def recipes() -> str:
    """Return how each family gives dense features."""
    lines = ["\n## Dense features\n", "| family | how they come about |", "|---|---|"]
    found: dict[str, list[str]] = {}
    for family in pairs().FAMILIES:
        found.setdefault(pairs().tower(family).recipe, []).append(family)
    lines += [f"| {'; '.join(families)} | {recipe} |" for recipe, families in found.items()]
    return "\n".join(lines) + "\n"


def page() -> str:
    """Return the whole page."""
    return HEAD.format(count=len(pairs().fitting())) + table() + needs() + recipes() + ENSEMBLES


def main(argv: list[str] | None = None) -> int:
    """Write or check the page."""
    return pages.run(page, PAGE, "make_towers_page.py", __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
