"""Training samples in an order that depends on a seed and on the step alone, whoever loads them.

Sample n of a run is image n modulo N of the epoch's permutation, with random changes drawn from (seed, n). So a run
that goes on from step s sees what it would have seen, and the number of processes and workers changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler
from torch.utils.data import Dataset as TorchDataset

from ovseg.data.mappers import TrainingMapper
from ovseg.errors import ConfigError, InputError


def stream(*parts: int) -> np.random.Generator:
    """Return a generator that depends on numbers and on their order."""
    return np.random.default_rng(np.random.SeedSequence(parts))


@dataclass(frozen=True)
class Share:
    """Which samples of every step are this process's.

    Attributes:
        batch: Samples of one pass of one process.
        rank: Of this process.
        world: Number of processes.
    """

    batch: int
    rank: int = 0
    world: int = 1

    def numbers(self, step: int) -> range:
        """Return the numbers of the samples of a pass."""
        start = (step * self.world + self.rank) * self.batch
        return range(start, start + self.batch)


class _Samples(TorchDataset[Any]):
    """Makes sample n; a user's mistake is handed over as an object, for errors lose their type on their way here."""

    def __init__(self, mappers: Sequence[TrainingMapper], seed: int) -> None:
        self.places = [(mapper, i) for mapper in mappers for i in range(len(mapper.dataset.records))]
        self.seed = seed
        self.epoch, self.order = -1, np.zeros(0, np.int64)

    def __getitem__(self, number: int) -> dict[str, Any] | InputError:
        epoch, place = divmod(number, len(self.places))
        if epoch != self.epoch:
            self.epoch, self.order = epoch, stream(self.seed, 0, epoch).permutation(len(self.places))
        mapper, index = self.places[self.order[place]]
        try:
            return mapper(index, stream(self.seed, 1, number))
        except InputError as error:
            return error


class _Passes(Sampler[list[int]]):
    """The numbers of the samples of each pass, from one on, without an end."""

    def __init__(self, share: Share, start: int) -> None:
        self.share, self.start = share, start

    def __iter__(self) -> Iterator[list[int]]:
        step = self.start
        while True:
            yield list(self.share.numbers(step))
            step += 1


def training_batches(
    mappers: Sequence[TrainingMapper], share: Share, seed: int, start: int = 0, workers: int = 0
) -> Iterator[list[dict[str, Any]]]:
    """Yield the batches of this process, pass after pass, without an end.

    Args:
        mappers: One per data set; all images count alike.
        share: What of each pass is this process's.
        seed: Of order and changes; 0 or more.
        start: Number of the first pass.
        workers: Processes that load ahead; 0 loads in this one.

    Raises:
        ConfigError: There are no images, or the seed is negative.
        InputError: A file cannot be used; raised when its turn comes.
    """
    samples = _Samples(mappers, seed)
    if not samples.places or seed < 0:
        raise ConfigError(f"{len(samples.places)} training images with SEED {seed}; expected some, and 0 or more")
    loader = DataLoader(
        samples,
        batch_sampler=_Passes(share, start),
        num_workers=workers,
        collate_fn=_untouched,
        worker_init_fn=_quiet_worker,
    )
    for batch in loader:
        for sample in batch:
            if isinstance(sample, InputError):
                raise sample
        yield batch


def _untouched(samples: list[Any]) -> list[Any]:
    return samples


def _quiet_worker(worker: int) -> None:
    """Keep libraries in a worker from starting threads of their own."""
    import cv2

    cv2.setNumThreads(0)
    torch.set_num_threads(1)
