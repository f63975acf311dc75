"""Write a model as one file for ONNX Runtime or PyTorch, into which any words go.

Words are inputs of the graph (text embeddings and the class of each), so that one file serves all lists of them. The
file is compared with the model on three photographs and kept only if it says the same; `ovseg segment --model FILE`
and `ovseg.load(FILE)` run it. See docs/export.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ovseg.cli.process import typed

EXAMPLES = """\
examples:
  ovseg export mini --format onnx --dynamic --output mini.onnx
  ovseg export san-vit-b-16 --format onnx --resize --labels --classes "cat|kitten, sofa" --output san.onnx
  ovseg export clearclip/ViT-B-16/openai --format onnx --height 448 --width 448 --dtype int8 --output clearclip.onnx
  ovseg export sclip/ViT-B-16/openai MODEL.PROTOCOL.WINDOW 0 --format torch-export --dynamic --output sclip.pt2

The file is a model by name: ovseg segment photo.jpg --model mini.onnx --classes "cat, sofa" --output out
It must agree with PyTorch on 99.9 % of the labels of each photograph (fp16: 99 %, int8: 90 %), or none is left.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``ovseg export``."""
    add = parser.add_argument
    add("model", metavar="MODEL", help="as for `ovseg segment`, but by a name")
    add("options", nargs="*", metavar="KEY VALUE", help="changes to the config, such as MODEL.PROTOCOL.PAMR_STEPS 0")
    add(
        "--format",
        default="onnx",
        help="onnx | torch-export | aoti, which is compiled for this machine (default: onnx)",
    )
    add("--output", type=Path, required=True, metavar="FILE", help=".onnx, or .pt2 for the other formats")
    add("--overwrite", action="store_true", help="replace the file if it exists")
    add("--dtype", default="fp32", help="fp32 | fp16 | int8 (dynamic) of what sees images; others in onnx alone")
    size = parser.add_argument_group("size (default: that of a model that sees all images as squares)")
    size.add_argument("--height", type=int, default=0, metavar="H", help="pixels of the one size, with --width")
    size.add_argument("--width", type=int, default=0, metavar="W", help="pixels of the one size, with --height")
    size.add_argument("--dynamic", action="store_true", help="images of all sizes")
    inside = parser.add_argument_group("inside of the graph, for programs that have nothing else")
    inside.add_argument("--resize", action="store_true", help="photographs (H, W, 3) uint8 of any size go in")
    inside.add_argument(
        "--labels", action="store_true", help="a label and a score for every pixel of the input come out"
    )
    inside.add_argument(
        "--classes",
        type=typed,
        help="embed these words into the file; with them it needs no text tower (any others do)",
    )


def run(args: argparse.Namespace) -> int:
    """Export, and say how far the file agrees."""
    from ovseg.engine.options import read_options
    from ovseg.export.plan import Plan
    from ovseg.export.run import export

    given = ("output", "format", "dtype", "height", "width", "dynamic", "labels", "overwrite")
    plan = Plan(**{name: getattr(args, name) for name in given}, photo=args.resize)
    export(args.model, plan, args.classes, read_options(args.options) or None)
    return 0
