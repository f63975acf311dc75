"""Write the model that a training has come to so far: model.safetensors, config.yaml and classes.json of last.pt.

A run that was killed, or still goes on, becomes a model that `ovseg segment --model FOLDER` takes; with SOLVER.EMA it
is the average of the weights, as at the end of a run.
"""

from __future__ import annotations

import argparse
from pathlib import Path

EXAMPLES = """\
examples:
  ovseg export-checkpoint runs/mine
  ovseg export-checkpoint runs/mine --output models/mine-so-far
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``ovseg export-checkpoint``."""
    parser.add_argument("folder", type=Path, metavar="RUN", help="folder of a training (its OUTPUT_DIR)")
    parser.add_argument("--output", type=Path, metavar="DIR", help="where to (default: the folder of the training)")


def run(args: argparse.Namespace) -> int:
    """Write the model and say of which step it is."""
    from ovseg.engine.exporting import export_checkpoint

    state = export_checkpoint(args.folder, args.output)
    folder = args.output or args.folder
    print(f"{state}: ovseg segment IMAGE --model {folder}")
    return 0
