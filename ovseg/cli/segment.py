"""Label every pixel of images with your words.

For each image three files are written, or those that --formats names: STEM.overlay.png (the picture with coloured
labels and a legend), STEM.labels.png (16 bit; value = position in your list from 0, 65535 = no class) and STEM.json
(area and mean score of each class, settings). Ids that your list gives to classes stand in COCO files and JSON, with
--own-ids in label maps too. Each file is complete or absent, and replaces that of an earlier run. Results that lie in a
folder of images are not segmented again.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from ovseg.cli.outputs import choose_inputs
from ovseg.cli.startup import without_collection
from ovseg.system.overlap import overlapped, worker_threads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from rich.table import Table

    from ovseg.errors import OvsegError
    from ovseg.result.segmentation import Segmentation
    from ovseg.zoo import Spec

    Done: TypeAlias = tuple[Segmentation, Callable[[], dict[str, str]]]

EXAMPLES = """\
examples:
  ovseg segment photo.jpg --classes "cat, red chair|armchair, window" --output out
  ovseg segment photos/ --classes words.txt --background words --output out
  ovseg segment a.png b.png --classes voc20 --model sclip/ViT-B-16/openai --device cuda --output out
  ovseg segment photo.jpg --classes "cat, sofa" --background threshold:0.4 --json --output out
  ovseg segment photo.jpg --model zero_guidance/mini --output out

examples of text engineering (JSON files by class name; those for voc20 are shipped, see docs/text_engineering.md):
  ovseg segment photo.jpg --classes "cat, dog" --definitions definitions_voc20.json --definition-weight 0.1 --output out
  ovseg segment photo.jpg --classes "cat, dog" --descriptions descriptions_voc20.json --output out
  ovseg segment photo.jpg --classes "bird, dog" --subclasses subclasses_voc20.json --output out
  ovseg segment photo.jpg --classes "cat, dog" --model mini-clearclip --templates openai80 --autoclip --output out
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``ovseg segment``."""
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="image files, or folders of them")
    parser.add_argument(
        "--classes",
        help="'cat|kitten, sofa', a file, or a preset such as voc20; docs/words.md lists all forms (default: the "
        "model's own, if it has some, as zero_guidance/mini has)",
    )
    parser.add_argument(
        "--model", default="mini", help="a name of `ovseg models`, a folder, or a config (default: mini)"
    )
    parser.add_argument(
        "--protocol", default="", help="settings of a benchmark (voc21, coco171, ...) or common (default: the model's)"
    )
    parser.add_argument("--background", help="none | threshold:0.4 | words | 'sky, wall' (default: that of the model)")
    parser.add_argument(
        "--templates", help="none | simple | image_of | vild14 | openai80 | maskclip85 (default: that of the model)"
    )
    _add_text_arguments(parser)
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder for the results")
    parser.add_argument(
        "--formats",
        default="overlay,labels,report",
        help="what is written for each image: overlay, labels, report, archive, coco, coco_instances, coco_panoptic "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--own-ids",
        action="store_true",
        help="values of label maps are the ids of your list (COCO categories, id2label, '7: sand'), not places in it",
    )
    parser.add_argument("--device", default="auto", help="auto | cpu | cuda | mps")
    parser.add_argument("--dtype", default="auto", help="auto | fp32 | bf16 | fp16")
    parser.add_argument("--packed", action="store_true", help="lay weights out for the CPU")
    parser.add_argument("--compile", action="store_true", help="torch.compile the network: slow start, faster images")
    parser.add_argument("--batch-size", type=int, default=1, help="images per pass (default: 1)")
    parser.add_argument("--json", action="store_true", help="print one JSON line per image, and nothing else")


def _add_text_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `TextOptions`, each under the name of its ``dest``; None leaves the model's own."""
    group = parser.add_argument_group("text engineering (default: that of the model)")
    group.add_argument(
        "--definitions", dest="auxiliary", metavar="FILE", help="mix a definition of each class into its names"
    )
    group.add_argument(
        "--definition-weight",
        dest="auxiliary_weight",
        type=float,
        metavar="W",
        help="its share, 0..1 (0.2 unless the model says otherwise)",
    )
    group.add_argument("--descriptions", metavar="FILE", help="sentences on each class take the place of its names")
    group.add_argument(
        "--descriptions-with-templates", action="store_true", default=None, help="average them with the names instead"
    )
    group.add_argument("--subclasses", metavar="FILE", help="kinds of each class stand for it too")
    group.add_argument(
        "--autoclip",
        type=float,
        nargs="?",
        const=0.85,
        metavar="SHARE",
        help="weigh the templates for each image; entropy of the weights, 0..1 of the largest (no number: 0.85)",
    )


def run(args: argparse.Namespace) -> int:
    """Segment the images; a broken one is reported by name, the others are done, and the exit code is 1."""
    with without_collection():
        from ovseg.contract import check_want
        from ovseg.result.files import needs_of, plan_files, write_files
        from ovseg.zoo import load_spec, resolve

        images, left_out = choose_inputs(args.images)
        if left_out:
            what = f"{left_out} results of earlier runs are left out"
            print(f"note: {what}; name a file itself to segment it", file=sys.stderr)
        formats = [name.strip() for name in args.formats.split(",")]
        options = {"own_ids": True} if args.own_ids else {}
        bases = plan_files(images, args.output, formats, options)
        spec = resolve(args.model, args.protocol, _overrides(_text_options(args)))
        _check_words(args, spec)
        segmenter = load_spec(spec, args.device, args.dtype, args.batch_size, args.packed, args.compile)
        check_want(needs_of(formats), segmenter.model.gives, segmenter.name)
        words = segmenter.words(args.classes, args.background, args.templates)
    failed: list[str] = []

    def report(source: Any, error: OvsegError) -> None:
        failed.append(str(source))
        print(f"error: {error}", file=sys.stderr)

    def finish(result: Segmentation) -> dict[str, str]:
        return write_files(result, bases[str(result.meta["path"])], formats, options)

    results = overlapped(finish, segmenter.stream(images, words, on_error=report), worker_threads(), worker_threads())
    for result, written in _progress(results, len(images)):
        files = written()
        if args.json:
            print(json.dumps({**files, **result.to_json(**options)}), flush=True)
        else:
            _print_result(result)
    if not args.json:
        print(f"{len(images) - len(failed)} of {len(images)} images segmented; results in {args.output}")
    return 1 if failed else 0


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


def _check_words(args: argparse.Namespace, spec: Spec) -> None:
    """Find mistakes in words, policy and templates before a model is loaded."""
    from ovseg.result.formats.labels import label_values
    from ovseg.vocabulary import Vocabulary, parse_background
    from ovseg.vocabulary.templates import check_templates

    if args.classes is None:
        args.classes = _own_words(spec)
    args.classes = Vocabulary.parse(args.classes)
    label_values(args.classes, args.own_ids)
    args.background = None if args.background is None else parse_background(args.background)
    if args.templates is not None:
        check_templates(args.templates)
    if given := _text_options(args):
        _check_text(args, spec, given)


def _own_words(spec: Spec) -> str:
    """Return the words that the model has of its own."""
    from ovseg.errors import VocabularyError

    words: str = spec.config.MODEL.TEXT.VOCABULARY
    if not words:
        raise VocabularyError(
            f"no classes were given and {spec.name} has none of its own; give --classes 'cat, sofa', or a model that "
            "has, such as --model zero_guidance/mini"
        )
    return words


def _text_options(args: argparse.Namespace) -> dict[str, Any]:
    """Return the options of text engineering that were given."""
    from ovseg.vocabulary import TextOptions

    values = {field.name: getattr(args, field.name) for field in dataclasses.fields(TextOptions)}
    return {key: value for key, value in values.items() if value is not None}


def _overrides(options: dict[str, Any]) -> dict[str, Any]:
    """Return options of text engineering as changes to a config."""
    return {"MODEL": {"TEXT": {key.upper(): value for key, value in options.items()}}}


def _check_text(args: argparse.Namespace, spec: Spec, given: dict[str, Any]) -> None:
    """Find mistakes in text engineering: in the files that were given, and together with what the model has."""
    from ovseg.errors import ConfigError
    from ovseg.vocabulary import TextOptions, resolve_templates

    node = spec.config.MODEL.TEXT
    options = TextOptions.from_config(node)
    options.check_templates(len(resolve_templates(args.templates or node.TEMPLATES)))
    for flag, value, needs, file in (
        ("--definition-weight", args.auxiliary_weight, "--definitions", options.auxiliary),
        ("--descriptions-with-templates", args.descriptions_with_templates, "--descriptions", options.descriptions),
    ):
        if value is not None and not file:
            raise ConfigError(f"{flag} changes nothing without a file; give one by {needs} FILE")
    for key in given.keys() & options.files.keys():
        options.files[key].require(args.classes)


def _progress(results: Iterable[Done], total: int) -> Iterator[Done]:
    """Show a bar on the terminal while many images are worked on; it goes to stderr."""
    from rich.console import Console
    from rich.progress import Progress

    console, disable = Console(stderr=True), total < 3 or not sys.stderr.isatty()
    # Rich would lead all that is printed meanwhile through the bar's own stream; results for a pipe must not go there.
    to_terminal = sys.stdout.isatty()
    with Progress(console=console, transient=True, redirect_stdout=to_terminal, disable=disable) as progress:
        yield from progress.track(results, total=total, description="segmenting")


def _print_result(result: Segmentation) -> None:
    from rich.console import Console

    meta = result.meta
    print(f"{meta['image']} ({meta['model']}, {meta['timings']['seconds']:.2f} s)")
    Console().print(table(result))
    for note in result.meta["notes"]:
        print(f"note: {note}")
