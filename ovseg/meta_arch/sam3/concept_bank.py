"""Prompts that are fitted to labelled pictures: one fused prompt a class in the place of its names.

ConceptBank (arXiv 2602.06333; github.com/PGSmall/ConceptBank): crops of a class near its mean, phrases rated on
them by soft Dice, and the tokens of the good ones averaged. It needs labels, and so is not free of annotation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg.errors import InputError
from ovseg.meta_arch.sam3.asking import ask
from ovseg.meta_arch.sam3.fusion import CONCEPTBANK, Fusion
from ovseg.meta_arch.sam3.labels import plan_canvas, scores_in
from ovseg.meta_arch.sam3.model import SAM3
from ovseg.meta_arch.sam3.texts import Phrases, pack, shortened, unpack
from ovseg.ops.linear_layers import fast_products
from ovseg.vocabulary import Vocabulary, parse_background

PADDING, LEAST_SIDE = 0.2, 128
"""Of the square around a class, as a share of its longer side; and its least side in pixels."""
GREY = 127
SHARE = 0.9
"""Of the crop as it is in all that is made of it; the rest is that of the class alone."""
NEAR_BEST, TEMPERATURE = 0.3, 0.05
RATING = Fusion(fusion=CONCEPTBANK, confidence=0.1, top_k=100)
"""By which phrases are rated."""


class Crop(NamedTuple):
    """A square around a class.

    Attributes:
        box: Left, top, right and bottom, the last pixels included.
        context: Its pixels (3, h, w).
        alone: The same, grey where the class is not.
        mask: (h, w) bool, where the class is.
    """

    box: tuple[int, int, int, int]
    context: Tensor
    alone: Tensor
    mask: Tensor


def crop(
    image: Tensor, labels: Tensor, class_id: int, padding: float = PADDING, least: int = LEAST_SIDE
) -> Crop | None:
    """Cut out the square around all pixels of a class; None where there are none.

    Args:
        image: (3, H, W) uint8.
        labels: (H, W) ids.
        class_id: Of the class.
        padding: See `PADDING`.
        least: Pixels of the shortest side, as far as the image has them.
    """
    mask = labels == class_id
    if not bool(mask.any()):
        return None
    ends = [mask.any(axis).nonzero().flatten()[[0, -1]].tolist() for axis in (1, 0)]
    further = int(padding * max(last - first + 1 for first, last in ends))
    wide = [
        (max(0, first - further), min(length - 1, last + further))
        for (first, last), length in zip(ends, labels.shape, strict=True)
    ]
    half = max(least, *(last - first + 1 for first, last in wide)) // 2
    (y1, y2), (x1, x2) = (
        (max(0, (first + last) // 2 - half), min(length - 1, (first + last) // 2 + half))
        for (first, last), length in zip(wide, labels.shape, strict=True)
    )
    context, own = image[:, y1 : y2 + 1, x1 : x2 + 1], mask[y1 : y2 + 1, x1 : x2 + 1]
    return Crop((x1, y1, x2, y2), context, context.where(own, torch.full_like(context, GREY)), own)


def soft_dice(scores: Tensor, mask: Tensor) -> Tensor:
    """Return how well maps (n, h, w) in 0..1 fit a mask (h, w): (n,)."""
    truth = mask.to(scores)
    return (2 * (scores * truth).sum((1, 2)) + 1e-6) / (scores.sum((1, 2)) + truth.sum() + 1e-6)


def weigh(dice: Tensor) -> Tensor:
    """Return the weights (n,) of phrases by their Dice (n,), its mean over crops: those far below the best have none.

    The authors can keep a number of the best alone, and then the word of the class beside them; their banks keep all.
    """
    return (dice / TEMPERATURE).masked_fill(dice < dice.max() - NEAR_BEST, -torch.inf).softmax(0)


def fuse(tokens: Tensor, mask: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Average phrases place by place, over those that have a token there.

    Args:
        tokens: (n, t, C).
        mask: Which tokens count, (n, t) bool.
        weights: (n,), 0 or more.

    Returns:
        Tokens (t, C), and which of them count (t,).
    """
    share = weights[:, None] * mask
    total = share.sum(0).clamp(min=1e-6)
    return (tokens * share[..., None]).sum(0) / total[:, None], (mask & (weights[:, None] > 0)).any(0)


@torch.inference_mode()
def fit(
    model: SAM3,
    pictures: Sequence[tuple[Tensor, Tensor]],
    candidates: Sequence[Sequence[str]],
    per_class: int = 10,
    most: int = 100,
) -> Phrases:
    """Fit one prompt to each class, to be asked of this model with the fusion ``conceptbank``.

    Args:
        model: Whose text tower reads the phrases, and which rates them.
        pictures: Images (3, H, W) uint8 with labels (H, W), whose ids are places among the classes. A picture is asked
            for again each time it is needed, so a data set that reads from disk takes no memory.
        candidates: The phrases of each class; the first is its word.
        per_class: Crops near the mean of a class that phrases are rated on.
        most: Crops of a class, the first ones, that its mean is taken of and that are looked at for it.

    Raises:
        VocabularyError: Words are not allowed.
        InputError: No picture shows a class, or a number is not positive.
    """
    if min(per_class, most) < 1:
        raise InputError(f"per_class is {per_class} and most {most}; expected at least 1")
    vocabulary = Vocabulary.parse([[own[0]] for own in candidates])
    places: list[list[int]] = [[] for _ in candidates]
    for place in range(len(pictures)):
        for class_id in (own for own in pictures[place][1].unique().tolist() if 0 <= own < len(candidates)):
            places[class_id].append(place)
    if missing := [own[0] for own, found in zip(candidates, places, strict=True) if not found]:
        raise InputError(f"no picture shows {missing[0]!r}; expected labels of every class, or leave it out")
    rows = []
    with fast_products(model.clip.device):
        for class_id, (own, shown) in enumerate(zip(candidates, places, strict=True)):
            take, known = partial(_take, pictures, class_id), shown[: max(most, per_class)]
            read = model.reader.read(list(own), model.text_cache)
            dice = [rate(model, read, take(place)) for place in nearest(model, take, known, per_class)]
            fused, counted = fuse(*unpack(read, model.clip.channels), weigh(torch.stack(dice).mean(0).cpu()))
            rows.append(pack(fused[None], counted[None])[0])
    left = sum(max(0, len(shown) - max(most, per_class)) for shown in places)
    return Phrases(
        embeddings=shortened(torch.stack(rows), model.clip.channels).to(model.clip.device),
        query_to_class=torch.arange(len(rows)),
        texts=tuple(vocabulary.queries),
        notes=(
            f"the prompts of {len(rows)} classes were fitted to labelled pictures (ConceptBank)",
            *([f"{left} of their crops were not looked at, beyond {most} of a class (most)"] if left else []),
        ),
        vocabulary=vocabulary,
        background=parse_background("none"),
        templates="none",
        embedded_by=model.clip.weights_hash,
        screen=model.screen.read(vocabulary.queries, model.text_cache) if model.screen else None,
    )


def _take(pictures: Sequence[tuple[Tensor, Tensor]], class_id: int, place: int) -> Crop:
    found = crop(*pictures[place], class_id)
    if found is None:
        raise InputError(f"picture {place} shows class {class_id} no more; expected the same labels each time")
    return found


def nearest(model: SAM3, take: Callable[[int], Crop], places: Sequence[int], count: int) -> list[int]:
    """Return those of some pictures whose crops of a class are next to their mean, as the image tower sees them.

    Args:
        model: Whose image tower looks.
        take: Cuts the class out of a picture.
        places: The pictures.
        count: How many to return.
    """
    if len(places) <= count:
        return list(places)
    rows = []
    for place in places:
        own = take(place)
        pixels = torch.cat([model.clip.normal(view[None]) for view in (own.context, own.alone)])
        context, alone = F.normalize(model.clip.pooled(pixels), dim=-1)
        rows.append(SHARE * context + (1 - SHARE) * alone)
    found = F.normalize(torch.stack(rows), dim=-1)
    near = found @ F.normalize(found.mean(0), dim=0)
    return [places[one] for one in near.topk(count).indices.tolist()]


def rate(model: SAM3, phrases: Tensor, own: Crop) -> Tensor:
    """Return the soft Dice (n,) of phrases (n, ...) on a crop, of their scores in both of its views."""
    size = (own.mask.shape[0], own.mask.shape[1])
    views = [model.look(view[None])[0] for view in (own.context, own.alone)]
    canvas = plan_canvas(views[0].plan, size, size, views[0].grid, RATING, True)
    whole, every = (slice(0, size[0]), slice(0, size[1])), torch.arange(len(phrases), device=model.clip.device)
    answers = [ask(model.clip, view, phrases, every, RATING, model.budget, True) for view in views]
    found = []
    for asked in zip(*answers, strict=True):
        context, alone = (scores_in(canvas, whole, parts, RATING, rows - rows[0]) for rows, parts in asked)
        found.append(soft_dice(SHARE * context + (1 - SHARE) * alone, own.mask.to(context.device)))
    return torch.cat(found)
