"""What words make of an image that was seen, as parts of a graph: their number and their classes are free.

A graph cannot number classes, for it does not know how many there are. So what is known of a class stands in the row
of its first text, and all other rows of it are empty.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovseg.clip.features import DenseFeatures
from ovseg.labelling.views import mix
from ovseg.meta_arch.cat_seg import CATSeg
from ovseg.meta_arch.cat_seg import aggregator as cat_seg
from ovseg.meta_arch.fcclip.model import FCCLIP
from ovseg.meta_arch.maft_plus.model import MAFTPlus
from ovseg.meta_arch.san.model import SAN
from ovseg.meta_arch.sed import SED
from ovseg.meta_arch.sed import decoder as sed
from ovseg.meta_arch.training_free import TrainingFree
from ovseg.proposals.classifier import LARGEST_SCALE, class_scale

_EMPTY = -1e4  # a logit whose probability is 0 in any precision


@dataclass(frozen=True)
class Rows:
    """Words as a graph has them; what models ask of `ovseg.contract.Words` there.

    Attributes:
        embeddings: (T, D) float32, or (T, P, D) where the templates are apart.
        query_to_class: (T,) int64, -1 for words of the background.
    """

    embeddings: Tensor
    query_to_class: Tensor

    def rows(self, cls: Tensor) -> Tensor:
        """Return the rows, which are the same for all images."""
        return self.embeddings


def first_rows(query_to_class: Tensor) -> Tensor:
    """Return for each row (T,) the first row of its class; words of no class are each for itself."""
    rows = torch.arange(query_to_class.shape[0])
    own = query_to_class >= 0
    first = torch.full_like(rows, query_to_class.shape[0]).scatter_reduce(
        0, query_to_class.clamp(min=0), torch.where(own, rows, query_to_class.shape[0]), "amin"
    )
    return torch.where(own, first[query_to_class.clamp(min=0)], rows)


class PatchNaming(nn.Module):
    """Scores (N, T, h, w) of patches of a training-free model."""

    names = ("patch_scores",)

    def __init__(self, model: TrainingFree) -> None:
        super().__init__()
        self.method, self.share = model.recalibration, model.protocol.image_engineering

    def forward(self, features: Tensor, cls: Tensor, rows: Rows) -> tuple[Tensor, ...]:
        """Compare features (V, N, D, h, w) of all views with words; ``cls`` (V, N, D) are of the whole images."""
        context: Any = None  # `Recalibration.not_exported` says which methods ask it
        words: Any = rows
        found = [
            self.method.patch_scores(DenseFeatures(view, own, (view.shape[2], view.shape[3]), context), words)
            for view, own in zip(features, cls, strict=True)
        ]
        return (mix(found, self.share) if len(found) > 1 else found[0],)


class MapNaming(nn.Module):
    """Logits (T, h, w) of all words on one view."""

    names = ("word_logits",)

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, seen: Sequence[Tensor], rows: Rows) -> tuple[Tensor, ...]:
        """Compare a view, the fields of a model's `View` (1, ...), with words, however many these are."""
        view, texts = [one[0] for one in seen], rows.embeddings
        if isinstance(self.model, CATSeg):
            return (self.model.aggregator.compare(cat_seg.View(*view), texts[:, None]),)
        if isinstance(self.model, SED):
            return (self.model.decoder(sed.View(*view), texts).maps,)
        raise TypeError(f"no graph makes maps of a {type(self.model).__name__}")


class MaskNaming(nn.Module):
    """Class probabilities (Q, T + 1) of masks, "no object" last, and how near each is to each text (Q, T)."""

    names = ("mask_classes", "mask_cosines")

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, seen: Any, rows: Rows, trained: Tensor | None) -> tuple[Tensor, ...]:
        """Name what was seen; ``trained`` (T,) bool are the rows of classes that the head was trained on."""
        first = first_rows(rows.query_to_class)
        model: Any = self.model
        if isinstance(model, SAN):
            void = F.normalize(model.void_row, dim=-1)
            texts = torch.cat([rows.embeddings, void])
            logits = _best(model.clip.logit_scale * (F.normalize(seen.embeddings, dim=-1) @ texts.mT), first)
        else:
            logits = _empty(self._of_two(model, seen, rows, first, trained), first)
        cosines: Tensor = model.cosines(seen, rows)
        return logits.float().softmax(-1), cosines.float()

    @staticmethod
    def _of_two(model: Any, seen: Any, rows: Rows, first: Tensor, trained: Tensor | None) -> Tensor:
        """Return the class scores (Q, T + 1) of a model with a trained classifier and that of CLIP."""
        texts, scale, valid = model.rows(rows), min(model.clip.logit_scale, LARGEST_SCALE), None
        own = class_scale(model.decoder.log_scale) * (F.normalize(seen.embeddings, dim=-1) @ texts.mT)
        head = _best(own, first)[None]
        if isinstance(model, MAFTPlus):
            texts = model.texts(seen.looks[None], texts)[0]
        elif not isinstance(model, FCCLIP):
            raise TypeError(f"no graph names the masks of a {type(model).__name__}")
        elif seen.looks is not None:
            valid = seen.looks[None]
        clip = _best(scale * (F.normalize(seen.pooled, dim=-1) @ texts.mT), first)[None]
        mixed: Tensor = model.ensemble.scores(head, clip, trained, valid)
        return mixed[0]


def _best(logits: Tensor, first: Tensor) -> Tensor:
    """Put the largest logit of each class into its first row; logits (Q, T + 1) end with "no object"."""
    names = logits[:, :-1]
    found = torch.full_like(names, _EMPTY).scatter_reduce(1, first.expand_as(names), names, "amax")
    return torch.cat([found, logits[:, -1:]], 1)


def _empty(logits: Tensor, first: Tensor) -> Tensor:
    """Empty all rows (Q, T + 1) but the first of each class and the last."""
    unused = F.pad(first != torch.arange(first.shape[0]), (0, 1), value=False)
    return logits.masked_fill(unused, _EMPTY)
