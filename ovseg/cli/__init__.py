"""The command line: ``ovseg segment | models | train | datasets | ...``. Thin: it parses, calls the library, prints.

The modules of the commands import nothing heavy by themselves, only in ``run``: help is there at once.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import textwrap
import warnings
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

from ovseg._version import __version__
from ovseg.cli.process import Stopped, ends_in_order, lost_output, safe_streams
from ovseg.errors import EnvironmentProblem, OvsegError, unknown_name
from ovseg.system.cache_dir import house_libraries
from ovseg.system.terminal import one_line
from ovseg.system.warned import keep

COMMANDS = {
    "segment": "label every pixel of images with your words",
    "label": "label whole folders, archives and videos as a job that resumes",
    "serve": "open a web page: photographs and words in a browser",
    "demo": "segment the example photographs that come with the package",
    "models": "list models: licence, size, where weights come from",
    "download": "fetch the weights of models, for a machine that goes offline later",
    "train": "train a model, on your own data too",
    "export-checkpoint": "write the model that a training has come to so far",
    "export": "write a model as ONNX or for PyTorch, with words as inputs",
    "push": "share a model that was trained here on the Hugging Face hub",
    "eval": "evaluate a model on a data set: result.json and a report",
    "compare": "compare evaluations: intervals, classes, pictures",
    "datasets": "prepare benchmarks, check and draw data sets",
    "build-ops": "compile the operators, which makes some models faster",
    "install-detectron2": "bring Detectron2's Python part, which compiles nothing",
    "doctor": "check the installation and say what mends it",
    "cache": "list or remove weights and text embeddings on this disk",
}

EXAMPLES = """\
examples:
  ovseg segment photo.jpg --classes "cat, red chair|armchair, window" --output out
  ovseg segment photos/ --classes words.txt --background words --output out
  ovseg models
  ovseg download fast
  ovseg doctor

exit codes: 0 all done, 1 a part failed and the rest was done, 2 a mistake in what was asked for, 130 interrupted,
129 and 143 ended by SIGHUP and SIGTERM
"""


class _Parser(argparse.ArgumentParser):
    """Reports mistakes as all other errors are reported: one line, exit code 2."""

    def error(self, message: str) -> NoReturn:
        """Print the mistake and leave."""
        self.exit(2, f"error: {message}; see `{self.prog} --help`\n")


class _Help(argparse.RawDescriptionHelpFormatter):
    """Keeps names such as coco-instance whole, so that they can be copied."""

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)


def build_parser() -> argparse.ArgumentParser:
    """Build the parser with one subcommand per module of this package."""
    parser = _Parser(
        prog="ovseg",
        description="Dense open-vocabulary segmentation: any image, any words, a label for every pixel.",
        epilog=EXAMPLES,
        formatter_class=_Help,
    )
    parser.add_argument("--version", action="version", version=f"ovseg {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, summary in COMMANDS.items():
        module = import_module(f"ovseg.cli.{name.replace('-', '_')}")
        sub = subparsers.add_parser(
            name,
            help=summary,
            description=module.__doc__,
            epilog=module.EXAMPLES,
            formatter_class=_Help,
        )
        module.add_arguments(sub)
        sub.set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        0 when all went well, 1 when a part failed (the rest was done), 2 for a user's mistake, 130 after ctrl-C, 129
        and 143 when the terminal went away or the process was told to end.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    with safe_streams() as out:
        try:
            status = _guarded(words)
        except SystemExit:  # help, or a mistake that argparse has told of
            out.flush()
            if out.problem is None:
                raise
            status = 1
        out.flush()
        if problem := lost_output(out):
            print(f"error: {problem}", file=sys.stderr)
        return max(status, 1) if out.problem is not None else status


def _guarded(words: list[str]) -> int:
    """Run a command; what goes wrong becomes a line and an exit code."""
    try:
        if words and words[0] not in COMMANDS and not words[0].startswith("-"):
            raise unknown_name("command", words[0], COMMANDS)
        args = build_parser().parse_args(words)
        args.warnings = []  # those that were shown, for commands that count them
        house_libraries()
        os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # what it tries again; the outcome is our line
        with warnings.catch_warnings(), ends_in_order():
            warnings.showwarning = lambda message, *_args, **_options: _show_warning(message, args.warnings)
            # Detectron2 scripts functions at import, which nobody here can mend.
            warnings.filterwarnings("ignore", r"`torch\.jit\.script` is deprecated", FutureWarning)
            warnings.filterwarnings("always", module="PIL")  # once for each file, not once for all
            return _run(args)
    except OvsegError as error:
        for line in str(error).split("\nerror: "):  # several at once
            print(f"error: {one_line(line)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interrupt:
        number = interrupt.number if isinstance(interrupt, Stopped) else signal.SIGINT
        print("interrupted; what was written before is complete", file=sys.stderr)
        return 128 + int(number)


def _run(args: argparse.Namespace) -> int:
    try:
        return int(args.run(args))
    except ModuleNotFoundError as error:
        raise EnvironmentProblem(f"{error}; run `ovseg doctor`, it says what to install") from error
    except OSError as error:
        if error.errno is None:  # raised by a library for reasons of its own, not by the system
            raise
        named = f"'{error.filename}': " if error.filename else ""
        reason = error.strerror or error
        raise EnvironmentProblem(
            f"{named}{reason}; check the path, its permissions and the space on its disk"
        ) from error


def _show_warning(message: Warning | str, told: list[str]) -> None:
    """Print a warning as one line, without the place in the source; what a file gives rise to is a note on it."""
    if not keep(message):
        line = one_line(" ".join(str(message).split()))
        told.append(line)
        print(f"warning: {line}", file=sys.stderr)
