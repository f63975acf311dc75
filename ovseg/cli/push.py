"""Share a model that was trained here on the Hugging Face hub; `ovseg segment --model hf:OWNER/NAME` loads it anywhere.

The folder is that of `ovseg train` or `ovseg export-checkpoint`. The weights go as they are, the config without data
sets and folders of this machine, the classes, hashes of the training images (which tell a validation on them from one
on new images), and a model card; nothing else of the folder goes. The model is loaded from what is sent before it is
sent, and compared by checksums afterwards.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

EXAMPLES = """\
examples:
  ovseg push runs/mine me/shapes --licence Apache-2.0 --dry-run
  ovseg push runs/mine me/shapes --licence Apache-2.0
  ovseg push runs/mine me/shapes --update

who you are: `hf auth login` or HF_TOKEN, of a token that may write
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``ovseg push``."""
    parser.add_argument("folder", type=Path, metavar="RUN", help="folder of a training, or of an exported checkpoint")
    parser.add_argument("repo", metavar="OWNER/NAME", help="repository on the hub; it is made unless it is there")
    parser.add_argument(
        "--licence", default="", metavar="L", help="of these weights, such as Apache-2.0 (default: none)"
    )
    parser.add_argument("--private", action="store_true", help="nobody but the owners may see it")
    parser.add_argument("--update", action="store_true", help="add a commit to a repository that holds a model already")
    parser.add_argument("--dry-run", action="store_true", help="say what would go, print the card, and send nothing")


def run(args: argparse.Namespace) -> int:
    """Share it and say where it is."""
    from ovseg.checkpoint.hub.uploading import check_target
    from ovseg.engine.model_card import CARD
    from ovseg.engine.sharing import prepare, push_to_hub
    from ovseg.system.terminal import one_line

    def tell(line: str) -> None:
        print(one_line(line), file=sys.stderr, flush=True)

    if args.dry_run:
        check_target(args.repo, sends=False)
        with tempfile.TemporaryDirectory() as place:
            shared = prepare(args.folder, Path(place), args.repo, args.licence)
            for line in shared.lines:
                tell(line)
            print(shared.files[CARD].read_text(encoding="utf-8"))
        return 0
    done = push_to_hub(args.folder, args.repo, args.licence, args.private, args.update, tell)
    seen = "private" if done.private else "public"
    print(f"{done.address} ({seen}, commit {done.commit}): ovseg segment IMAGE --model hf:{args.repo}")
    return 0
