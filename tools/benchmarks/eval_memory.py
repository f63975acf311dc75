"""What `ovseg eval` of a whole FC-CLIP holds beyond the loaded model: for labels alone, and with PQ and AP.

Everything is the product's own: random weights of full size are written to a checkpoint that the evaluation loads, the
data set lies on disk, random embeddings of its words in the text cache. No query is dropped (object threshold 0).
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from PIL import Image

from benchmarks.common import CPU, PeakMemory, Recorder, Stage, in_fresh_process, positive
from benchmarks.evaluation import make_scene
from benchmarks.figures import Figure, add_report_arguments, check_report_arguments, report
from benchmarks.folder import make_photo
from benchmarks.models import SHIPPED, import_stages
from benchmarks.words import remember, vocabulary_with_synonyms
from ovseg.config import config_root
from ovseg.data.dataset import SEMANTIC
from ovseg.errors import EnvironmentProblem
from ovseg.evaluation.runs.measures import Measures
from ovseg.evaluation.runs.plan import Plan
from ovseg.ops.library import load_kernels
from ovseg.system import terminal
from ovseg.system.device import give_back
from ovseg.vocabulary import Vocabulary

SIZE = (1080, 1920)
REGIONS = 60
LABELS_LIMIT, OBJECTS_LIMIT = 700, 1200  # MB
RUNS = {"labels": (SEMANTIC,), "labels, PQ and AP": ()}
"""Name of each run, and its tasks; none are all that a panoptic ground truth can judge."""


@dataclass(frozen=True)
class Case:
    """What a process of its own does.

    Attributes:
        config: Of the model.
        work: Folder of everything that is written.
        classes: Length of the class list.
        tasks: Of the evaluation.
    """

    config: str
    work: Path
    classes: int
    tasks: tuple[str, ...] = ()

    @property
    def weights(self) -> Path:
        """The checkpoint."""
        return self.work / "model.pt"

    @property
    def data(self) -> Path:
        """The data set."""
        return self.work / "data"


@dataclass(frozen=True)
class Found:
    """Bytes over those of the loaded model: at most, and at most in each stage; and seconds of the model per image."""

    whole: int
    stages: dict[str, int]
    seconds: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the subcommand."""
    parser.add_argument("--config", default=str(config_root() / SHIPPED["fcclip"]), help="of an FC-CLIP (%(default)s)")
    parser.add_argument("--classes", type=positive, default=847, help="length of the class list (%(default)s)")
    parser.add_argument("--images", type=positive, default=2, help="photographs of 1920x1080 (%(default)s)")
    parser.add_argument("--labels-limit", type=float, default=LABELS_LIMIT, help="most MB for labels (%(default)s)")
    parser.add_argument("--objects-limit", type=float, default=OBJECTS_LIMIT, help="with PQ and AP (%(default)s)")
    add_report_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Measure and print; the status is 1 where a limit does not hold."""
    PeakMemory(CPU)
    before = check_report_arguments(args)
    import_stages().kind_of(args.config)  # mistakes come before the work
    figures: list[Figure] = []
    limits = dict(zip(RUNS, (args.labels_limit, args.objects_limit), strict=True))
    with tempfile.TemporaryDirectory() as folder, terminal.console().status("writing random weights ...") as status:
        work, kernels = Path(folder), load_kernels()
        if kernels is not None:  # the cache is another one, in which they shall be, too
            (work / "cache/ops").mkdir(parents=True)
            (work / "cache/ops" / kernels.name).symlink_to(kernels)
        environment = {"OVSEG_CACHE": str(work / "cache")}
        make_dataset(work / "data", vocabulary_with_synonyms(args.classes), args.images)
        in_fresh_process(make_model, Case(args.config, work, args.classes), "the model", environment)
        for name, tasks in RUNS.items():
            status.update(f"{name} ...")
            found = in_fresh_process(measure, Case(args.config, work, args.classes, tasks), name, environment)
            figures.append(Figure(f"{name}: over the loaded model", found.whole / 1e6, "MB", limits[name]))
            figures += [Figure(f"{name}: while it {stage}", peak / 1e6, "MB") for stage, peak in found.stages.items()]
            figures.append(Figure(f"{name}: model, per image", found.seconds, "s"))
    how = "operators in plain PyTorch" if kernels is None else "compiled operators"
    where = f"{args.classes} classes, {args.images} images of {SIZE[1]}x{SIZE[0]}, {how}"
    return report(f"ovseg eval, {Path(args.config).stem}, {where}", figures, args, before)


def make_model(case: Case) -> None:
    """Write a checkpoint with random weights, and random embeddings of all words into the text cache."""
    model = import_stages().build(case.config)
    torch.save({"model": model.state_dict()}, case.weights)
    remember(model.clip, vocabulary_with_synonyms(case.classes), model.default_templates)


def make_dataset(folder: Path, classes: Vocabulary, images: int) -> None:
    """Write a panoptic data set: photographs, and segments of random classes, of which every second is a thing."""
    categories = [
        {"id": i, "name": entry.name, "synonyms": entry.names[1:], "isthing": i % 2} for i, entry in enumerate(classes)
    ]
    for name in ("images", "panoptic"):
        (folder / name).mkdir(parents=True)
    annotations = []
    for index in range(images):
        make_photo(index, SIZE).save(folder / f"images/{index}.jpg", quality=90)
        scene = make_scene(SIZE, len(classes), REGIONS, index)
        ids = torch.from_numpy(scene.truth)
        colours = torch.stack([ids & 255, ids >> 8 & 255, ids >> 16], -1).to(torch.uint8)
        Image.fromarray(colours.numpy()).save(folder / f"panoptic/{index}.png", compress_level=1)
        annotations.append({"image_id": index, "file_name": f"{index}.png", "segments_info": scene.truth_infos})
    records = [{"id": i, "file_name": f"{i}.jpg", "height": SIZE[0], "width": SIZE[1]} for i in range(images)]
    whole = {"images": records, "annotations": annotations, "categories": categories}
    (folder / "panoptic.json").write_text(json.dumps(whole))


def measure(case: Case) -> Found:
    """Evaluate, and watch memory from the moment when the model is loaded.

    Raises:
        EnvironmentProblem: An image could not be evaluated, or the text tower was asked.
    """
    from ovseg.clip.base import BaseClip
    from ovseg.evaluation.runs import run as running
    from ovseg.evaluation.runs import worker
    from ovseg.segmenter import Segmenter

    stages = [
        Stage("reads", worker, "look"),
        Stage("encodes", Segmenter, "encode"),
        Stage("answers", Segmenter, "answer"),
        Stage("measures", Measures, "measure"),
        Stage("writes labels", running, "save_labels"),
        Stage("asks the text tower", BaseClip, "text", calls=0),
    ]
    model = {"WEIGHTS": str(case.weights), "FCCLIP": {"OBJECT_THRESHOLD": 0.0}}
    plan = Plan(str(case.data), case.config, tasks=case.tasks, overrides={"MODEL": model}, device=str(CPU))
    with ExitStack() as stack:
        watch = PeakMemory(CPU)
        stack.enter_context(mock.patch.object(Plan, "load", then_watch(Plan.load, watch, stack)))
        costs = stack.enter_context(Recorder(stages, memory=True).running())
        finished = running.evaluate([running.Job(plan, case.work / ("-".join(case.tasks) or "all"))])
    (result,) = finished or []
    problems = [image.error for image in result.log.ordered if image.error]
    problems += [stage.name for stage in stages if not stage.calls and costs[stage.name].calls]
    if problems:
        raise EnvironmentProblem(f"the evaluation did not run as it should ({problems[0]}); run `ovseg doctor`")
    peaks = {name: cost.peak - watch.level for name, cost in costs.items() if cost.calls}
    seconds = [image.seconds for image in result.log.ordered]
    return Found(watch.extra, peaks, sum(seconds) / len(seconds))


def then_watch(load: Callable[..., Any], watch: PeakMemory, stack: ExitStack) -> Callable[..., Any]:
    """Wrap the loading of a model: behind it memory is watched, until the stack is left."""

    @wraps(load)
    def loaded(*arguments: Any) -> Any:
        segmenter = load(*arguments)
        give_back(CPU)
        stack.enter_context(watch)
        return segmenter

    return loaded
