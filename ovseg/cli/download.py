"""Fetch what models need, for a machine that goes offline later; naming them is consent, sizes are said first.

What is here already is not fetched again. A download that broke off goes on where it stopped; checksums are compared.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ovseg.zoo.needs import Need

EXAMPLES = """\
examples:
  ovseg download fast
  ovseg download san-vit-b-16 clearclip/ViT-B-16/openai --dry-run
  ovseg download sclip/hf-hub:laion/CLIP-ViT-B-16-laion2B-s34B-b88K
  ovseg download cliper/ViT-B-16/openai timm:vit_base_patch8_224.dino

where files are kept, and how to remove them: `ovseg cache`
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``ovseg download``."""
    parser.add_argument(
        "names", nargs="+", metavar="NAME", help="as for `ovseg segment --model`, or a guide: timm:TAG, diffusion:MODEL"
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be fetched, and how large it is")


def run(args: argparse.Namespace) -> int:
    """Fetch; what can be had by hand only is said, and the exit code is 1."""
    from ovseg.checkpoint.hub.manners import megabytes
    from ovseg.system.terminal import one_line

    needs = _needs(args.names)
    by_hand = [need for need in needs if need.by_hand and not need.found]
    for need in needs:
        if need.found:
            print(one_line(f"{need.what} is here: {need.found}"))
    missing = [need for need in needs if not need.found and not need.by_hand]
    size, whole = _plan(missing)
    if missing:
        least = f"at least {megabytes(size)}" if size else "of unknown size"
        print(f"{len(missing)} to fetch, {megabytes(size) if whole else least}", flush=True)
    if not needs:
        print(f"{', '.join(args.names)}: nothing to fetch, all of it is in the package or in files of yours")
    fetched: set[tuple[object, ...]] = set()
    while missing and not args.dry_run:
        for need in missing:
            print(one_line(f"{need.what} is here: {need.fetch()}"), flush=True)
        fetched |= {need.key for need in missing}
        # Configs that have come name the repositories of their tokenizers.
        missing = [one for one in _needs(args.names) if not one.found and not one.by_hand and one.key not in fetched]
    for need in by_hand:
        print(f"error: {one_line(need.what)} cannot be fetched from here; {need.by_hand}", file=sys.stderr)
    return 1 if by_hand else 0


def _needs(names: Sequence[str]) -> list[Need]:
    """Return what names need, each once."""
    from ovseg.zoo.needs import needs_of

    return list({need.key: need for name in names for need in needs_of(name)}.values())


def _plan(missing: Sequence[Need]) -> tuple[int, bool]:
    """Say what is to be fetched; returns the bytes of all, and whether none of them is unknown."""
    from ovseg.checkpoint.hub import offline
    from ovseg.checkpoint.hub.manners import megabytes
    from ovseg.errors import DownloadError
    from ovseg.system.terminal import one_line

    if missing and (why := offline()):
        raise DownloadError(f"{missing[0].what} is not on this machine and {why}; unset it to download")
    total, whole = 0, True
    for need in missing:
        size, licence = need.offer()
        total, whole = total + (size or 0), whole and size is not None
        print(one_line(f"{need.what}: {megabytes(size)}, licence {licence or 'not stated'}"))
    return total, whole
