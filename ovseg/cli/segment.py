"""Label every pixel of images with your words.

For each image three files are written, or those that --formats names: STEM.overlay.png (the picture with coloured
labels and a legend), STEM.labels.png (16 bit; value = position in your list from 0, 65535 = no class) and STEM.json
(area and mean score of each class, settings). Formats for other tools (COCO, YOLO, LabelMe, Label Studio, CVAT, VOC)
have files or folders of their own. Ids that your list gives to classes stand in COCO files and JSON, with
--own-ids in label maps too. Each file is complete or absent, and replaces that of an earlier run. Results that lie in a
folder of images are not segmented again.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ovseg.cli.formats import add_format_arguments, cleaning_options, format_options
from ovseg.cli.outputs import choose_inputs
from ovseg.cli.process import typed
from ovseg.cli.segment_report import Report
from ovseg.cli.startup import without_collection
from ovseg.errors import InputError
from ovseg.system.overlap import overlapped, worker_threads

if TYPE_CHECKING:
    from ovseg.result.formats import Place, Written
    from ovseg.result.records import RecordFile
    from ovseg.result.segmentation import Segmentation
    from ovseg.vocabulary import Vocabulary
    from ovseg.zoo import Spec

_REPORT = "report"

EXAMPLES = """\
examples:
  ovseg segment photo.jpg --classes "cat, red chair|armchair, window" --output out
  ovseg segment photos/ --classes words.txt --background words --output out
  ovseg segment a.png b.png --classes voc20 --model sclip/ViT-B-16/openai --device cuda --output out
  ovseg segment photo.jpg --classes "cat, sofa" --background threshold:0.4 --json --output out
  ovseg segment a.png b.png --classes "field, river" --bands 3,2,1 --max-pixels 200000000 --output out
  ovseg segment photos/ --classes words.txt --quiet --strict --output out
  ovseg segment photos/ --classes "cat, sofa" --formats png,coco-semantic,cvat --min-area 0.1% --output out
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
        type=typed,
        help="'cat|kitten, sofa', a file, or a preset such as voc20; docs/words.md lists all forms (default: the "
        "model's own, if it has some, as zero_guidance/mini has)",
    )
    parser.add_argument(
        "--model",
        default="auto",
        help="a name of `ovseg models`, a folder, a config, or a file of `ovseg export` (default: auto)",
    )
    parser.add_argument(
        "--protocol", default="", help="settings of a benchmark (voc21, coco171, ...) or common (default: the model's)"
    )
    parser.add_argument(
        "--background",
        type=typed,
        help="none | threshold:0.4 | words | paired | 'sky, wall' (default: that of the model)",
    )
    parser.add_argument(
        "--templates",
        help="none | simple | image_of | cat_seg | vild14 | openai7 | openai80 | maskclip85 "
        "(default: that of the model)",
    )
    _add_text_arguments(parser)
    parser.add_argument(
        "--masks",
        type=Path,
        metavar="FILE",
        help="masks to be named by a mask classifier: .npy or .npz (Q, H, W), or a PNG of ids, 0 is none; for several "
        "images a folder of files called like them (default: the model's proposals)",
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder for the results")
    add_format_arguments(parser)
    parser.add_argument(
        "--bands", metavar="R,G,B", help="bands that are red, green and blue, from 1; or one for grey (default: 1,2,3)"
    )
    parser.add_argument(
        "--max-pixels", type=int, metavar="N", help="refuse larger images (default: 178956970, about 179 megapixels)"
    )
    parser.add_argument("--device", default="auto", help="auto | cpu | cuda | mps")
    parser.add_argument("--dtype", default="auto", help="auto | fp32 | bf16 | fp16")
    parser.add_argument("--packed", action="store_true", help="lay weights out for the CPU")
    parser.add_argument("--compile", action="store_true", help="torch.compile the network: slow start, faster images")
    parser.add_argument("--batch-size", type=int, default=1, help="images per pass (default: 1)")
    parser.add_argument("--json", action="store_true", help="print one JSON line per image, and nothing else")
    parser.add_argument("--quiet", action="store_true", help="print errors alone (and what --json prints)")
    parser.add_argument("--strict", action="store_true", help="a note or a warning is an error: exit code 1")


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
    group.add_argument("--linear", metavar="FILE", help="matrix that texts pass before they meet an image (LABCLIP)")
    group.add_argument(
        "--long-text",
        action="store_true",
        default=None,
        help="read texts that are longer than the model's context in windows, instead of cutting them",
    )


def run(args: argparse.Namespace) -> int:
    """Segment the images; a broken one is reported by name, the others are done, and the exit code is 1."""
    from ovseg.checkpoint.hub import quietly

    with without_collection(), quietly(args.quiet):
        from ovseg.contract import check_want
        from ovseg.result.cleaning import Cleaning
        from ovseg.result.files import check_words, finish_files, needs_of, plan_files
        from ovseg.zoo import load_spec, resolve

        report = Report(args.json, args.quiet, args.strict, args.own_ids)
        formats, options = [name.strip() for name in args.formats.split(",")], format_options(args)
        needs, clean = needs_of(formats), Cleaning(**cleaning_options(args))
        chosen = choose_inputs(args.images, args.output)
        notes: dict[str, list[str]] = {}
        refused: list[InputError] = []
        places = plan_files(
            chosen.images,
            args.output,
            formats,
            options,
            on_error=lambda _, error: refused.append(error),
            on_note=lambda path, note: notes.setdefault(str(path), []).append(note),
        )
        images = [path for path in chosen.images if str(path) in places]
        if not images:
            raise InputError("\nerror: ".join(map(str, refused)))
        bands, max_pixels = _reading(args)
        _check_request(args)  # before the model: `auto` may fetch one
        spec = resolve(args.model, args.protocol, _overrides(_text_options(args)))
        _complete_words(args, spec)
        check_words(args.classes, args.output, formats, options)
        segmenter = load_spec(spec, args.device, args.dtype, args.batch_size, args.packed, args.compile)
        check_want(needs, segmenter.model.gives, segmenter.name)
        for line in chosen.notes:
            report.note(line)
        for text in chosen.errors:
            report.error(text, images=0)
        for error in refused:
            report.error(error)
        report.failed += chosen.failed
        usual = () if spec.mend else segmenter.notes
        words = report.words(lambda: segmenter.words(args.classes, args.background, args.templates), usual)

    def finish(result: Segmentation) -> tuple[Segmentation, dict[str, Written]]:
        result = clean(result)
        result.meta["notes"] += notes.get(result.meta["path"], [])
        place = places[result.meta["path"]]
        result.meta["image"] = place.image
        result.meta["run_notes"] = [*chosen.errors, *chosen.notes]
        return result, write(result, place, formats, options)

    stream = segmenter.stream(
        images, words, on_error=lambda _, error: report.error(error), bands=bands, max_pixels=max_pixels
    )
    if args.masks is not None:
        from ovseg.meta_arch.mask_classifier.request import name_files

        stream = name_files(segmenter, images, args.masks, words, bands=bands, max_pixels=max_pixels)
    results = overlapped(finish, stream, worker_threads(), worker_threads())
    _report_all(
        results, report, len(images), lambda records: finish_files(records, args.classes, args.output, formats, options)
    )
    return report.finish(args.output, args.warnings)


def _report_all(
    results: Iterable[tuple[Segmentation, Callable[[], tuple[Segmentation, dict[str, Written]]]]],
    report: Report,
    images: int,
    finish: Callable[[RecordFile], list[str]],
) -> None:
    """Tell of all results as they come, and then write what holds all of them."""
    from ovseg.result.records import RecordFile

    records = RecordFile()
    with report.progress(images) as progress:
        for _, written in progress.over(results):
            try:
                result, files = written()
            except InputError as error:
                report.error(error)
            else:
                report.result(result, {name: str(one.path) for name, one in files.items()})
                records.add(files)
    if report.done:
        for note in finish(records):
            report.note(note)


def write(result: Segmentation, place: Place, formats: list[str], options: dict[str, Any]) -> dict[str, Written]:
    """Write the files of a result; what is noted on them, and their seconds, go into its report, which is written last.

    Raises:
        InputError: One cannot be written.
    """
    from ovseg.result.files import write_files

    start, timings = time.perf_counter(), result.meta["timings"]
    try:
        files = write_files(result, place, [name for name in formats if name != _REPORT], options)
        result.meta["notes"] += dict.fromkeys(note for one in files.values() for note in one.notes)
        timings["write"] = round(time.perf_counter() - start, 4)
        timings["seconds"] = round(timings["seconds"] + timings["write"], 4)
        return files | write_files(result, place, [name for name in formats if name == _REPORT], options)
    except OSError as error:  # Pillow's own, which say nothing of the file system
        raise InputError(f"results of '{result.meta['path']}' cannot be written ({error}); free some space") from error


def _reading(args: argparse.Namespace) -> tuple[tuple[int, ...] | None, int]:
    """Return which bands are used, and how many pixels an image may have.

    Raises:
        InputError: The bands are no numbers, or not three of them, or one.
        ConfigError: Not even one pixel is allowed.
    """
    from ovseg.data.arrays import check_bands
    from ovseg.data.decoding import MAX_PIXELS
    from ovseg.errors import at_least

    bands = None if args.bands is None else check_bands(args.bands.split(","))
    return bands, MAX_PIXELS if args.max_pixels is None else at_least("--max-pixels", args.max_pixels, 1)


def _check_request(args: argparse.Namespace) -> None:
    """Find mistakes in device, words, policy and templates before a model is looked for."""
    from ovseg.system.device import check_settings
    from ovseg.vocabulary import Vocabulary, parse_background
    from ovseg.vocabulary.templates import check_templates

    check_settings(args.device, args.dtype, args.batch_size)
    args.classes = None if args.classes is None else Vocabulary.parse(args.classes)
    args.background = None if args.background is None else parse_background(args.background)
    if args.templates is not None:
        check_templates(args.templates)


def _complete_words(args: argparse.Namespace, spec: Spec) -> None:
    """Take the model's own words where none were given, and find mistakes in text engineering."""
    if args.classes is None:
        args.classes = _own_words(spec)
    if given := _text_options(args):
        _check_text(args, spec, given)


def _own_words(spec: Spec) -> Vocabulary:
    """Return the words that the model has of its own."""
    from ovseg.errors import VocabularyError
    from ovseg.vocabulary import Vocabulary

    words = spec.own_words
    if not words:
        raise VocabularyError(
            f"no classes were given and {spec.name} has none of its own; give --classes 'cat, sofa', or a model that "
            "has, such as --model zero_guidance/mini"
        )
    return Vocabulary.parse(words)


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
