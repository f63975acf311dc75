"""Classes that are known by pictures: rows for them among the rows of the words.

Features of images lie apart from texts, and nearer to each other than to any text, so a picture cannot stand among
texts as it is: it would win everywhere. What tells its object from the object's surroundings is a direction; it is
put where the texts lie, and so far from their middle that the model finds the object in its own picture best, among
the very words of the request.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg.contract import Encoded, Words
from ovseg.errors import ConfigError
from ovseg.system.values import some
from ovseg.vocabulary import ClassEntry
from ovseg.vocabulary.examples import Example

STRENGTHS = (0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0)
"""How far from the middle of the texts a row of pictures may lie, in mean distances of texts."""


class Glimpse(NamedTuple):
    """What a model sees of an example, in the space in which it compares images with words.

    Attributes:
        shown: Of the object (D,).
        beside: Of what surrounds it (D,); None where nothing does.
    """

    shown: Tensor
    beside: Tensor | None


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
    """Leave out the names of classes that are known by pictures alone; the middle of all texts stands for them.

    Every class keeps a row, so that none is without a column; where it has pictures, theirs takes its place.
    """
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


def _put_in(words: Words, rows: Tensor, classes: Tensor, notes: Sequence[str] = ()) -> Words:
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
    """Return the row (D,) of the pictures of a class, and what to say of it."""
    names = some([f"{one.name} ({one.hash[:8]})" for one in entry.examples])
    alone = "" if entry.by_name else " alone"
    told = f"{len(entry.examples)} picture{'s' * (len(entry.examples) > 1)}{alone}: {names}"
    if (own := model.picture_row(entry.examples)) is not None:
        return own, told
    pictures = [_encode(model, one) for one in entry.examples]
    with torch.inference_mode():
        seen = [model.look_at(one.encoded.images[0], one.size, one.mask) for one in pictures]
    rows = _candidates(words, seen)
    found = [_overlap(model, words, row, place, pictures) for row in rows]
    best = max(range(len(found)), key=found.__getitem__)
    return rows[best], f"{told}; strength {STRENGTHS[best]:g}, by which IoU in its own picture is {found[best]:.2f}"


def _candidates(words: Words, seen: Sequence[Glimpse]) -> list[Tensor]:
    """Return the row (D,) of what was seen, for each of `STRENGTHS`."""
    texts = words.embeddings if words.embeddings.ndim == 2 else words.embeddings.mean(1)
    texts = texts.float()
    middle = texts.mean(0)
    apart = (texts - middle).norm(dim=-1).mean() if len(texts) > 1 else middle.norm()
    shown = F.normalize(torch.stack([one.shown for one in seen]).mean(0), dim=0)
    around = [one.beside for one in seen if one.beside is not None]
    other = F.normalize(torch.stack(around).mean(0), dim=0) if around else torch.zeros_like(shown)
    direction = F.normalize(shown - other, dim=0).to(middle)
    length = texts.norm(dim=-1).mean()
    return [length * F.normalize(middle + strength * apart * direction, dim=0) for strength in STRENGTHS]


def _encode(model: Any, example: Example) -> _Picture:
    image = model.size_rule(example.pixels)
    encoded = model.encode([image])
    mask = torch.from_numpy(example.mask).float()[None, None]
    small = F.interpolate(mask, encoded.sizes[0], mode="area")[0, 0] >= 0.5
    if not small.any():  # an object that is smaller than a pixel of what the network sees
        small = F.adaptive_max_pool2d(mask, encoded.sizes[0])[0, 0] > 0
    return _Picture(encoded, small.to(model.clip.device))


def _overlap(model: Any, words: Words, row: Tensor, place: int, pictures: Sequence[_Picture]) -> float:
    """Return the mean IoU of a class in its own pictures, were this its row."""
    asked = model.known(_put_in(words, row[None], torch.tensor([place])))
    total = 0.0
    for one in pictures:
        found = model.answer(one.encoded, 0, one.size, asked).labels == place
        total += float((found & one.mask).sum()) / max(1, int((found | one.mask).sum()))
    return total / len(pictures)


def pooled(features: Tensor, mask: Tensor) -> Glimpse:
    """Average features inside and outside of a mask.

    Args:
        features: (B, D, h, w) of windows or views, of any length.
        mask: (B, 1, H, W) of the same, 0..1.
    """
    share = F.adaptive_avg_pool2d(mask.float(), (features.shape[2], features.shape[3]))
    if share.max() < 0.5:  # no patch is filled by the object: take those that it fills most
        share = share / share.max().clamp_min(1e-6)
    unit = F.normalize(features.float(), dim=1)
    inside, outside = share * (share >= 0.5), (1 - share) * (share < 0.5)
    return Glimpse(_mean(unit, inside), _mean(unit, outside) if outside.sum() > 0 else None)


def pooled_masks(embeddings: Tensor, masks: Tensor, wanted: Tensor) -> Glimpse:
    """Take the proposal that is most like a mask, and the mean of those that lie elsewhere.

    Args:
        embeddings: (Q, D) of proposals, of any length.
        masks: (Q, h, w) in 0..1.
        wanted: (h, w) in 0..1.
    """
    flat, own = masks.flatten(1).float(), wanted.flatten().float()
    both = flat @ own
    overlap = both / (flat.sum(1) + own.sum() - both).clamp_min(1e-6)
    unit = F.normalize(embeddings.float(), dim=-1)
    weights = flat @ (1 - own) * (overlap < 0.3)
    beside = (weights @ unit) / weights.sum() if weights.sum() > 0 else None
    return Glimpse(unit[int(overlap.argmax())], beside)


def _mean(unit: Tensor, weights: Tensor) -> Tensor:
    return (unit * weights).sum((0, 2, 3)) / weights.sum().clamp_min(1e-6)
