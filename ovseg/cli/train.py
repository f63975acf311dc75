"""Train a model on named data sets or on your own folder; the same arguments as Detectron2's train_net.py.

The folder of the run (OUTPUT_DIR) gets last.pt (what --resume goes on from), log.txt, log.jsonl, tensorboard/ and, at
the end, a model that `ovseg segment --model FOLDER` takes; before the end its last checkpoint is taken. --data brings
its own classes: words and test sets of the recipe go with the recipe's data. All images are read before the first
step, and once: the next start looks at sizes and times of the files.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

EXAMPLES = """\
examples:
  ovseg train --config-file san/san_mini_scenes.yaml --data mydata --val 10% --output runs/mine
  ovseg train --config-file san/san_mini_scenes.yaml --data mydata --val 10% --output runs/mine --resume
  ovseg train --config-file san/san_vit_b_16_coco_stuff.yaml --num-gpus 8 SOLVER.AMP.DTYPE bf16
  ovseg train --config-file runs/mine --eval-only
  ovseg train --config-file runs/mine --eval-only --val otherdata

several machines: --num-machines 2 --machine-rank 0 --dist-url tcp://HOST:29500 on each, or torchrun -m ovseg.cli train

exit codes: 0 trained (what a validation left out is named), 1 --eval-only could not use some images, 2 a mistake
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``ovseg train``."""
    add = parser.add_argument
    add("--config-file", required=True, metavar="CONFIG", help="a YAML file, a shipped one, or a model to go on from")
    add(
        "--data",
        action="append",
        metavar="DIR",
        help="folder or name to train on, with its own classes: DATASETS.TRAIN; several by as many flags",
    )
    add(
        "--val",
        action="append",
        metavar="DIR|N%",
        help="folder or name to validate on, or a share of the training images that is held out: DATASETS.TEST",
    )
    add("--vocabulary", metavar="WORDS", help="words in place of the classes of the data: DATASETS.VOCABULARY")
    add("--rename", metavar="OLD=NEW,..", help="names for its classes, or a file of them: DATASETS.RENAME")
    add("--output", metavar="DIR", help="folder of the run: OUTPUT_DIR")
    add("--resume", action="store_true", help="go on with the run in the folder, if there is one")
    add(
        "--adopt",
        action="store_true",
        help="with --resume: go on although data, classes, weights or settings have changed (the log says what), or "
        "were not recorded by an earlier version",
    )
    add("--skip-broken", action="store_true", help="leave out training images that cannot be used; the log names them")
    add("--eval-only", action="store_true", help="only evaluate MODEL.WEIGHTS on DATASETS.TEST")
    add("--num-gpus", type=int, default=1, metavar="N", help="processes on this machine (default: 1)")
    add("--num-machines", type=int, default=1, metavar="N", help="machines (default: 1)")
    add("--machine-rank", type=int, default=0, metavar="I", help="number of this machine, from 0")
    add("--dist-url", default="auto", metavar="URL", help="tcp://HOST:PORT of machine 0, with several machines")
    add("options", nargs="*", metavar="KEY VALUE", help="changes to the config, such as SOLVER.MAX_ITER 1000")
    _let_options_stand_anywhere(parser)


def _let_options_stand_anywhere(parser: argparse.ArgumentParser) -> None:
    """Take ``KEY VALUE`` pairs on both sides of a flag; argparse itself takes but one run of them."""
    parse = parser.parse_known_args

    def parse_known_args(args: Sequence[str] | None = None, namespace: Any = None) -> Any:
        found, rest = parse(args, namespace)
        loose = [word for word in rest if not word.startswith("--")]
        found.options = [*found.options, *loose]
        return found, [word for word in rest if word.startswith("--")]

    parser.parse_known_args = parse_known_args  # type: ignore[method-assign, assignment]


def run(args: argparse.Namespace) -> int:
    """Start the processes.

    Raises:
        ConfigError: Flags do not go together.
    """
    from ovseg.engine.launch import launch
    from ovseg.engine.run import evaluate, train
    from ovseg.errors import ConfigError

    flags = [f"--{name.replace('_', '-')}" for name in ("resume", "adopt", "skip_broken") if getattr(args, name)]
    if args.eval_only and flags:
        raise ConfigError(f"{', '.join(flags)} with --eval-only, which trains nothing; leave one out")
    if args.eval_only:
        work, given = evaluate, (args.config_file, changes(args))
    else:
        work, given = train, (args.config_file, changes(args), args.resume, args.adopt, args.skip_broken)  # type: ignore
    return launch(work, given, args.num_gpus, args.num_machines, args.machine_rank, args.dist_url)


def changes(args: argparse.Namespace) -> dict[str, Any]:
    """Return what the command line changes in the config.

    Raises:
        ConfigError: A key has no value.
    """
    from ovseg.engine.options import read_options
    from ovseg.system.values import merge

    own: dict[str, Any] = {}
    train, test = (None, args.val or args.data) if args.eval_only else (args.data, args.val)
    data = {"TRAIN": train, "TEST": test, "VOCABULARY": args.vocabulary, "RENAME": args.rename}
    if data := {key: tuple(value) if isinstance(value, list) else value for key, value in data.items() if value}:
        own["DATASETS"] = data
    if args.output:
        own["OUTPUT_DIR"] = args.output
    return merge(own, read_options(args.options))
