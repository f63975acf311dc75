"""Prompts that are fitted to labelled pictures: one fused prompt a class in the place of its names.

ConceptBank (arXiv 2602.06333; github.com/PGSmall/ConceptBank): crops of a class near its mean, phrases rated on
them by soft Dice, and the tokens of the good ones averaged. It needs labels, and so is not free of annotation.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg.clip.normalise import normalise
from ovseg.errors import InputError
from ovseg.meta_arch.sam3.fusion import CONCEPTBANK, Fusion
from ovseg.meta_arch.sam3.labels import plan_canvas, scores_in
from ovseg.meta_arch.sam3.model import SAM3
from ovseg.meta_arch.sam3.texts import Phrases, pack, shortened, unpack
from ovseg.vocabulary import Vocabulary, parse_background

PADDING, LEAST_SIDE = 0.2, 128
"""Of the square around a class, as a share of its longer side; and its least side in pixels."""
GREY = 127
SHARE = 0.9
"""Of the crop as it is in its embedding; the rest is that of the class alone."""
NEAR_BEST, KEEP_NAME, TEMPERATURE = 0.3, 0.02, 0.05
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
    (top, bottom), (left, right) = (mask.any(axis).nonzero().flatten()[[0, -1]].tolist() for axis in (1, 0))
    longer = max(bottom - top, right - left) + 1
    side = max(longer + 2 * int(padding * longer), least)
    (y1, y2), (x1, x2) = (
        _around(*ends, side, length) for ends, length in zip(((top, bottom), (left, right)), labels.shape, strict=True)
    )
    context, own = image[:, y1 : y2 + 1, x1 : x2 + 1], mask[y1 : y2 + 1, x1 : x2 + 1]
    return Crop((x1, y1, x2, y2), context, context.where(own, torch.full_like(context, GREY)), own)


def _around(first: int, last: int, side: int, length: int) -> tuple[int, int]:
    """Return the ends of a side in the middle of two places, as far as the image goes."""
    start = (first + last) // 2 - side // 2
    return max(0, start), min(length - 1, start + side - 1)


def soft_dice(scores: Tensor, mask: Tensor) -> Tensor:
    """Return how well maps (n, h, w) in 0..1 fit a mask (h, w): (n,)."""
    truth = mask.to(scores)
    return (2 * (scores * truth).sum((1, 2)) + 1e-6) / (scores.sum((1, 2)) + truth.sum() + 1e-6)


def weigh(dice: Tensor, name: int = 0) -> Tensor:
    """Return the weights (n,) of phrases by their Dice (n,): those far below the best have none.

    Args:
        dice: Mean over crops.
        name: Place of the word of the class, which counts where it is near the best.
    """
    kept = dice >= dice.max() - NEAR_BEST
    kept[name] |= bool(dice[name] >= dice.max() - KEEP_NAME)
    return (dice / TEMPERATURE).masked_fill(~kept, -torch.inf).softmax(0)


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
    model: SAM3, pictures: Iterable[tuple[Tensor, Tensor]], candidates: Sequence[Sequence[str]], per_class: int = 10
) -> Phrases:
    """Fit one prompt to each class, to be asked of this model with the fusion ``conceptbank``.

    Args:
        model: Whose text tower reads the phrases, and which rates them.
        pictures: Images (3, H, W) uint8 with labels (H, W), whose ids are places among the classes.
        candidates: The phrases of each class; the first is its word.
        per_class: Crops near the mean of a class that phrases are rated on.

    Raises:
        VocabularyError: Words are not allowed.
        InputError: No picture shows a class.
    """
    vocabulary = Vocabulary.parse([[own[0]] for own in candidates])
    crops: list[list[Crop]] = [[] for _ in candidates]
    for image, labels in pictures:
        for class_id in (own for own in labels.unique().tolist() if 0 <= own < len(candidates)):
            if found := crop(image, labels, class_id):
                crops[class_id].append(found)
    if missing := [own[0] for own, found in zip(candidates, crops, strict=True) if not found]:
        raise InputError(f"no picture shows {missing[0]!r}; expected labels of every class, or leave it out")
    rows = [
        _prompt(model, list(own), nearest(model, found, per_class))
        for own, found in zip(candidates, crops, strict=True)
    ]
    return Phrases(
        embeddings=shortened(torch.stack(rows), model.clip.channels).to(model.clip.device),
        query_to_class=torch.arange(len(rows)),
        texts=tuple(vocabulary.queries),
        notes=(f"the prompts of {len(rows)} classes were fitted to labelled pictures (ConceptBank)",),
        vocabulary=vocabulary,
        background=parse_background("none"),
        templates="none",
        embedded_by=model.clip.weights_hash,
    )


def nearest(model: SAM3, crops: Sequence[Crop], count: int) -> list[Crop]:
    """Return the crops of a class that are next to their mean, as the image tower sees them."""
    if len(crops) <= count:
        return list(crops)
    rows = []
    for own in crops:
        views = torch.cat([model.squeeze(view[None]) for view in (own.context, own.alone)])
        pixels = normalise(views.float() / 255, model.clip.mean, model.clip.std).to(model.clip.dtype)
        context, alone = F.normalize(model.clip.pooled(pixels).float(), dim=-1)
        rows.append(SHARE * context + (1 - SHARE) * alone)
    found = F.normalize(torch.stack(rows), dim=-1)
    near = found @ F.normalize(found.mean(0), dim=0)
    return [crops[place] for place in near.topk(count).indices.tolist()]


def _prompt(model: SAM3, phrases: list[str], crops: Sequence[Crop]) -> Tensor:
    """Return the fused row of phrases, rated on crops."""
    read = model.reader.read(phrases, model.text_cache)
    tokens, mask = (one.to(model.clip.device) for one in unpack(read, model.clip.channels))
    dice = torch.zeros(len(phrases), device=tokens.device)
    for own in crops:
        size = (own.mask.shape[0], own.mask.shape[1])
        (seen,) = model.see(own.context[None])
        canvas = plan_canvas(
            seen.plan, size, size, (seen.windows[0].fine.shape[1], seen.windows[0].fine.shape[2]), RATING, True
        )
        whole = (slice(0, size[0]), slice(0, size[1]))
        for part in torch.arange(len(phrases)).split(model.budget.at_a_time(model.clip)):
            maps = [model.maps(model.clip.ask(window, tokens[part], mask[part]), RATING) for window in seen.windows]
            scores = scores_in(canvas, whole, maps, RATING, torch.arange(len(part), device=tokens.device))
            dice[part] += soft_dice(scores, own.mask.to(scores.device)) / len(crops)
    fused, counted = fuse(tokens, mask, weigh(dice))
    return pack(fused[None], counted[None])[0].cpu()
