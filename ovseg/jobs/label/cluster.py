"""The work of a job on a Ray cluster: actors hold the model, blocks of images stream through them.

The actors read the inputs and write the results themselves, on paths that all machines share, or into an object store;
only rows come back, and the first process logs them. An actor that is lost is started again and does its blocks again.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ovseg.errors import EnvironmentProblem, InputError, OvsegError, at_least
from ovseg.jobs.identity import describe, made_by
from ovseg.jobs.label.containers import Item
from ovseg.jobs.label.labeller import Labeller
from ovseg.jobs.label.mirror import Mirror, Sender
from ovseg.jobs.label.plan import LabelPlan
from ovseg.jobs.rows import Row, appending
from ovseg.jobs.share import Tell
from ovseg.system.device import device_of_process
from ovseg.system.values import changes, dump

BATCH, BLOCK = 8, 32
"""Images that an actor gets at a time, and those that are shared out together."""
_STOP = "stop"  # the key of a row that is none: why the work cannot go on


class Cluster:
    """Works on a Ray cluster; see `ovseg.jobs.label.run.Runner`."""

    def __init__(self, address: str = "", actors: int | None = None, mirror: Mirror | None = None) -> None:
        """Connect.

        Args:
            address: Of the cluster, as `ray.init` takes it; empty for $RAY_ADDRESS, and without that for one on this
                machine alone.
            actors: How many hold the model; None for one on each GPU, or on each machine where there is none.
            mirror: The remote folder of the results; None where all machines see it as a path.

        Raises:
            EnvironmentProblem: Ray is not installed, or the cluster cannot be reached.
        """
        try:
            import ray
            import ray.data
        except ImportError as error:
            raise EnvironmentProblem("--ray needs Ray Data; run `pip install 'ovseg[cluster]'`") from error
        logging.getLogger("ray.data").setLevel(logging.ERROR)  # its plans are no news to who labels
        if not ray.is_initialized():
            try:
                ray.init(address or None, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
            except Exception as error:  # ConnectionError, RuntimeError, ValueError, ...
                reason = " ".join(str(error).split())[:160]
                raise EnvironmentProblem(f"no Ray cluster at '{address or 'this machine'}' ({reason})") from error
        self._ray, self._mirror = ray, mirror
        gpus = int(ray.cluster_resources().get("GPU", 0))
        machines = sum(bool(node["Alive"]) for node in ray.nodes())
        self.actors = at_least("--processes", gpus or machines if actors is None else actors, 1)
        cores = int(ray.cluster_resources().get("CPU", 1))
        self._resources: dict[str, Any] = {
            "num_gpus": 1 if gpus else 0,
            "num_cpus": max(1, 1 if gpus else cores // self.actors),
        }
        self._there: set[str] | None = None

    def describe(self, plan: LabelPlan) -> dict[str, Any]:
        """Load the model on the cluster, and say what makes the results there."""
        found = self._ray.get(self._ray.remote(**self._resources)(_describe).remote(plan))
        if isinstance(found, OvsegError):
            raise found
        return dict(found)

    def run(self, plan: LabelPlan, folder: Path, made: Mapping[str, Any], items: Sequence[Item], tell: Tell) -> None:
        """Label images."""
        if self._mirror is not None:
            self._mirror.send(folder)  # what makes the results lies there before the first of them
        send = Sender(self._mirror, folder) if self._mirror else lambda: None
        with appending(folder, "ray") as append:
            for row in self._rows(plan, folder, made, items):
                append(row)
                tell(bool(row["error"]))
                send()

    def exists(self, folder: Path, name: str) -> bool:
        """Tell whether a result is there."""
        if self._mirror is None:
            return (folder / name).is_file()
        if self._there is None:
            self._there = self._mirror.names()
        return name in self._there

    def _rows(self, plan: LabelPlan, folder: Path, made: Mapping[str, Any], items: Sequence[Item]) -> Iterator[Row]:
        data = self._ray.data
        data.DataContext.get_current().enable_progress_bars = False
        target = self._mirror.url if self._mirror else folder.resolve()
        lines = data.from_items(
            [{"item": dump(asdict(item))} for item in items], override_num_blocks=-(-len(items) // BLOCK)
        )
        rows = lines.map_batches(
            _Actor,
            fn_constructor_args=(plan, target, dict(made)),
            batch_size=BATCH,
            compute=data.ActorPoolStrategy(size=min(self.actors, -(-len(items) // BATCH))),
            **self._resources,
        )
        for one in rows.iter_rows():
            row: Row = json.loads(one["row"])
            if _STOP in row:
                raise InputError(row[_STOP])
            yield row


class _Actor:
    """Holds the model on a machine of the cluster."""

    def __init__(self, plan: LabelPlan, target: Path | str, made: Mapping[str, Any]) -> None:
        """Load the model; a mistake is told with the first images, for an actor that cannot start is started again."""
        self._plan, self._target, self._problem = plan, target, ""
        self._mirror = Mirror(target) if isinstance(target, str) else None
        try:
            self._segmenter = plan.load(device_of_process(plan.device, 0))
            self._words = plan.words(self._segmenter)
            if changed := changes(made, made_by(describe(self._segmenter, self._words))):
                self._problem = (
                    f"a worker of the cluster has loaded something else than the first ({'; '.join(changed)}); "
                    "expected the same model and device everywhere"
                )
        except OvsegError as error:
            self._problem = str(error)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        """Label some images; returns their rows as text."""
        if self._problem:
            return {"row": [dump({_STOP: self._problem})]}
        items = [Item(**json.loads(str(line))) for line in batch["item"]]
        try:
            rows = self._label(items)
        except InputError as error:  # of the disk; images that are bad have rows that say so
            return {"row": [dump({_STOP: str(error)})]}
        return {"row": [dump(row) for row in rows]}

    def _label(self, items: Sequence[Item]) -> list[Row]:
        """Label on the path that all share, or in a folder of this machine from which results are sent."""
        if self._mirror is None:
            return self._rows(items, Path(self._target))
        with tempfile.TemporaryDirectory(prefix="ovseg-") as folder:
            rows = self._rows(items, Path(folder))
            self._mirror.send(Path(folder))
        return rows

    def _rows(self, items: Sequence[Item], folder: Path) -> list[Row]:
        return list(Labeller(self._plan, folder, self._segmenter, self._words).rows(items))


def _describe(plan: LabelPlan) -> dict[str, Any] | OvsegError:
    try:
        segmenter = plan.load(device_of_process(plan.device, 0))
        return describe(segmenter, plan.words(segmenter))
    except OvsegError as error:
        return error
