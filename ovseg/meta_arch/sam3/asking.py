"""Asking for phrases in what was seen of an image: as many at a time as there is memory for, in all of its windows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor

from ovseg.errors import ConfigError
from ovseg.meta_arch.sam3.fusion import Fusion, PhraseMaps
from ovseg.meta_arch.sam3.network import Found, Sam3Network, SeenImage
from ovseg.meta_arch.sam3.texts import unpack
from ovseg.ops.windows import WindowPlan
from ovseg.system.device import is_cpu
from ovseg.system.progress import report

GB = 10**9
ON_CPU = 4  # phrases at a time: what more of them take leaves its caches, fewer make its convolutions slow


@dataclass(frozen=True)
class Budget:
    """How much memory what is computed at a time may take; results depend on it by rounding alone.

    Attributes:
        max_memory: In GB (10**9 bytes), besides the weights and what is kept of images.
    """

    _: KW_ONLY
    max_memory: float = 4.0

    def __post_init__(self) -> None:
        """Check the value.

        Raises:
            ConfigError: It is not positive.
        """
        if self.max_memory <= 0:
            raise ConfigError(f"max_memory is {self.max_memory}; expected a positive number of GB")

    def at_a_time(self, network: Sam3Network, windows: int = 0, masks: bool = False) -> int:
        """Return how many phrases, or windows of images, are computed together; at least one.

        Args:
            network: What computes.
            windows: In so many of them the maps of phrases are kept until all are there.
            masks: Whether the masks of queries are kept, too, each of which may count.
        """
        each = network.phrase_bytes() + windows * network.map_bytes(masks)
        return max(1, int(self.max_memory * GB / each))


@dataclass(frozen=True, eq=False)
class Seen:
    """What is kept of an image.

    Attributes:
        windows: What SAM 3 saw in each.
        plan: Where they lie.
        screen: Features (D, h, w) of the CLIP that says which words may be there; None without one.
    """

    windows: list[SeenImage]
    plan: WindowPlan
    screen: Tensor | None = None

    @property
    def grid(self) -> tuple[int, int]:
        """Height and width of the maps of phrases."""
        return self.windows[0].fine.shape[1], self.windows[0].fine.shape[2]


def ask(
    network: Sam3Network, seen: Seen, phrases: Tensor, rows: Tensor, rule: Fusion, budget: Budget, masks: bool
) -> Iterator[tuple[Tensor, list[PhraseMaps]]]:
    """Ask for the phrases of some rows (n,), a few at a time; yields their rows and what each window shows.

    Args:
        network: What is asked.
        seen: The image.
        phrases: All rows, as `ovseg.meta_arch.sam3.texts.pack` lays them out.
        rows: int64.
        rule: Says which queries count.
        budget: Says how many are asked at a time.
        masks: Whether the masks of queries are needed.
    """
    tokens, mask = unpack(phrases.to(network.device), network.channels)
    most, done = budget.at_a_time(network, len(seen.windows), masks), 0
    for part in rows.split(min(most, ON_CPU) if is_cpu(network.device) else most):
        longest = int(mask[part].sum(1).max())
        asked = tokens[part, :longest], mask[part, :longest]
        yield part, [maps(network, network.ask(window, *asked), rule, masks) for window in seen.windows]
        done += len(part)
        report("phrases", done, len(rows))


def maps(network: Sam3Network, found: Found, rule: Fusion, masks: bool) -> PhraseMaps:
    """Return what counts of what phrases find in a window, by a rule; without masks no query counts."""
    presence, semantic = found.presence.float().sigmoid(), network.semantic(found)
    strengths = rule.strengths(presence, found.scores.float()) if masks else presence.new_zeros(len(presence), 0)
    owner, query = (strengths > 0).nonzero(as_tuple=True)
    shown = [network.masks(found, own, query[owner == own]) for own in owner.unique().tolist()]
    none = semantic.new_zeros(0, *semantic.shape[1:])
    return PhraseMaps(presence, semantic, torch.cat([none, *shown]), strengths[owner, query], owner)
