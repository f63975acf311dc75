"""Print how far apart the two most alike colours of each vocabulary are, as they are seen in pictures.

    python tools/check_colours.py                # all presets and the pictures of examples/
    python tools/check_colours.py "cat, sofa" words.txt

Distances are OKLab x 1000 between colours at alpha 0.5 over the worst of five greys, for full vision and three colour
deficiencies. Up to 24 classes have a bound (`ovseg.vocabulary.colors.BOUNDS`); where one is missed the exit code is 1.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from ovseg.errors import OvsegError
from ovseg.system import terminal
from ovseg.vocabulary import Vocabulary, list_presets
from ovseg.vocabulary.colors import EYES, bound_for, smallest_distances

EXAMPLES = Path(__file__).resolve().parents[1] / "examples" / "examples.json"


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table and return 1 if a bound is missed, else 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("classes", nargs="*", help="words as `ovseg segment --classes` takes them")
    args = parser.parse_args(argv)
    sources = {text: text for text in args.classes}
    if not sources:
        sources = {name: name for name in list_presets()} | json.loads(EXAMPLES.read_text(encoding="utf-8"))
    table, missed = Table("vocabulary", "classes", "bound", *EYES, "", title="OKLab distance x 1000"), 0
    for name, source in sources.items():
        vocabulary = Vocabulary.parse(source)
        if len(vocabulary) < 2:
            continue  # nothing to be mistaken for
        found, bound = smallest_distances([entry.color for entry in vocabulary]), bound_for(len(vocabulary))
        short = min(found.values()) < bound
        missed += short
        numbers = (f"{found[eye]:.1f}" for eye in EYES)
        table.add_row(name, str(len(vocabulary)), str(bound or "-"), *numbers, "MISSED" if short else "")
    terminal.console().print(table)
    print(f"{missed} of {len(sources)} vocabularies miss their bound" if missed else "every bound is kept")
    return int(bool(missed))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except OvsegError as error:
        sys.exit(f"error: {error}")
