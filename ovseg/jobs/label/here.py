"""The work of a job on this machine: in this process, or shared out over several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ovseg.contract import Words
from ovseg.errors import at_least
from ovseg.jobs.identity import describe, made_by, refuse_strange
from ovseg.jobs.label.containers import Item
from ovseg.jobs.label.labeller import Labeller
from ovseg.jobs.label.plan import LabelPlan
from ovseg.jobs.rows import appending
from ovseg.jobs.share import Tell, share_out
from ovseg.system.device import device_of_process, free_accelerator
from ovseg.system.values import changes

if TYPE_CHECKING:
    from ovseg.segmenter import Segmenter


@dataclass(frozen=True)
class LabelWork:
    """What a process does with its images; see `ovseg.jobs.share.Work`.

    Attributes:
        plan: What was asked for.
        folder: Of the results.
        made: What makes the results, as the first process has found.
    """

    plan: LabelPlan
    folder: Path
    made: Mapping[str, Any]

    def __call__(self, items: Sequence[Item], rank: int, tell: Tell) -> None:
        """Load the model, and label."""
        segmenter = self.plan.load(device_of_process(self.plan.device, rank))
        self.label(items, rank, tell, segmenter, self.plan.words(segmenter))

    def label(self, items: Sequence[Item], rank: int, tell: Tell, segmenter: Segmenter, words: Words) -> None:
        """Label with a model that is loaded."""
        refuse_strange(rank, changes(self.made, made_by(describe(segmenter, words))))
        with appending(self.folder, str(rank)) as append:
            for row in Labeller(self.plan, self.folder, segmenter, words).rows(items):
                append(row)
                tell(bool(row["error"]))


class Here:
    """Works on this machine; see `ovseg.jobs.label.run.Runner`."""

    def __init__(self, processes: int = 1) -> None:
        """Choose how many processes there are; each loads the model.

        Raises:
            ConfigError: Less than one.
        """
        self.processes = at_least("--processes", processes, 1)
        self._held: tuple[Segmenter, Words] | None = None

    def describe(self, plan: LabelPlan) -> dict[str, Any]:
        """Load the model, and say what makes the results."""
        segmenter = plan.load(device_of_process(plan.device, 0))
        self._held = segmenter, plan.words(segmenter)
        return describe(*self._held)

    def run(self, plan: LabelPlan, folder: Path, made: Mapping[str, Any], items: Sequence[Item], tell: Tell) -> None:
        """Label images."""
        work = LabelWork(plan, folder, made)
        if self._held is not None and (self.processes == 1 or len(items) < 2):
            work.label(items, 0, tell, *self._held)
            return
        self._held = None
        free_accelerator()
        share_out(work, items, self.processes, tell)

    def exists(self, folder: Path, name: str) -> bool:
        """Tell whether a result is there."""
        return (folder / name).is_file()
