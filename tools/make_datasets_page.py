"""Write datasets/README.md: where every benchmark comes from, where its files go, and what its labels mean.

    python tools/make_datasets_page.py            # the page
    python tools/make_datasets_page.py --check    # is it up to date?

All of it is read from the registry (ovseg/data/benchmarks).
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout that is not installed, too

import pages

from ovseg.data.benchmarks import BENCHMARKS, Benchmark, Source

PAGE = Path(__file__).resolve().parents[1] / "datasets/README.md"
HEAD = """\
# Data sets

Written by `tools/make_datasets_page.py` from the registry (`ovseg/data/benchmarks`); do not edit by hand.

```bash
ovseg datasets status --root data                      # what is there, and the line that mends what is not
ovseg datasets prepare coco_stuff --subset --root data # a part of it, on purpose; without --subset all of it
ovseg datasets prepare coco_stuff --check-only --subset --root data
ovseg datasets check coco_stuff_val2017 --root data    # counts, classes, problems, hints
ovseg datasets show coco_stuff_val2017 --output samples.png --root data
```

ROOT is `--root`, else `$DETECTRON2_DATASETS`, else `datasets`; its folders are those of Detectron2, and those of
mmsegmentation and other toolkits are found, too. `prepare` takes a benchmark (its first split) or a split. It downloads
what may be downloaded into `ROOT/downloads` (an interrupted download goes on; an archive that you put there is taken),
unpacks it, converts labels into class ids at `ROOT/ovseg/NAME/labels` (PNG of 8 bits, void 255; beyond 255 classes
16 bits, void 65535; a killed run goes on), reads every image and label, and writes `manifest.json` (counts, checksums,
problems, versions) and `classes.json`. Published files are never changed. Broken files are named and left out, and
results on the rest say how many.

A second `prepare` decodes all labels again and writes those that differ. Evaluation and training refuse a set whose
class list or rule is another than it was prepared by, or whose converted labels are not what would be made of the
published ones now; labels whose published file is younger are compared, and a few others.

A set of which images are missing is refused, too. Where that is on purpose, `prepare --subset` takes what is there;
every result on it then says "40 of 1,449 images of voc21_val: numbers on them are not the benchmark's". A later
`prepare` without the flag makes it the whole again.

A prepared split goes by its name wherever a data set is asked for: `DATASETS.TRAIN` and `DATASETS.TEST`, `--data`,
`--dataset`. `Scenes`, which needs no download, is made by `ovseg datasets scenes`.

| name | splits (images) | classes | measured |
|---|---|---|---|
"""


def row(one: Benchmark) -> str:
    """Return the line of a benchmark in the table."""
    splits = ", ".join(f"{split} ({part.count})" for split, part in one.splits.items())
    present = f", {one.present} of them occur" if one.present else ""
    classes = f"from its own files{present}"
    if not callable(one.classes):
        classes = f"preset `{one.classes}`" if isinstance(one.classes, str) else str(len(one.classes))
    anchor = "".join(letter for letter in heading(one).lower() if letter.isalnum() or letter in " -_").replace(" ", "-")
    return f"| [{one.name}](#{anchor}) | {splits} | {classes} | {one.metric} |\n"


def heading(one: Benchmark) -> str:
    """Return the heading of a benchmark's section."""
    return f"{one.name}: {one.title}"


def section(one: Benchmark) -> str:
    """Return what there is to know of a benchmark."""
    aliases = [f"`{alias}`" for names in one.aliases.values() for alias in names]
    facts = [
        f"Labels: {one.rule}.",
        f"Folder: {', else '.join(f'`{folder}`' for folder in one.folders)}.",
        *([f"Also called {', '.join(aliases)}."] if aliases else []),
        f"Licence: {one.licence}. Source: {one.paper}.",
    ]
    steps = [f"{number}. {step(source)}\n" for number, source in enumerate(one.sources, 1)]
    return f"\n## {heading(one)}\n\n" + "".join(f"- {fact}\n" for fact in facts) + "\n" + "".join(steps)


def step(source: Source) -> str:
    """Return what has to be done for a source, by `prepare` or by hand."""
    only = f" (for {', '.join(source.splits)})" if source.splits else ""
    where = f"`ROOT/{source.into}`".replace("/.`", "`")
    if source.url:
        checksum = f", {source.checksum.replace(':', ' ')}" if source.checksum else ""
        return f"{source.what}{only}: <{source.url}>{checksum}, unpacked in {where}. `prepare` does it."
    return f"{source.what}{only}: only you may fetch `{source.file}` from <{source.page}>; put it in `ROOT/downloads`."


def page() -> str:
    """Return the whole page."""
    every = list(BENCHMARKS.values())
    return HEAD + "".join(map(row, every)) + "".join(map(section, every))


def main(argv: list[str] | None = None) -> int:
    """Write or check the page."""
    return pages.run(page, PAGE, "make_datasets_page.py", __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
