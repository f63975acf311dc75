"""What the data sets of MESS share."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from ovseg.data.benchmarks.base import Benchmark, Classes, Source, Split
from ovseg.vocabulary import Vocabulary

MESS = "words of MESS (Blumenstiel et al., NeurIPS 2023)"
NAMES: dict[str, list[str]] = json.loads(Path(__file__).with_name("classes.json").read_text(encoding="utf-8"))
UNCONFIRMED = "the count is unconfirmed, where yours differs trust a complete archive"
CUT = "cut into tiles of 1024 x 1024, padding is ignored"


def mess_set(
    name: str,
    title: str,
    folders: tuple[str, ...],
    splits: Mapping[str, Split],
    sources: tuple[Source, ...],
    rule: str,
    licence: str,
    paper: str,
    classes: Classes | None = None,
    background: int = 0,
) -> Benchmark:
    """Make a benchmark of MESS, which has a name of its own for the first split."""
    return Benchmark(
        name=name,
        title=title,
        folders=folders,
        classes=classes or Vocabulary.parse([[word] for word in NAMES[name]]),
        rule=f"{rule}; {MESS}",
        sources=sources,
        splits=splits,
        aliases={split: (f"{name}_sem_seg_{split}",) for split in splits},
        background=background,
        licence=licence,
        paper=paper,
    )


def by_hand(what: str, file: str, into: str, provides: str, page: str, inside: tuple[str, ...] = ()) -> Source:
    """Make a source that only the user may fetch."""
    return Source(what=what, file=file, into=into, provides=(provides,), page=page, inside=inside)


def download(what: str, file: str, into: str, provides: str, url: str, inside: tuple[str, ...] = ()) -> Source:
    """Make a source that may be downloaded."""
    return Source(what=what, file=file, into=into, provides=(provides,), url=url, inside=inside)


def drive(number: str) -> str:
    """Return the page of a file on Google Drive."""
    return f"https://drive.google.com/file/d/{number}/view"
