"""Label every pixel of images with your words.

For each image three files are written: STEM.overlay.png (the picture with coloured labels and a legend),
STEM.labels.png (16 bit; value = position in your list from 0, 65535 = no class) and STEM.json (area and mean score of
each class, settings).
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from ovseg.data.images import expand_inputs, output_stems
from ovseg.errors import OvsegError
from ovseg.files import check_writable
from ovseg.segmentation import Segmentation

EXAMPLES = """\
examples:
  ovseg segment photo.jpg --classes "cat, red chair|armchair, window" --output out
  ovseg segment photos/ --classes words.txt --background words --output out
  ovseg segment a.png b.png --classes voc20 --model sclip/ViT-B-16/openai --device cuda --output out
  ovseg segment photo.jpg --classes "cat, sofa" --background threshold:0.4 --json --output out
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``ovseg segment``."""
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="image files, or folders of them")
    parser.add_argument(
        "--classes", required=True, help="'cat|kitten, sofa', a .txt or .json file, or a preset such as voc20"
    )
    parser.add_argument(
        "--model", default="mini", help="a name of `ovseg models`, a folder, or a config (default: mini)"
    )
    parser.add_argument("--background", help="none | threshold:0.4 | words | 'sky, wall' (default: that of the model)")
    parser.add_argument("--templates", help="simple | vild14 | openai80 | none (default: that of the model)")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder for the results")
    parser.add_argument("--device", default="auto", help="auto | cpu | cuda | mps")
    parser.add_argument("--dtype", default="auto", help="auto | fp32 | bf16 | fp16")
    parser.add_argument("--batch-size", type=int, default=1, help="images per pass (default: 1)")
    parser.add_argument("--json", action="store_true", help="print one JSON line per image instead of tables")


def run(args: argparse.Namespace) -> int:
    """Segment the images; a broken one is reported by name, the others are done, and the exit code is 1."""
    from ovseg.zoo import load

    sources = expand_inputs(args.images)
    stems = dict(zip(map(str, sources), output_stems([str(source) for source in sources]), strict=True))
    check_writable(args.output)
    segmenter = load(args.model, args.device, args.dtype, args.batch_size)
    segmenter.set_vocabulary(args.classes, args.background, args.templates)
    failed: list[str] = []

    def report(source: Any, error: OvsegError) -> None:
        failed.append(str(source))
        print(f"error: {error}", file=sys.stderr)

    console = Console(quiet=args.json)
    results = segmenter.stream(sources, on_error=report)
    with Progress(
        console=Console(stderr=True), transient=True, disable=len(sources) < 3 or not sys.stderr.isatty()
    ) as progress:
        for result in progress.track(results, total=len(sources), description="segmenting"):
            written = write(result, args.output, stems[str(result.meta["path"])])
            if args.json:
                print(json.dumps({**written, **result.to_json()}), flush=True)
            else:
                console.print(table(result))
    done = len(sources) - len(failed)
    console.print(f"{done} of {len(sources)} images: results in [bold]{args.output}[/bold]")
    return 1 if failed else 0


def write(result: Segmentation, folder: Path, stem: str) -> dict[str, str]:
    """Write the three files of one result; each is complete or absent."""
    from ovseg.files import atomic_write

    files = {
        kind: folder / f"{stem}.{suffix}"
        for kind, suffix in (("overlay", "overlay.png"), ("labels", "labels.png"), ("report", "json"))
    }
    with atomic_write(files["overlay"]) as temporary:
        result.overlay().save(temporary)
    result.save(files["labels"])
    result.save(files["report"])
    return {kind: str(path) for kind, path in files.items()}


def table(result: Segmentation) -> Table:
    """Return a table of the classes that were found, largest first."""
    view = Table(
        title=f"{result.meta['image']}  ({result.meta['model']}, {result.meta['timings']['seconds']:.2f} s)",
        title_justify="left",
    )
    for name, justify in (("class", "left"), ("area", "right"), ("score", "right")):
        view.add_column(name, justify=justify)  # type: ignore[arg-type]
    for segment in sorted(result.segments, key=lambda s: -s.area):
        view.add_row(segment.name, f"{100 * segment.area_fraction:.1f} %", f"{segment.score:.2f}")
    rest = 1 - sum(segment.area_fraction for segment in result.segments)
    if rest > 5e-4:
        view.add_row("[dim]no class[/dim]", f"{100 * rest:.1f} %", "")
    view.caption = "\n".join(result.meta["notes"]) or None
    return view
