"""What is tried in an environment that has the wheel and nothing else: the commands of the first hour, in order."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from install_checks.environments import ROOT, CannotCheck, Environment, last_line

CLASSES = "sand|beach, water|sea, sky, sailboat, turtle|tortoise"
TRAINED = "runs/mine"


class Failed(Exception):
    """A step did not do what it should; the message says what."""


@dataclass(frozen=True)
class Bench:
    """Where steps run.

    Attributes:
        environment: Has the wheel.
        folder: A foreign folder, empty at first.
    """

    environment: Environment
    folder: Path

    def ovseg(self, *arguments: str, status: int = 0) -> str:
        """Run a command of ovseg; return what it printed.

        Raises:
            Failed: Its exit status is another one.
        """
        cache = {"OVSEG_CACHE": str(self.folder / "cache"), "OVSEG_OFFLINE": "1"}
        done = self.environment.run(["ovseg", *arguments], self.folder, cache)
        if done.returncode != status:
            raise Failed(f"`ovseg {' '.join(arguments)}` ended with {done.returncode}: {last_line(done.stdout)}")
        if "Traceback" in done.stdout:
            raise Failed(f"`ovseg {' '.join(arguments)}` printed a traceback: {last_line(done.stdout)}")
        return done.stdout

    def has(self, path: str) -> Path:
        """Return a file that a step should have written.

        Raises:
            Failed: It has not.
        """
        if not (self.folder / path).is_file():
            raise Failed(f"{path} is missing")
        return self.folder / path

    def python(self, code: str) -> str:
        """Run a line of Python; return the last line that it printed.

        Raises:
            Failed: It broke down.
        """
        done = self.environment.run(["python", "-c", code], self.folder)
        if done.returncode:
            raise Failed(last_line(done.stdout))
        return last_line(done.stdout)


def whence(bench: Bench) -> str:
    """The package that is imported is that of the environment, not of a checkout."""
    found = Path(bench.python("import ovseg; print(ovseg.__file__)"))
    if bench.environment.folder.resolve() not in found.resolve().parents or ROOT in found.resolve().parents:
        raise Failed(f"ovseg is imported from {found}")
    return bench.python("import ovseg, sys, torch; print(ovseg.__version__, 'torch', torch.__version__)")


def help_pages(bench: Bench) -> str:
    """Every command has a help page."""
    commands = commands_of(bench)
    for command in commands:
        bench.ovseg(command, "--help")
    return f"{len(commands)} commands"


def commands_of(bench: Bench) -> list[str]:
    """Return the names of all commands."""
    return re.findall(r"^    ([a-z][a-z0-9-]+) ", bench.ovseg("--help"), flags=re.M)


def doctor(bench: Bench) -> str:
    """Without Detectron2 the doctor says so, with --fix it brings it, and a second time it has nothing to do."""
    if "detectron2" not in bench.environment.run(["ovseg", "doctor"], bench.folder).stdout:
        raise Failed("`ovseg doctor` does not speak of detectron2")
    first = bench.ovseg("doctor", "--fix")
    again = bench.ovseg("doctor", "--fix")
    if "running:" in again:
        raise Failed("`ovseg doctor --fix` runs something the second time, too")
    return f"{first.count('running:')} lines run, then none"


def demo(bench: Bench) -> str:
    """The example photographs come with the package."""
    bench.ovseg("demo", "--output", "demo")
    return f"{len(list((bench.folder / 'demo').glob('*.overlay.png')))} overlays"


def segment(bench: Bench) -> str:
    """One image, words of one's own."""
    photo = _photo(bench)
    bench.ovseg("segment", photo, "--model", "mini", "--classes", CLASSES, "--output", "out")
    record = json.loads(bench.has("out/beach.json").read_text())
    bench.has("out/beach.overlay.png")
    bench.has("out/beach.labels.png")
    if record["meta"]["model"] != "mini":
        raise Failed(f"the model is {record['meta']['model']}")
    return ", ".join(one["name"] for one in record["classes"])


def label(bench: Bench) -> str:
    """A folder as a job whose result is a data set that can be checked."""
    folder = str(Path(_photo(bench)).parent)
    words = "sand|beach, water|sea, sky, table, road|street, grass"
    bench.ovseg(
        "label", folder, "--model", "mini", "--classes", words, "--formats", "dataset,labels", "--output", "labelled"
    )
    data = next((bench.folder / "labelled").rglob("classes.txt")).parent
    bench.ovseg("datasets", "check", str(data))
    (bench.folder / "mydata").symlink_to(data)
    return f"{len(list((data / 'images').iterdir()))} images"


def train(bench: Bench) -> str:
    """Five steps on what was labelled."""
    settings = [
        "SOLVER.MAX_ITER",
        "5",
        "SOLVER.IMS_PER_BATCH",
        "2",
        "DATALOADER.NUM_WORKERS",
        "0",
        "TEST.EVAL_PERIOD",
        "0",
        "SOLVER.OPTIMIZER",
        "ADAMW",  # Muon came with PyTorch 2.9
    ]
    bench.ovseg(
        "train", "--config-file", "san/san_mini_scenes.yaml", "--data", "mydata", "--output", TRAINED, *settings
    )
    steps = [json.loads(line) for line in bench.has(f"{TRAINED}/log.jsonl").read_text().splitlines()]
    bench.ovseg("segment", _photo(bench), "--model", TRAINED, "--output", "trained")
    bench.has("trained/beach.overlay.png")
    return f"loss {steps[-1]['loss']:.2f}"


def evaluate(bench: Bench) -> str:
    """The embedded model and the trained one, on the same folder."""
    for model, output in (("mini", "eval-mini"), (TRAINED, "eval-mine")):
        bench.ovseg("eval", "--model", model, "--dataset", "mydata", "--output", output)
        bench.has(f"{output}/result.json")
    metrics = json.loads(bench.has("eval-mini/result.json").read_text())["metrics"]
    return f"mIoU {metrics['semantic']['miou_present']['value']:.3f}"


def export(bench: Bench) -> str:
    """A program that runs without the model's code."""
    if "export" not in commands_of(bench):
        raise CannotCheck("this version has no `ovseg export`")
    call = ["export", "mini", "--format", "onnx", "--dynamic", "--output", "mini.onnx"]
    if bench.python("import ovseg.export.plan as p, torch; print(torch.__version__ >= p.OLDEST)") == "False":
        return last_line(bench.ovseg(*call, status=2))
    bench.ovseg(*call)
    bench.ovseg("segment", _photo(bench), "--model", "mini.onnx", "--classes", CLASSES, "--output", "exported")
    bench.has("exported/beach.overlay.png")
    return f"{bench.has('mini.onnx').stat().st_size / 2**20:.0f} MiB"


def operators(bench: Bench) -> str:
    """The sources of the operators are in the wheel and compile."""
    bench.ovseg("build-ops", "--no-cuda", "--output", "operators")
    return next((bench.folder / "operators").iterdir()).name


def serve(bench: Bench) -> str:
    """The page starts, answers, and ends by SIGTERM."""
    command = [bench.environment.bin / "ovseg", "serve", "--model", "mini", "--port", "0"]
    variables = bench.environment.variables({"OVSEG_CACHE": str(bench.folder / "cache"), "OVSEG_OFFLINE": "1"})
    with (bench.folder / "serve.log").open("w") as log:
        process = subprocess.Popen(
            [*map(str, command)], cwd=bench.folder, env=variables, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        address = _await_address(process, bench.folder / "serve.log")
        page = urllib.request.urlopen(address, timeout=60).read().decode(errors="replace")
    finally:
        process.terminate()
        status = process.wait(60)
    if "<html" not in page.lower():
        raise Failed(f"{address} answers with no page")
    return f"answers at {address}, ends with {status}"


def _await_address(process: subprocess.Popen[bytes], log: Path, patience: float = 240) -> str:
    """Wait until the server says where it is."""
    end = time.monotonic() + patience
    while time.monotonic() < end:
        if found := re.search(r"http://[\w.:\[\]]+", log.read_text(errors="replace")):
            return found[0]
        if process.poll() is not None:
            break
        time.sleep(0.5)
    raise Failed(f"`ovseg serve` said no address: {last_line(log.read_text(errors='replace'))}")


def _photo(bench: Bench) -> str:
    """Return the path of an example photograph of the package."""
    return bench.python("from ovseg.config import examples_root as root; print(root() / 'beach.jpg')")


STEPS: dict[str, Callable[[Bench], str]] = {
    "import": whence,
    "doctor": doctor,
    "help": help_pages,
    "demo": demo,
    "segment": segment,
    "label": label,
    "train": train,
    "eval": evaluate,
    "export": export,
    "build-ops": operators,
    "serve": serve,
}


@dataclass(frozen=True)
class Outcome:
    """What came of a step.

    Attributes:
        name: Of the step.
        status: ``ok``, ``FAIL`` or ``skipped``.
        remark: What was found, one line.
        seconds: How long it took.
    """

    name: str
    status: str
    remark: str
    seconds: float


def run_steps(bench: Bench, names: list[str] | None = None, say: Callable[[str], object] = print) -> list[Outcome]:
    """Run steps; a failure is an outcome, and those after it run, too.

    Args:
        bench: Where.
        names: Of steps; None runs all.
        say: Takes a line for each.
    """
    outcomes = []
    for name in names or list(STEPS):
        start = time.monotonic()
        try:
            status, remark = "ok", STEPS[name](bench)
        except CannotCheck as why:
            status, remark = "skipped", str(why)
        except Exception as problem:  # whatever goes wrong is what the step has found
            status, remark = (
                "FAIL",
                f"{type(problem).__name__}: {problem}" if not isinstance(problem, Failed) else str(problem),
            )
        outcomes.append(Outcome(name, status, remark, time.monotonic() - start))
        say(f"{status:>7} {name:<10} {remark} ({outcomes[-1].seconds:.0f} s)")
        sys.stdout.flush()
    return outcomes
