"""Train a model on named data sets or on your own folder; the same arguments as tools/train_net.py.

The folder of the run (OUTPUT_DIR) gets last.pt (what --resume goes on from), log.txt, log.jsonl, tensorboard/ and, at
the end, a model that `ovseg segment --model FOLDER` takes.
"""

from __future__ import annotations

import argparse
from typing import Any

EXAMPLES = """\
examples:
  ovseg train --config-file san/san_mini_scenes.yaml --data mydata --output runs/mine
  ovseg train --config-file san/san_mini_scenes.yaml --data mydata --output runs/mine --resume
  ovseg train --config-file san/san_vit_b_16_coco_stuff.yaml --num-gpus 8 SOLVER.AMP.DTYPE bf16
  ovseg train --config-file runs/mine/config.yaml --eval-only MODEL.WEIGHTS runs/mine/model.safetensors

several machines: --num-machines 2 --machine-rank 0 --dist-url tcp://HOST:29500 on each, or torchrun tools/train_net.py
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``ovseg train``."""
    add = parser.add_argument
    add("--config-file", required=True, metavar="CONFIG", help="a YAML file, a shipped one, or a model to go on from")
    add("--data", metavar="DIR", help="folder or name to train on: DATASETS.TRAIN, and DATASETS.TEST without --val")
    add("--val", metavar="DIR", help="folder or name to validate on: DATASETS.TEST")
    add("--output", metavar="DIR", help="folder of the run: OUTPUT_DIR")
    add("--resume", action="store_true", help="go on with the run in the folder, if there is one")
    add("--eval-only", action="store_true", help="only evaluate MODEL.WEIGHTS on DATASETS.TEST")
    add("--num-gpus", type=int, default=1, metavar="N", help="processes on this machine (default: 1)")
    add("--num-machines", type=int, default=1, metavar="N", help="machines (default: 1)")
    add("--machine-rank", type=int, default=0, metavar="I", help="number of this machine, from 0")
    add("--dist-url", default="auto", metavar="URL", help="tcp://HOST:PORT of machine 0, with several machines")
    add("options", nargs="*", metavar="KEY VALUE", help="changes to the config, such as SOLVER.MAX_ITER 1000")


def run(args: argparse.Namespace) -> int:
    """Start the processes."""
    from ovseg.engine.launch import launch
    from ovseg.engine.run import train

    launch(
        train,
        (args.config_file, changes(args), args.resume, args.eval_only),
        args.num_gpus,
        args.num_machines,
        args.machine_rank,
        args.dist_url,
    )
    return 0


def changes(args: argparse.Namespace) -> dict[str, Any]:
    """Return what the command line changes in the config.

    Raises:
        ConfigError: A key has no value.
    """
    from ovseg.engine.run import read_options
    from ovseg.system.values import merge

    own: dict[str, Any] = {}
    if args.data:
        own["DATASETS"] = {"TRAIN": (args.data,), "TEST": (args.val or args.data,)}
    elif args.val:
        own["DATASETS"] = {"TEST": (args.val,)}
    if args.output:
        own["OUTPUT_DIR"] = args.output
    return merge(own, read_options(args.options))
