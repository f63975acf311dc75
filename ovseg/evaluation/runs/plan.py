"""What an evaluation is asked for, and the data set and predictions that this stands for."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ovseg.data.dataset import PROMPTS, VOID, Dataset
from ovseg.data.plausible import require_plausible
from ovseg.data.registration import choose_classes, read_dataset
from ovseg.errors import ConfigError, InputError, unknown_name
from ovseg.evaluation.robustness import Condition
from ovseg.evaluation.runs.asked import Asked, by_own_names, by_protocol
from ovseg.evaluation.runs.measures import Measures, choose_tasks
from ovseg.evaluation.runs.prompt_source import PromptSource, check_words
from ovseg.evaluation.runs.sources import ModelSource, Source
from ovseg.system.device import resolve_device, resolve_dtype
from ovseg.system.values import dump
from ovseg.vocabulary import Vocabulary
from ovseg.vocabulary.names import fold
from ovseg.zoo.auto import require_named

if TYPE_CHECKING:
    from ovseg.segmenter import Segmenter

PLAN = "run.json"
OF_MODEL = ("model", "protocol", "background", "templates", "device", "dtype")
"""Fields of a plan that mean nothing for saved predictions."""


@dataclass(frozen=True)
class Plan:
    """Everything that decides the numbers of an evaluation; it travels to other processes.

    Attributes:
        dataset: Name or folder, as for training.
        model: As for `ovseg.load`, by a name that means the same on every machine.
        predictions: Folder of saved predictions in place of a model and all of `OF_MODEL`; empty for the model.
        vocabulary: Words in place of the data set's own (`Dataset.with_classes`); empty for those, which a model is
            asked by the words of a protocol, where these fit (`ovseg.evaluation.runs.asked`).
        rename: Other names for classes of the data set (`choose_classes`); empty for none.
        protocol: Settings of a benchmark, as for `ovseg.load`.
        background: Policy; None for the model's own.
        templates: Template set; None for the model's own.
        overrides: Nested changes to the config of the model.
        device: As for `ovseg.load`.
        dtype: As for `ovseg.load`.
        distractors: Each image is labelled with the classes that it shows and so many others; None for all classes.
        limit: Only the first images; None for all.
        tasks: Of `ovseg.evaluation.runs.measures.TASKS`; empty for all that the ground truth can judge.
        novel: Classes that the training has not seen: names, or a file of them; empty for no split.
        boundary: Measure Boundary IoU too.
        seed: Of distractors and of what is random in a model.
        root: Folder of the benchmarks; empty for that of the environment.
        condition: What is done to photos and words before the model gets them.
    """

    dataset: str
    model: str = ""
    predictions: str = ""
    vocabulary: str = ""
    rename: str = ""
    protocol: str = ""
    background: str | None = None
    templates: str | None = None
    overrides: dict[str, Any] = field(default_factory=dict)
    device: str = "auto"
    dtype: str = "auto"
    distractors: int | None = None
    limit: int | None = None
    tasks: tuple[str, ...] = ()
    novel: str = ""
    boundary: bool = False
    seed: int = 0
    root: str = ""
    condition: Condition = field(default_factory=Condition)

    def check(self) -> None:
        """Find mistakes before anything is read.

        Raises:
            ConfigError: A number is out of range, or saved predictions come with what is for a model.
        """
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"--limit is {self.limit}; expected at least 1")
        if self.distractors is not None and self.distractors < 0:
            raise ConfigError(f"--distractors is {self.distractors}; expected 0 or more")
        given = [name for name in OF_MODEL if getattr(self, name) != getattr(Plan, name)]
        if not self.predictions and not self.model:
            raise ConfigError("no model was named; expected --model NAME (`ovseg models`), or --predictions")
        require_named(self.model, "an evaluation")
        if self.predictions and given:
            flags = ", ".join(f"--{name}" for name in given)
            raise ConfigError(f"{flags} with --predictions: no model is run that could heed it; leave it out")
        if self.predictions and self.condition.FAMILY != "clean":
            raise ConfigError("tests of robustness change what a model gets; expected a --model, not --predictions")
        if self.predictions and self.distractors is not None:
            raise ConfigError(
                "--distractors with --predictions: each image has words of its own; expected a --model, or the whole "
                "vocabulary"
            )

    def open_dataset(self) -> Dataset:
        """Read the data set with the words of the evaluation, and all of its records.

        Raises:
            OvsegError: As `read_dataset`, `require_plausible` and `choose_classes`.
        """
        dataset = read_dataset(self.dataset, self.root or None)
        require_plausible(dataset)
        return choose_classes([dataset], self.vocabulary, self.rename)[0]

    def open_measures(self, dataset: Dataset) -> Measures:
        """Make the evaluators.

        Raises:
            ConfigError: The ground truth cannot judge a task, or prompts are asked for as they cannot be.
            UnknownNameError: A novel class is not in the list.
        """
        if dataset.kind == PROMPTS:
            if self.predictions or self.distractors is not None:
                raise ConfigError(
                    f"'{dataset.name}' asks for each image's own words, one at a time; expected a --model, without "
                    "--predictions and --distractors"
                )
            check_words(self.background)
        return Measures(dataset, choose_tasks(dataset, self.tasks), self.novel_flags(dataset.classes), self.boundary)

    @property
    def dataset_key(self) -> str:
        """What tells data sets apart; plans with one key can share what `open_dataset` has read."""
        return dump([self.dataset, self.root, self.vocabulary, self.rename])

    @property
    def model_key(self) -> str:
        """What tells apart what `load` is asked for: within a call, plans with one key share what one of them loads."""
        return dump([self.predictions, self.model, self.protocol, self.overrides, self.device, self.dtype])

    def load(self, device: str) -> Segmenter:
        """Load the model on a device; on the CPU ``auto`` is fp32, whatever was measured of its weights.

        Raises:
            OvsegError: As `ovseg.load`.
        """
        from ovseg.zoo import load_spec, resolve  # they bring Detectron2

        dtype = resolve_dtype(self.dtype, resolve_device(device))
        return load_spec(resolve(self.model, self.protocol, self.overrides or None), device, dtype)

    def open_source(self, dataset: Dataset, measures: Measures, segmenter: Segmenter) -> Source:
        """Give the model its words.

        Args:
            dataset: Of `open_dataset`.
            measures: Of `open_measures`; what none of them judges is not asked of the model.
            segmenter: Of `load`.

        Raises:
            OvsegError: As `Segmenter.words`.
        """
        given = (self.background, self.templates, self.condition)
        if dataset.kind == PROMPTS:
            return PromptSource(segmenter, dataset.classes, *given)
        return ModelSource(segmenter, dataset, self._asked(dataset), *given, want=measures.want)

    def _asked(self, dataset: Dataset) -> Asked:
        """Return the words that the classes are asked by: those of the protocol, unless the user has given others."""
        from ovseg.zoo import resolve

        if self.protocol and not (self.vocabulary or self.rename):
            words = resolve(self.model, self.protocol, self.overrides or None).protocol_words(self.protocol)
            if words:
                return by_protocol(dataset, Vocabulary.parse(words), self.protocol)
        return by_own_names(dataset)

    def novel_flags(self, classes: Vocabulary) -> list[bool] | None:
        """Return for each class whether it is novel; None without a split.

        Raises:
            UnknownNameError: A novel class is not in the list, by any of its names.
        """
        if not self.novel:
            return None
        novel, own = Vocabulary.parse(self.novel), [set(map(fold, entry.names)) for entry in classes]
        for entry in novel:
            if not any(names & set(map(fold, entry.names)) for names in own):
                raise unknown_name(f"novel class (of {len(classes)} classes)", entry.name, classes.names)
        given = {fold(name) for entry in novel for name in entry.names}
        return [bool(names & given) for names in own]

    def class_ids(self, index: int, own: np.ndarray, count: int, rest: int = VOID) -> np.ndarray:
        """Return the classes that an image is labelled with.

        Args:
            index: Place of the image in the data set, which with the seed decides the draw.
            own: Classes that it shows, ascending.
            count: Number of classes of the data set.
            rest: One that is not asked for and never drawn (`Source.rest`); -1 for none.

        Returns:
            (N,) integers: its own and then the others, or all in order.
        """
        every = np.arange(count)
        if self.distractors is None:
            return every
        rng = np.random.default_rng([index, self.distractors, *([self.seed] if self.seed else [])])
        others = rng.permutation(np.setdiff1d(every, np.append(own, rest)))
        return np.concatenate([own, others[: self.distractors]])

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        values = {entry.name: getattr(self, entry.name) for entry in dataclasses.fields(self)}
        values |= {"condition": [self.condition.FAMILY, self.condition.key, self.condition.seed]}
        whole: dict[str, Any] = json.loads(dump(values))
        return whole


def read_plan(folder: Path) -> Plan:
    """Read what a folder of a run was asked for, without its condition.

    Raises:
        InputError: There is no run in it.
    """
    try:
        found = json.loads((folder / PLAN).read_text(encoding="utf-8"))
        values = found.get("request", found)  # earlier versions wrote nothing else
        known = {entry.name for entry in dataclasses.fields(Plan)} - {"condition"}
        known -= set(OF_MODEL) if values.get("predictions") else set()  # earlier versions wrote a model that none ran
        plan = Plan(**{key: value for key, value in values.items() if key in known})
        return dataclasses.replace(plan, tasks=tuple(plan.tasks))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"'{folder}' holds no evaluation ({PLAN}); expected a folder of `ovseg eval`") from error
