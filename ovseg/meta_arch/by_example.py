"""Classes that are known by pictures: rows for them among the rows of the words.

Features of images lie nearer to each other than to any text, so a row of pictures that is as long as those of texts
would win too much; it is made shorter by one share for all. The object is seen three times, in its picture and cut out
with some and with more around it, for a model sees a small object badly from afar.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg.contract import Encoded, Words
from ovseg.errors import ConfigError, VocabularyError
from ovseg.system.values import some
from ovseg.vocabulary import ClassEntry
from ovseg.vocabulary.examples import Example

STRENGTH = 0.7
"""Length of a row of pictures, as a share of the mean length of texts."""
CONTEXTS = (0.5, 1.0)
"""How much is left around an object that is cut out, as shares of its longer side."""
SMALLEST = 32
"""Least side in pixels of what is cut out."""


class _Picture(NamedTuple):
    """An example that a model has encoded, and its mask (h, w) as large as the network sees it."""

    encoded: Encoded
    mask: Tensor

    @property
    def size(self) -> tuple[int, int]:
        return self.encoded.sizes[0]


def with_pictures(model: Any, words: Words) -> Words:
    """Return words in which classes have a row of their pictures; classes known by pictures alone lose those of names.

    Args:
        model: A `WordedModel` with `look_at`, or with a row of its own (`picture_row`).
        words: Of all names.

    Raises:
        VocabularyError: There is no word beside the pictures.
        ConfigError: The model cannot take pictures, or each image has texts of its own (AutoCLIP).
    """
    entries = words.vocabulary.classes
    pictured = [place for place, entry in enumerate(entries) if entry.examples]
    if not pictured:
        return words
    if words.classifier is not None:
        raise ConfigError("AutoCLIP weighs texts for each image, and pictures are none; leave one of the two out")
    named = _named(words, entries)
    rows, notes = [], []
    for place in pictured:
        row, told = _row(model, named, place, entries[place])
        rows.append(row)
        notes.append(f"class {entries[place].name} is known by {told}")
    return model.known(_put_in(named, torch.stack(rows), torch.tensor(pictured), notes))


def _named(words: Words, entries: Sequence[ClassEntry]) -> Words:
    """Leave out the names of classes that are known by pictures alone; their pictures take the place of these."""
    hidden = torch.tensor([not entry.by_name for entry in entries])
    if not hidden.any():
        return words
    classes = words.query_to_class
    own = (classes >= 0) & hidden[classes.clamp_min(0)]
    keep = ~own
    return replace(
        words,
        embeddings=words.embeddings[keep.to(words.embeddings.device)],
        query_to_class=classes[keep],
        texts=tuple(text for text, kept in zip(words.texts, keep.tolist(), strict=True) if kept),
    )


def _put_in(words: Words, rows: Tensor, classes: Tensor, notes: Sequence[str]) -> Words:
    """Put rows (N, D) of pictures behind those of all names, before the words of no class."""
    count = int((words.query_to_class >= 0).sum())
    before, after = words.embeddings[:count], words.embeddings[count:]
    shown = rows.to(before) if before.ndim == 2 else rows.to(before)[:, None].expand(-1, before.shape[1], -1)
    own = [f"{words.vocabulary[place].name} (picture)" for place in classes.tolist()]
    return replace(
        words,
        embeddings=torch.cat([before, shown, after]),
        query_to_class=torch.cat([words.query_to_class[:count], classes, words.query_to_class[count:]]),
        texts=(*words.texts[:count], *own, *words.texts[count:]),
        notes=(*words.notes, *notes),
    )


def _row(model: Any, words: Words, place: int, entry: ClassEntry) -> tuple[Tensor, str]:
    """Return the row (D,) of the pictures of a class, and what to say of it.

    Raises:
        VocabularyError: There is no text that the length of the row goes by.
    """
    names = some([f"{one.name} ({one.hash[:8]})" for one in entry.examples])
    alone = "" if entry.by_name else " alone"
    told = f"{len(entry.examples)} picture{'s' * (len(entry.examples) > 1)}{alone}: {names}"
    with torch.inference_mode():
        if (own := model.picture_row(entry.examples)) is not None:
            return own, told
        if not len(words.embeddings):
            raise VocabularyError(
                "all classes are known by pictures alone; give at least one word beside them, or background"
            )
        seen = [_look(model, view) for one in entry.examples for view in (one, *_cut(one))]
    texts = words.embeddings if words.embeddings.ndim == 2 else words.embeddings.mean(1)
    length = texts.float().norm(dim=-1).mean()
    unit = F.normalize(F.normalize(torch.stack(seen).float(), dim=-1).mean(0), dim=0)
    return STRENGTH * length * unit.to(length), told


def _look(model: Any, example: Example) -> Tensor:
    picture = _encode(model, example)
    found: Tensor = model.look_at(picture.encoded.images[0], picture.size, picture.mask)
    return found


def _cut(example: Example) -> list[Example]:
    """Cut the object out as squares with more and more around it (`CONTEXTS`); at an edge they are moved inwards."""
    high, wide = example.mask.shape
    rows, columns = np.flatnonzero(example.mask.any(1)), np.flatnonzero(example.mask.any(0))
    longer = max(rows[-1] - rows[0], columns[-1] - columns[0]) + 1
    found = []
    for context in CONTEXTS:
        side = max(SMALLEST, int(longer * (1 + 2 * context)))
        down, right = min(side, high), min(side, wide)
        top = int(np.clip((rows[0] + rows[-1]) // 2 - down // 2, 0, high - down))
        left = int(np.clip((columns[0] + columns[-1]) // 2 - right // 2, 0, wide - right))
        part = slice(top, top + down), slice(left, left + right)
        pixels, mask = (np.ascontiguousarray(own[part]) for own in (example.pixels, example.mask))
        found.append(Example(pixels, mask, example.name))
    return found


def _encode(model: Any, example: Example) -> _Picture:
    image = model.size_rule(example.pixels)
    encoded = model.encode([image])
    mask = torch.from_numpy(example.mask).float()[None, None]
    small = F.interpolate(mask, encoded.sizes[0], mode="area")[0, 0] >= 0.5
    if not small.any():  # an object that is smaller than a pixel of what the network sees
        small = F.adaptive_max_pool2d(mask, encoded.sizes[0])[0, 0] > 0
    return _Picture(encoded, small.to(model.clip.device))


def pooled(features: Tensor, mask: Tensor) -> Tensor:
    """Average features inside of a mask.

    Args:
        features: (B, D, h, w) of windows or views, of any length.
        mask: (B, 1, H, W) of the same, 0..1.
    """
    share = F.adaptive_avg_pool2d(mask.float(), (features.shape[2], features.shape[3]))
    if share.max() < 0.5:  # no patch is filled by the object: take those that it fills most
        share = share / share.max().clamp_min(1e-6)
    unit = F.normalize(features.float(), dim=1)
    weights = share * (share >= 0.5)
    return (unit * weights).sum((0, 2, 3)) / weights.sum().clamp_min(1e-6)


def pooled_masks(embeddings: Tensor, masks: Tensor, wanted: Tensor) -> Tensor:
    """Take the proposal that is most like a mask.

    Args:
        embeddings: (Q, D) of proposals, of any length.
        masks: (Q, h, w) in 0..1.
        wanted: (h, w) in 0..1.
    """
    flat, own = masks.flatten(1).float(), wanted.flatten().float()
    both = flat @ own
    overlap = both / (flat.sum(1) + own.sum() - both).clamp_min(1e-6)
    return F.normalize(embeddings[int(overlap.argmax())].float(), dim=0)
