"""List or remove what is kept on disk: weights that were fetched, and text embeddings."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ovseg.checkpoint.hub import Stored
    from ovseg.vocabulary import TextCache

_METHOD = "METHOD/"  # in the place of any

EXAMPLES = """\
examples:
  ovseg cache
  ovseg cache --remove san-vit-b-16 --yes
  ovseg cache --remove hub/Mendel192/san
  ovseg cache --clear
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``ovseg cache``."""
    either = parser.add_mutually_exclusive_group()
    either.add_argument("--clear", action="store_true", help="delete all cached embeddings; weights stay")
    either.add_argument(
        "--remove",
        nargs="+",
        default=[],
        metavar="NAME",
        help="delete weights: what `ovseg download NAME` would fetch, or files and folders that are listed",
    )
    parser.add_argument("--yes", action="store_true", help="remove without asking")


def run(args: argparse.Namespace) -> int:
    """Print what is kept, or delete some of it."""
    from ovseg.errors import ConfigError

    if args.yes and not args.remove:
        raise ConfigError("--yes without --remove; name what is to be removed, or leave it out")
    if args.remove:
        return _remove(args.remove, args.yes)
    from ovseg.system.cache_dir import cache_path
    from ovseg.vocabulary import TextCache

    cache = TextCache(cache_path() / "text")
    if args.clear:
        print(f"cleared {cache.clear() / 1e6:.1f} MB in {cache.folder}; weights stay (--remove)")
        return 0
    _print_weights()
    _print_texts(cache)
    return 0


def _print_weights() -> None:
    from rich.table import Table
    from rich.text import Text

    from ovseg.checkpoint.hub import stored
    from ovseg.checkpoint.hub.store import weights_folder
    from ovseg.system import terminal

    kept, root = stored(), weights_folder()
    users = users_of(kept)
    view = Table(title=Text(f"weights in {root}"), title_justify="left")
    for column in ("file", "MB", "used by", "fetched"):
        view.add_column(column, justify="right" if column == "MB" else "left", overflow="fold")
    for one in kept:
        when = one.when[:10] or ("by hand" if one.complete else "broke off")
        names = ", ".join(users[one.path]) or (str(one.source) if one.source else "?")
        view.add_row(Text(one.path.relative_to(root).as_posix()), f"{one.bytes / 1e6:.1f}", Text(names), when)
    if kept:
        terminal.console().print(view)
    said = "remove some by `ovseg cache --remove NAME`" if kept else f"none in {root}"
    print(f"{sum(one.bytes for one in kept) / 1e6:.1f} MB of weights; {said}\n")


def _print_texts(cache: TextCache) -> None:
    from rich.table import Table
    from rich.text import Text

    from ovseg.system import terminal

    view = Table(title=Text(f"text embeddings in {cache.folder}"), title_justify="left")
    for column in ("model", "templates", "texts", "MB"):
        view.add_column(column, justify="left" if column == "model" else "right")
    for entry in cache.entries():
        view.add_row(Text(entry.model), str(entry.templates), str(entry.texts), f"{entry.size / 1e6:.2f}")
    terminal.console().print(view)
    print(f"{cache.size() / 1e6:.1f} MB of at most {cache.limit / 1e6:.0f} MB; clear with `ovseg cache --clear`")


def users_of(kept: Sequence[Stored]) -> dict[Path, list[str]]:
    """Return the names of models that use each file, by its path; those that need nothing else but this file."""
    from ovseg.checkpoint.hub.store import place_of
    from ovseg.clip.open_clip_internals import import_open_clip
    from ovseg.clip.tags import tag_sources
    from ovseg.zoo.card import list_models, place, source_of

    found: dict[Path, list[str]] = {}
    for card in list_models():
        if card.weights == "released":
            source = source_of(card)
            for path in (place(card), *([place_of(source)] if source else [])):
                found.setdefault(path, []).append(card.name)
    library = import_open_clip()
    for arch, tag in library.list_pretrained():
        for source in tag_sources(library.get_pretrained_cfg(arch, tag)):
            found.setdefault(place_of(source), []).append(f"{_METHOD}{arch}/{tag}")
    return {one.path: found.get(one.place, []) for one in kept}


def _remove(names: Sequence[str], yes: bool) -> int:
    """Remove files, after all of them were found and somebody agreed."""
    from ovseg.checkpoint.hub import remove, stored
    from ovseg.errors import InputError

    kept = stored()
    users = users_of(kept)
    chosen = [one for name in names for one in _named(name, kept, users)]
    chosen = list({one.path: one for one in chosen}.values())
    size = sum(one.bytes for one in chosen) / 1e6
    for one in chosen:
        print(f"{one.path}: {one.bytes / 1e6:.1f} MB{', used by ' * bool(users[one.path])}{', '.join(users[one.path])}")
    if not yes:
        if not (sys.stdin.isatty() and sys.stdout.isatty()):
            raise InputError(f"{size:.1f} MB would be removed and there is nobody to ask; add --yes")
        print(f"Remove {size:.1f} MB? [y/N] ", end="", flush=True)
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            print("nothing was removed")
            return 0
    print(f"removed {sum(remove(one.path) for one in chosen) / 1e6:.1f} MB")
    return 0


def _named(name: str, kept: Sequence[Stored], users: Mapping[Path, Sequence[str]]) -> list[Stored]:
    """Return the files that lie at a path or below it, or that a name needs, with the parts of broken downloads.

    Raises:
        UnknownNameError: There are none; near matches are named.
        InputError: It is the folder of all weights, or one above it.
    """
    from ovseg.checkpoint.hub.store import weights_folder
    from ovseg.errors import InputError, unknown_name

    root = weights_folder()
    whole, target = (Path(os.path.abspath(path)) for path in (root, root / name))
    if whole.is_relative_to(target):
        raise InputError(f"'{name}' is the folder of all weights; expected a NAME, or a file or folder below it: hub")
    below = {root / target.relative_to(whole)} if target.is_relative_to(whole) else set()
    for places in (below, _places(name)):
        if found := [one for one in kept if places & {one.path, one.place, *one.place.parents}]:
            return found
    known = [one.path.relative_to(root).as_posix() for one in kept]
    raise unknown_name("weights on this disk", name, [*known, *(user for each in users.values() for user in each)])


def _places(name: str) -> set[Path]:
    """Return where what a name needs is kept, or would be; nowhere for what is no name."""
    from ovseg.errors import OvsegError
    from ovseg.zoo.needs import needs_of

    for asked in (name.replace(_METHOD, "clip/"), f"clip/{name}"):
        with contextlib.suppress(OvsegError):
            return {place for need in needs_of(asked) for place in need.places}
    return set()
