"""Files of models that make a map for every word: windows, and which words count, are ours and none of the graph's."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ovseg.aggregation.cost import cost_maps, nearest_classes
from ovseg.contract import Words
from ovseg.labelling.row_maps import RowMaps, WholeMaps
from ovseg.labelling.sliding import Logits, Sliding, SlidingMaps
from ovseg.meta_arch.exported.card import CLASSES, TEXTS, FileCard
from ovseg.meta_arch.exported.runtimes import Runtime


def views_of(image: Tensor, card: FileCard) -> Sequence[Tensor]:
    """Return what goes into a graph (1, 3, h, w) of an image (1, 3, H, W) in 0..255: itself, or views of it."""
    if card.sliding is None or card.view is None:
        return (image,)
    return Sliding(*card.sliding).cut(image, card.view).split(1)


def see(views: Sequence[Tensor], runtime: Runtime) -> list[Tensor]:
    """Run a graph as far as it knows no words on each view; views stand first in what comes out."""
    seen = [runtime.see(view) for view in views]
    return [torch.cat(parts) for parts in zip(*seen, strict=True)]


def maps_of(
    outputs: Sequence[Tensor], shape: tuple[int, ...], words: Words, card: FileCard, runtime: Runtime
) -> RowMaps:
    """Return the probabilities of all words on an image.

    Args:
        outputs: What `see` gave.
        shape: Of what went into the graph.
        words: Those of the request.
        card: That of the file.
        runtime: Runs its graph.
    """
    each = zip(*(one.split(1) for one in outputs), strict=True)
    views = [_compared(own, shape, words, card, runtime) for own in each]
    if card.sliding is not None:
        return SlidingMaps(Sliding(*card.sliding), views, len(words.query_to_class))
    return WholeMaps(views[0].maps.sigmoid(), views[0].classes)


def _compared(seen: Sequence[Tensor], shape: tuple[int, ...], words: Words, card: FileCard, runtime: Runtime) -> Logits:
    """Compare one view with the words that count there."""
    texts, classes = words.embeddings.float().cpu(), words.query_to_class.cpu()
    near = None
    if card.most:
        near = nearest_classes(cost_maps(seen[card.seen.index("features")][0], texts[:, None]), card.most)
    if near is not None:
        texts, classes = texts[near], classes[near]
    return Logits(runtime.naming(seen, {TEXTS: texts, CLASSES: classes}, shape)[0], near)
