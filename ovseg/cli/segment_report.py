"""What ``ovseg segment`` prints while it works and at its end: results, notes, mistakes, progress, counts, seconds."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ovseg.cli.progress import EVERY
from ovseg.system import terminal

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID
    from rich.table import Table

    from ovseg.contract import Words
    from ovseg.result.segmentation import Segmentation

_Item = TypeVar("_Item")

_PARTS = {"read": "reading", "preprocess": "resizing", "model": "model", "write": "drawing and writing"}
_FEW = 3  # images for which no bar is shown


class Report:
    """Prints and counts.

    Args:
        as_json: Print one JSON line per image, and nothing else on stdout.
        quiet: Print no tables, notes and progress.
        strict: A note is an error.
        own_ids: Label maps have the ids of the user's list, which JSON lines say.
    """

    def __init__(self, as_json: bool, quiet: bool, strict: bool, own_ids: bool) -> None:
        self.as_json, self.quiet, self.strict, self.own_ids = as_json, quiet, strict, own_ids
        self.failed, self.done = 0, 0
        self.noted: dict[str, None] = {}  # each note once, in order
        self._on_words: frozenset[str] = frozenset()
        self.seconds: Counter[str] = Counter()
        self._start = time.perf_counter()

    def error(self, text: object, images: int = 1) -> None:
        """Tell of a mistake that costs some images."""
        self.failed += images
        print(f"error: {terminal.one_line(text)}", file=sys.stderr)

    def note(self, text: str) -> None:
        """Tell of something about the run."""
        if text not in self.noted:
            self.noted[text] = None
            line = terminal.one_line(text)
            if self.strict:
                print(f"error: {line} (a note, and an error by --strict)", file=sys.stderr)
            elif not self.quiet:
                print(f"note: {line}", file=sys.stderr)

    def words(self, embed: Callable[[], Words], usual: Sequence[str] = ()) -> Words:
        """Embed words, and tell once what is noted on them; each result has it, too, JSON lines tell it there alone.

        Args:
            embed: Does it.
            usual: What is noted of the model that was asked for; ``strict`` does not mind it.
        """
        with self.progress(0):
            words = embed()
        self._on_words = frozenset(words.notes)
        if self.as_json and not self.strict:
            self.noted |= dict.fromkeys(words.notes)
            return words
        for note in words.notes:
            if note not in usual:
                self.note(note)
            elif not self.quiet and not self.as_json:
                print(f"note: {terminal.one_line(note)}", file=sys.stderr)
        return words

    def result(self, result: Segmentation, files: dict[str, str]) -> None:
        """Tell of a result, with the notes that are its own."""
        self.done += 1
        meta = result.meta
        self.seconds.update({part: meta["timings"].get(part, 0.0) for part in _PARTS})
        if self.as_json:
            print(json.dumps({**files, **result.to_json(self.own_ids)}), flush=True)
        elif not self.quiet:
            print(f"{terminal.one_line(meta['image'])} ({meta['model']}, {meta['timings']['seconds']:.2f} s)")
            terminal.console().print(table(result))
        for note in meta["notes"]:
            if note in self._on_words:
                continue
            if self.strict:
                self.note(note)
            else:
                self.noted[note] = None
                if not self.quiet and not self.as_json:
                    print(f"note: {terminal.one_line(note)}")

    def finish(self, output: Path, warned: list[str]) -> int:
        """Print the counts and return the exit code.

        Args:
            output: Folder of the results.
            warned: Warnings that were shown.
        """
        if self.strict:
            for line in dict.fromkeys(warned):
                self.note(line)
        if not self.as_json and not self.quiet:
            whole = time.perf_counter() - self._start
            parts = ", ".join(f"{name} {self.seconds[part]:.1f}" for part, name in _PARTS.items())
            print(
                f"{self.done} of {self.done + self.failed} images segmented in {whole:.1f} s ({parts})"
                f"{self._counts(len(warned))}; results in {output}"
            )
        return 1 if self.failed or (self.strict and self.noted) else 0

    def _counts(self, warned: int) -> str:
        counted = {"error": self.failed, "warning": warned, "note": len(self.noted)}
        return "".join(f", {count} {name}{'s'[: count > 1]}" for name, count in counted.items() if count)

    @contextlib.contextmanager
    def progress(self, images: int) -> Iterator[_Progress]:
        """Show how far the work is: a bar on terminals, a line now and then elsewhere; on the error stream."""
        from rich.progress import Progress

        from ovseg.system.progress import listening

        on_terminal = sys.stderr.isatty() and not self.quiet
        # Rich would lead all that is printed meanwhile through the bar's own stream; results for a pipe must not go
        # there.
        with Progress(
            console=terminal.console(stderr=True),
            transient=True,
            redirect_stdout=sys.stdout.isatty(),
            disable=not on_terminal,
        ) as bar:
            shown = _Progress(bar if on_terminal else None, images, self.quiet)
            with listening(shown.within):
                yield shown


class _Progress:
    """Progress over images, and within one of many windows."""

    def __init__(self, bar: Progress | None, images: int, quiet: bool) -> None:
        self._bar, self._quiet = bar, quiet
        self._all = bar.add_task("segmenting", total=images) if bar and images >= _FEW else None
        self._part: TaskID | None = None
        self._told = time.monotonic()

    def over(self, results: Iterable[_Item]) -> Iterator[_Item]:
        """Count the results that come through."""
        for result in results:
            yield result
            if self._bar and self._all is not None:
                self._bar.advance(self._all)

    def within(self, what: str, done: int, total: int) -> None:
        """Show how much of the words or of one image is done."""
        now = time.monotonic()
        if self._bar is not None:
            if self._part is None:
                self._part = self._bar.add_task(what, total=total)
            self._bar.update(self._part, description=what, completed=done, total=total, visible=done < total)
        elif not self._quiet and now - self._told >= EVERY and done < total:
            self._told = now
            print(f"{done} of {total} {what}", file=sys.stderr, flush=True)


def table(result: Segmentation) -> Table:
    """Return a table of the classes that were found, largest first."""
    from rich.table import Table
    from rich.text import Text

    # Text, because a name may hold what rich takes for markup, such as "[/b]" or ":cat:".
    view = Table()
    view.add_column("class")
    view.add_column("area", justify="right")
    view.add_column("score", justify="right")
    for segment in sorted(result.segments, key=lambda s: -s.area):
        view.add_row(Text(segment.name), f"{100 * segment.area_fraction:.1f} %", f"{segment.score:.2f}")
    rest = 1 - sum(segment.area_fraction for segment in result.segments)
    if rest > 5e-4:
        view.add_row("[dim]no class[/dim]", f"{100 * rest:.1f} %", "")
    return view
