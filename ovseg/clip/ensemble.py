"""Several CLIPs as one tower, weighted by how near the words of a request are to each of them: ``clip:A+B``.

After the idea of MoDE (Ma et al., "MoDE: CLIP Data Experts via Clustering", CVPR 2024, arXiv 2404.16030): CLIPs that
have learnt from different data answer together, each with a weight that the words of the task give it. MoDE trains its
experts on clusters of captions and weighs them by how near the class names lie to the centres of the clusters.

**Ours, and not the paper's**: whichever CLIPs a user has bring no centres, so nearness is read from what there is, a
member and the words. A CLIP that has learnt some words gives each one place, whatever sentence it stands in, and
different words different places; one to which they are strange looks at the sentence more than at the word. So every
text stands in a few sentences (`SENTENCES`): the *dispersion* is how far the rows of a text are on average from their
mean, the *margin* how far that mean is on average from the nearest one of another class (both as 1 less the cosine),
and the *nearness* margin / (margin + dispersion), in 0..1. (Scores of this kind, of texts alone, are known to tell
something of how well a CLIP does on a task: LOVM, Zohar et al., NeurIPS 2023, arXiv 2306.08893.) Weights are shares of
the nearness; where nothing can be compared all are equal. They follow from members and words alone and lie in `Words`,
never in the tower: requests with other words share it. Nobody has measured how much they help.

Rows of texts are the members' unit rows side by side, each times its weight; features of images are the members' unit
features side by side, without weights. So one product gives the weighted sum of the members' cosines.

Members may have other widths, norms of images, tokenizers and patch sizes. All see the grid of the first member's
patches: for one with larger or smaller patches the image is resized so that it has as many.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovseg.clip.features import Context, DenseFeatures, Kept, Need, Recalibrator
from ovseg.clip.normalise import denormalise, normalise
from ovseg.clip.tokens import DENSE
from ovseg.clip.tower import Tower
from ovseg.errors import ConfigError
from ovseg.system.values import short_hash
from ovseg.vocabulary.queries import Queries
from ovseg.vocabulary.scripts import foreign_words
from ovseg.vocabulary.templates import fill

PREFIX, PLUS = "clip:", "+"
SENTENCES = ("a photo of a {}.", "a drawing of a {}.", "there is a {} in the scene.", "{}")
"""In which the texts of a request stand to see how well a member knows them, whatever its templates are."""


class Seen(Kept):
    """What each member has seen of the same images.

    Attributes:
        members: Dense features, one for each member.
    """

    def __init__(self, members: Sequence[DenseFeatures]) -> None:
        self.members = list(members)

    def rows(self, rows: slice) -> Seen:
        """Return what was seen of some of the images."""
        return Seen([dense.rows(rows) for dense in self.members])


class Ensemble(Tower):
    """Several image-text models that answer together; see the top of this file.

    Attributes:
        members: The models.
    """

    def __init__(self, members: Iterable[Tower]) -> None:
        """Put members together.

        Raises:
            ConfigError: There are fewer than two, one is there twice, or one is an ensemble.
        """
        super().__init__()
        found = list(members)
        self.members = nn.ModuleList(found)
        self.name = f"{PREFIX}{PLUS.join(member.name for member in found)}"
        if len(found) < 2 or any(isinstance(member, Ensemble) for member in found):
            raise ConfigError(f"'{self.name}' has {len(found)} CLIPs; expected two or more, none of them an ensemble")
        self.mean, self.std = found[0].mean, found[0].std
        self.embed_dim = sum(member.embed_dim for member in found)
        self.notes = tuple(f"{member.name}: {note}" for member in found for note in member.notes)
        self.refresh()

    def refresh(self) -> None:
        """Read scale and hash from the members."""
        towers = self.towers
        for tower in towers:
            getattr(tower, "refresh", lambda: None)()
        hashes = [tower.weights_hash for tower in towers]
        if len(set(hashes)) < len(hashes):
            raise ConfigError(f"'{self.name}' has the same CLIP twice; name each once")
        seen = [f"{tower.weights_hash} {tower.mean} {tower.std}" for tower in towers]
        self.weights_hash = short_hash(" ".join(seen))
        self.logit_scale = sum(tower.logit_scale for tower in towers) / len(towers)

    @property
    def towers(self) -> list[Tower]:
        """The members."""
        return [member for member in self.members if isinstance(member, Tower)]

    @property
    def has(self) -> frozenset[str]:
        """What models may need of it: dense features; methods run on each member, see `check_method`."""
        return frozenset({DENSE})

    @property
    def recipe(self) -> str:
        """How its dense features come about; see `Tower.recipe`."""
        return "the unit features of its members side by side (after MoDE, arXiv 2404.16030; the weights are ours)"

    @property
    def activation(self) -> str:
        """Activations of the members."""
        return PLUS.join(tower.activation for tower in self.towers)

    @property
    def patch_size(self) -> int:
        """Side of the first member's patches in pixels."""
        return self.towers[0].patch_size

    @property
    def body(self) -> list[nn.Module]:
        """The bodies of all members."""
        return [part for tower in self.towers for part in tower.body]

    def check_method(self, recalibration: Recalibrator) -> None:
        """Refuse a method that does not fit every member; see `Tower.check_method`."""
        for tower in self.towers:
            tower.check_method(recalibration)

    def lower(self, precision: torch.dtype) -> None:
        """Keep the products of all members in lower precision; see `TokenTower.lower`."""
        for tower in self.towers:
            tower.lower(precision)
        self.precision = precision

    def pack(self) -> None:
        """Lay the weights of all members out for the CPU."""
        for tower in self.towers:
            tower.pack()

    def move_text(self, device: torch.device) -> None:
        """Bring what embeds texts to a device."""
        for tower in self.towers:
            tower.move_text(device)

    def text(self, texts: list[str]) -> Tensor:
        """Embed texts by all members: (N, D), their unit rows side by side."""
        return torch.cat([F.normalize(tower.text(texts), dim=-1) for tower in self.towers], dim=-1)

    def dense(
        self,
        images: Tensor,
        recalibration: Recalibrator | None = None,
        need: Need | None = None,
        regions: Tensor | None = None,
    ) -> DenseFeatures:
        """Return the dense features of all members; see `Tower.dense` and `seen_by`."""
        return self.seen_by(lambda tower, own, areas: tower.dense(own, recalibration, need, areas), images, regions)

    def seen_by(
        self, see: Callable[[Tower, Tensor, Tensor | None], DenseFeatures], images: Tensor, regions: Tensor | None
    ) -> DenseFeatures:
        """Let every member see images, and put what they see side by side.

        Args:
            see: Gives the dense features of a member, of images (B, 3, h, w) as it wants them, with region ids.
            images: Normalised by `mean` and `std` (B, 3, H, W).
            regions: Region ids (B, H, W) of the pixels.
        """
        found = [see(tower, *self.shown(tower, images, regions)) for tower in self.towers]
        features = torch.cat([F.normalize(dense.features, dim=1) for dense in found], dim=1)
        cls = torch.cat([F.normalize(dense.cls, dim=1) for dense in found], dim=1)
        context = Context(found[0].grid, images, self, self.mean, self.std, regions)
        context.keep(Seen(found))
        return DenseFeatures(features, cls, found[0].grid, context)

    def shown(self, tower: Tower, images: Tensor, regions: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return images and regions as a member wants them: on the common grid, with its own mean and deviation."""
        side, own = self.patch_size, tower.patch_size
        high, wide = images.shape[2] // side, images.shape[3] // side
        if side != own and high and wide:
            size = (high * own, wide * own)
            images = F.interpolate(
                images[..., : high * side, : wide * side].float(), size, mode="bilinear", antialias=True
            )
            if regions is not None:
                part = regions[:, None, : high * side, : wide * side].double()
                regions = F.interpolate(part, size, mode="nearest")[:, 0].to(regions.dtype)
        if (tower.mean, tower.std) != (self.mean, self.std):
            images = normalise(denormalise(images.float(), self.mean, self.std), tower.mean, tower.std)
        return images.to(tower.dtype), regions

    def weigh(self, queries: Queries, embed: Callable[[list[str]], Tensor]) -> Queries:
        """Weigh the members by the words of a request; see `TokenTower.weigh`.

        Raises:
            ConfigError: The rows depend on the image (AutoCLIP), which knows one space alone.
        """
        if queries.classifier is not None:
            raise ConfigError(
                f"AutoCLIP weighs templates in the space of one CLIP, and {self.name} has several; leave it out"
            )
        length = queries.embeddings.norm(dim=-1, keepdim=True)  # 1, but for what text engineering mixes
        own = [F.normalize(part, dim=-1) for part in self.parts(queries.embeddings)]
        weights = shares(self._nearness(queries, embed))
        rows = [part * length * weight * len(own) ** 0.5 for part, weight in zip(own, weights, strict=True)]
        told = ", ".join(f"{tower.name} {weight:.2f}" for tower, weight in zip(self.towers, weights, strict=True))
        note = f"weights of the CLIPs, by how well each knows these words: {told}"
        foreign = [told for tower in self.towers for told in foreign_words(tower, queries.texts)]
        return replace(queries, embeddings=torch.cat(rows, dim=-1), notes=(*queries.notes, *foreign, note))

    def _nearness(self, queries: Queries, embed: Callable[[list[str]], Tensor]) -> list[float]:
        """Return how near the words are to each member; -1 where there is nothing to compare."""
        if not queries.texts:
            return [-1.0] * len(self.members)
        sentences = [fill(sentence, text) for text in queries.texts for sentence in SENTENCES]
        rows = embed(sentences).unflatten(0, (len(queries.texts), len(SENTENCES)))
        none = -1 - torch.arange(len(queries.texts))  # words of no class are a class each
        classes = queries.query_to_class.where(queries.query_to_class >= 0, none)
        return [nearness(F.normalize(part, dim=-1), classes) for part in self.parts(rows)]

    def parts(self, rows: Tensor) -> tuple[Tensor, ...]:
        """Return the parts (..., D_m) of rows (..., D) that belong to the members."""
        return rows.split([tower.embed_dim for tower in self.towers], dim=-1)

    def words_of(self, rows: Tensor) -> tuple[list[Tensor], list[float]]:
        """Take apart what `weigh` has put together: the rows (T, D_m) of each member, and the weights, which sum to 1.

        Args:
            rows: (T, D), of `weigh`.
        """
        parts = self.parts(rows)
        norms = torch.stack([part.norm(dim=-1) for part in parts])  # (M, T)
        longest = norms[:, norms.sum(0).argmax()] if rows.shape[0] else norms.new_ones(len(parts))
        length = norms.sum(0)[:, None] / len(parts) ** 0.5
        own = [F.normalize(part, dim=-1) * length for part in parts]
        return own, (longest / longest.sum()).tolist()

    @property
    def text_limit(self) -> int:
        """How many tokens are read of a text by the member that reads least."""
        return self._narrowest.text_limit

    def count_tokens(self, texts: list[str]) -> list[int]:
        """Return how many tokens each text has for that member."""
        return self._narrowest.count_tokens(texts)

    def read_of(self, texts: list[str]) -> list[str]:
        """Return what that member reads of each text."""
        return self._narrowest.read_of(texts)

    def long_text(self, texts: list[str]) -> Tensor:
        """Embed texts of any length by all members: (N, D), their unit rows side by side."""
        return torch.cat([F.normalize(tower.long_text(texts), dim=-1) for tower in self._limited], dim=-1)

    @property
    def _limited(self) -> list[Any]:
        return list(self.members)

    @property
    def _narrowest(self) -> Any:
        return min(self._limited, key=lambda tower: tower.text_limit)


def shares(nearness: Sequence[float]) -> list[float]:
    """Return the shares of the members; equal ones where one has nothing to compare, or nothing holds words apart."""
    total = sum(nearness)
    if total <= 0 or not all(value >= 0 for value in nearness):
        return [1 / len(nearness)] * len(nearness)
    return [value / total for value in nearness]


def nearness(rows: Tensor, classes: Tensor) -> float:
    """Return how well a member knows words, by its texts alone; see the top of this file.

    Args:
        rows: Unit rows (T, S, D) of each text in each sentence.
        classes: Class (T,) of each text.

    Returns:
        In 0..1; -1 where there is but one class.
    """
    other = classes[:, None] != classes
    if not bool(other.any()):
        return -1.0
    means = F.normalize(rows.mean(1), dim=-1)
    dispersion = (1 - (rows * means[:, None]).sum(-1)).clamp_min(0).mean()
    margin = (1 - (means @ means.T).masked_fill(~other, -1).amax(1)).clamp_min(0).mean()
    return float(margin / (margin + dispersion).clamp_min(torch.finfo(rows.dtype).tiny))
