"""Prepare benchmarks, see which are there, check data sets before training or evaluation, and look at samples.

`prepare` downloads what may be downloaded, says in one line what only you may fetch, converts labels into class ids
once (a killed run goes on), reads every image and writes manifest.json. `check` lists what is in a data set, what is
wrong with it (problems: images without masks, ids that are not in the list of classes, masks of 0 and 255, labels of
too few bits, sizes that differ, files that cannot be read), and what may be (hints: classes that no image shows).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ovseg.data.benchmarks.status import State
    from ovseg.data.checking import Report
    from ovseg.data.dataset import Dataset

EXAMPLES = """\
examples:
  ovseg datasets status --root /data
  ovseg datasets prepare ade150 coco_stuff --root /data
  ovseg datasets prepare ade150_train --check-only
  ovseg datasets prepare voc21 --subset
  ovseg datasets check mydata
  ovseg datasets check data/scenes/train --drawing scenes.png
  ovseg datasets check coco_stuff_train2017 --limit 500 --json
  ovseg datasets show ade150_val --output samples.png
  ovseg datasets scenes --output data/scenes --splits val,novel --size 384 --count 100

layouts of own folders:
  images/a.jpg + labels/a.png + classes.txt    value of a pixel = line of classes.txt, from 0; 255 or 65535 = no class;
                                               also in folders below, and labels/a.labels.png of `ovseg segment`
  images/ + COCO JSON file                     polygons or run lengths; DIR:annotations/x.json chooses one of several
  images/ + panoptic/ + panoptic.json          COCO panoptic, as `ovseg datasets scenes` writes it

Benchmarks lie below --root, else $DETECTRON2_DATASETS, else datasets/; datasets/README.md of the repository tells
where each comes from.

exit codes: 0 nothing is wrong (hints do not count), 1 there are problems, 2 the data set cannot be read at all
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``ovseg datasets``."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    prepare = actions.add_parser("prepare", help="fetch, convert and check benchmarks")
    prepare.add_argument("data", nargs="+", metavar="NAME", help="benchmarks (their first split), or splits")
    prepare.add_argument("--check-only", action="store_true", help="change nothing, say what is wrong")
    prepare.add_argument("--subset", action="store_true", help="take what is there: a part on purpose, named as one")
    status = actions.add_parser("status", help="list the benchmarks and what is missing")
    status.add_argument("data", nargs="*", metavar="NAME", help="benchmarks or splits (default: all)")
    check = actions.add_parser("check", help="read a data set and list what is wrong")
    check.add_argument("data", metavar="DIR|NAME", help="a folder, or a name such as coco_stuff_train2017")
    check.add_argument("--vocabulary", default="", help="check with these classes instead of its own")
    check.add_argument("--rename", default="", metavar="OLD=NEW,..", help="names for its classes, or a file of them")
    check.add_argument("--limit", type=int, help="read only so many images, evenly spread (default: all)")
    check.add_argument("--drawing", type=Path, metavar="FILE", help="draw samples with their labels")
    show = actions.add_parser("show", help="draw samples with their labels")
    show.add_argument("data", metavar="DIR|NAME", help="a folder, or a name such as ade150_val")
    show.add_argument("--output", type=Path, required=True, help="the picture")
    show.add_argument("--count", type=int, default=8, help="how many images (default: 8)")
    _add_scenes(actions)
    for one in (status, check):
        one.add_argument("--json", action="store_true", help="print the numbers as JSON")
    for one in (prepare, status, check, show):
        one.add_argument("--root", type=Path, help="folder of the benchmarks")


def _add_scenes(actions: Any) -> None:
    scenes = actions.add_parser("scenes", help="make Scenes, our own data set, from public cut-outs")
    add = scenes.add_argument
    add("--output", type=Path, default=Path("data/scenes"), help="(%(default)s)")
    add("--cache", type=Path, help="folder for downloads (default: OUTPUT/downloads)")
    add("--stamps", type=Path, help="unpacked stamps folder for `photo` (default: downloaded with apt-get)")
    add("--splits", default="train,val,novel,photo", help="comma separated (%(default)s)")
    add("--count", type=int, help="scenes per split (default: 3000 train, 300 val, 150 novel, 150 photo)")
    add("--size", type=int, default=256, help="side of a scene in pixels (%(default)s)")
    add("--seed", type=int, default=0)
    add("--only-bank", action="store_true", help="gather the cut-outs and stop: what training the CLIP needs")


def run(args: argparse.Namespace) -> int:
    """Do what was asked for."""
    actions = {"prepare": _prepare, "status": _status, "check": _check, "show": _show, "scenes": _scenes}
    return actions[args.action](args)


def _prepare(args: argparse.Namespace) -> int:
    from ovseg.data.benchmarks import data_root, find_places
    from ovseg.data.benchmarks.prepare import check_only, prepare
    from ovseg.errors import InputError

    places = [place for name in args.data for place in find_places(name, data_root(args.root), args.subset)]
    problems = 0
    for place in places:
        try:
            outcome = (check_only if args.check_only else prepare)(place)
        except InputError as error:
            if len(places) == 1:
                raise
            print(f"problem: {error}")
            problems += 1
            continue
        print(
            f"{place.name}: {outcome.images} images, {outcome.present} of {outcome.total} classes occur; "
            f"{place.benchmark.rule}"
        )
        _print_lines("note", outcome.notes)
        _print_lines("problem", outcome.problems)
        problems += len(outcome.problems)
    return 1 if problems else 0


def _status(args: argparse.Namespace) -> int:
    from ovseg.data.benchmarks import data_root, find_places
    from ovseg.data.benchmarks.status import PROBLEMS, state_of, status

    root = data_root(args.root)
    states = [state_of(place) for name in args.data for place in find_places(name, root)] or list(status(root))
    if args.json:
        rows = [{"name": s.place.name, "state": s.state, "images": s.images, "line": s.line} for s in states]
        print(json.dumps(rows, indent=1))
    else:
        _print_states(states, bool(args.data))
    return 1 if any(state.state == PROBLEMS for state in states) else 0


def _print_states(states: list[State], asked: bool) -> None:
    """Print a table, and a line for each that needs one: of the missing ones only where they were asked for."""
    from rich.table import Table

    from ovseg.data.benchmarks.status import MISSING
    from ovseg.system import terminal

    view = Table()
    for column in ("name", "state", "images"):
        view.add_column(column, justify="right" if column == "images" else "left")
    for s in states:
        view.add_row(s.place.name, s.state, f"{'-' if s.images is None else s.images} of {s.place.rules.count}")
    terminal.console().print(view)
    for s in states:
        if s.line and (asked or s.state != MISSING):
            print(s.line if s.line.startswith(s.place.name) else f"{s.place.name}: {s.line}")
    if not asked:
        print(
            "`ovseg datasets status NAME` says what is missing, "
            "datasets/README.md of the repository where all of it comes from"
        )


def _scenes(args: argparse.Namespace) -> int:
    from functools import partial

    from ovseg.data.scenes.writing import prepare

    splits = [] if args.only_bank else [split.strip() for split in args.splits.split(",")]
    say = partial(print, flush=True)
    prepare(args.output, splits, args.count, args.size, args.seed, args.cache, args.stamps, say)
    return 0


def _show(args: argparse.Namespace) -> int:
    from ovseg.data.registration import load_datasets
    from ovseg.errors import ConfigError

    if args.count < 1:
        raise ConfigError(f"--count is {args.count}; expected at least 1")
    _check_picture("--output", args.output)
    _draw(load_datasets([args.data], root=args.root, whole=False)[0], args.output, args.count)
    print(f"samples are drawn in {args.output}")
    return 0


def _check_picture(flag: str, path: Path) -> None:
    """Refuse a file that Pillow cannot write colours to, before anything is read."""
    import io

    from PIL import Image

    from ovseg.errors import ConfigError

    try:
        kind = Image.registered_extensions()[path.suffix.lower()]
        Image.new("RGB", (32, 32)).save(io.BytesIO(), kind)  # not all of those that it knows are for pictures
    except (KeyError, OSError, ValueError) as error:
        usual = ".png, .jpg, .webp, .bmp, .tif"
        raise ConfigError(f"{flag} is '{path}'; expected the name of a picture, such as one in {usual}") from error


def _draw(dataset: Dataset, path: Path, count: int = 8) -> None:
    """Draw samples into a file.

    Raises:
        InputError: None can be drawn, or the file cannot be written.
    """
    from ovseg.evaluation.reports.pictures import draw_samples
    from ovseg.system.files import atomic_write

    picture = draw_samples(dataset, count)
    with atomic_write(path) as temporary:
        picture.save(temporary)


def _check(args: argparse.Namespace) -> int:
    """Check, print and draw."""
    from ovseg.data.checking import check_dataset
    from ovseg.data.registration import load_datasets
    from ovseg.errors import ConfigError, InputError

    if args.limit is not None and args.limit < 1:
        raise ConfigError(f"--limit is {args.limit}; expected at least 1")
    if args.drawing:
        _check_picture("--drawing", args.drawing)
    dataset = load_datasets([args.data], args.vocabulary, args.root, args.rename, whole=False)[0]
    report = check_dataset(dataset, args.limit)
    report.problems += _changes(args.data, args.root)
    try:
        if args.drawing:
            _draw(dataset, args.drawing)
    except InputError as error:
        report.problems.append(str(error))
    if args.json:
        print(json.dumps(to_json(report), indent=1))
    else:
        _print(report)
        if args.drawing and args.drawing.is_file():
            print(f"samples are drawn in {args.drawing}")
        _print_findings(report)
    return 1 if report.faults else 0


def _changes(name: str, root: Path | None) -> list[str]:
    """Return what `prepare` found wrong with a benchmark, and what has changed since; nothing of own folders."""
    from ovseg.data.benchmarks import benchmark_names, data_root, find_places
    from ovseg.data.benchmarks.prepare import check_only

    return check_only(find_places(name, data_root(root))[0]).problems if name in benchmark_names() else []


def to_json(report: Report) -> dict[str, Any]:
    """Return a report as JSON values."""
    rows = zip(report.dataset.classes.names, report.in_images.tolist(), report.pixels.tolist(), strict=True)
    return {
        "data": report.dataset.name,
        "kind": report.dataset.kind,
        "images": report.images,
        "bits": {str(bits): files for bits, files in sorted(report.depths.items())},
        "void_pixels": report.void,
        "dropped": [
            {"name": report.dataset.file_classes[place].name, "pixels": int(report.dropped[place])}
            for place in (report.dataset.remap < 0).nonzero()[0].tolist()
        ],
        "classes": [{"name": name, "images": images, "pixels": pixels} for name, images, pixels in rows],
        "problems": report.faults,
        "left_out": report.left_out,
        "hints": report.hints,
        "notes": report.notes,
        "kinds": report.kinds,
    }


def _print(report: Report) -> None:
    from rich.table import Table
    from rich.text import Text

    from ovseg.system import terminal

    dataset = report.dataset
    found = int((report.in_images > 0).sum())
    bits = "".join(f", {files} labels of {depth} bits" for depth, files in sorted(report.depths.items()))
    print(f"{dataset.name}: {dataset.kind}, {report.images} of {len(dataset.records)} images are sound{bits}")
    view = Table()
    for column in ("id", "class", "images", "pixels"):
        view.add_column(column, justify="left" if column == "class" else "right")
    total = max(int(report.pixels.sum()) + report.void, 1)
    order = sorted(range(len(dataset.classes)), key=lambda i: -int(report.pixels[i]))
    for i in order[: min(found, 20)]:
        share = f"{100 * int(report.pixels[i]) / total:.1f} %"
        view.add_row(str(i), Text(dataset.classes[i].name), str(report.in_images[i]), share)
    terminal.console().print(view)
    print(f"{found} of {len(dataset.classes)} classes occur; {100 * report.void / total:.1f} % of the pixels are void")


def _print_findings(report: Report) -> None:
    """Print notes, hints and problems, and how many there are."""
    from ovseg.data.matching import counted

    for name, lines in (("note", report.notes), ("hint", report.hints), ("problem", report.faults)):
        _print_lines(name, lines)
    got = f" ({len(report.left_out)} got around: training and evaluation go on with the rest)"
    hints = f", {counted(len(report.hints), 'hint', 'hints')}" if report.hints else ""
    print(f"{counted(len(report.faults), 'problem', 'problems')}{got if report.left_out else ''}{hints}")


def _print_lines(name: str, lines: list[str]) -> None:
    """Print lines behind their name; those beyond a number of each kind are counted."""
    from ovseg.data.findings import brief
    from ovseg.system import terminal

    for line in brief(lines):
        print(f"{name}: {terminal.one_line(line)}")
