"""What the loop asks of models that follow their training themselves; most do not."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np


@runtime_checkable
class Following(Protocol):
    """A model that has to do with more of its training than its losses, as a CLIP that is tuned."""

    def samples(self) -> Callable[[dict[str, Any], np.random.Generator], dict[str, Any]] | None:
        """Return what adds to samples where images are read; see `ovseg.data.mappers.TrainingMapper`."""

    def after_step(self, step: int, steps: int) -> None:
        """Follow the step ``step`` (from 0) of ``steps``."""

    def finished(self) -> AbstractContextManager[None]:
        """Have for a while the weights that the training would leave now."""
        ...

    def leave(self, folder: Path) -> None:
        """Write what else it leaves into the folder of its run."""
