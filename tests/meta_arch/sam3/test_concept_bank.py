"""Prompts that are fitted to labelled pictures."""

from __future__ import annotations

import weakref
from collections.abc import Sequence

import pytest
import torch

from ovseg.contract import CLASS_SCORES
from ovseg.errors import InputError
from ovseg.meta_arch.sam3 import concept_bank
from ovseg.meta_arch.sam3.concept_bank import GREY, crop, fit, fuse, nearest, rate, soft_dice, weigh
from ovseg.meta_arch.sam3.texts import unpack
from ovseg.system.device import CPU
from tests.meta_arch.models import build, picture
from tests.meta_arch.tester import ask


def test_a_crop_is_a_square_around_a_class():
    image, labels = picture(60, 80), torch.zeros(60, 80, dtype=torch.long)
    labels[10:20, 30:50] = 2
    found = crop(image, labels, 2, 0.2, 4)
    assert found.box == (25, 0, 53, 28)
    left, top, right, bottom = found.box
    assert torch.equal(found.context, image[:, top : bottom + 1, left : right + 1])
    assert int(found.mask.sum()) == 200 and (found.alone[:, ~found.mask] == GREY).all()
    assert torch.equal(found.alone[:, found.mask], found.context[:, found.mask])
    assert crop(image, labels, 3) is None
    assert crop(image, labels, 2).box == (0, 0, 79, 59)  # no larger than the image
    labels[:, :6] = 1
    assert crop(image, labels, 1, 0.2, 4).box == (0, 0, 38, 59)  # its middle is that of what the image has of it


def test_dice_and_the_weights_of_phrases():
    mask = torch.tensor([[True, False], [False, False]])
    maps = torch.stack([mask.float(), torch.zeros(2, 2), torch.ones(2, 2)])
    torch.testing.assert_close(soft_dice(maps, mask), torch.tensor([1.0, 0.0, 0.4]), atol=1e-5, rtol=0)
    weights = weigh(torch.tensor([0.2, 0.8, 0.75, 0.4]))
    assert weights[0] == 0 and weights[3] == 0 and weights.sum().isclose(torch.tensor(1.0))
    assert (weights[1] / weights[2]).log().isclose(torch.tensor(1.0), atol=1e-4)


def test_tokens_are_averaged_where_phrases_have_some():
    tokens, mask = torch.randn(2, 3, 4), torch.tensor([[True, True, False], [True, False, False]])
    fused, counted = fuse(tokens, mask, torch.tensor([3.0, 1.0]))
    assert counted.tolist() == [True, True, False]
    torch.testing.assert_close(fused[0], (3 * tokens[0, 0] + tokens[1, 0]) / 4)
    torch.testing.assert_close(fused[1], tokens[0, 1])
    assert fuse(tokens, mask, torch.tensor([0.0, 1.0]))[1].tolist() == [True, False, False]


class Pictures(Sequence):
    """Pictures of two classes that are made when they are asked for; counts how many there are at once."""

    def __init__(self, count: int) -> None:
        self.count, self.alive, self.most = count, weakref.WeakSet(), 0

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, seed):
        image, labels = picture(40, 48, seed), torch.full((40, 48), 255)
        labels[:20], labels[24:, : 20 + seed % 20] = 0, 1
        self.alive.add(image)
        self.most = max(self.most, len(self.alive))
        return image, labels


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_more_crops_than_phrases_are_rated_on(folders, sam3, dtype):
    """Of many pictures one is there at a time; those near the mean of their class are rated, in any dtype."""
    model = build("sam3", folders["sam3"])
    model.load_state_dict(sam3.state_dict())
    model.place(CPU, dtype)
    shown = Pictures(7)
    words = fit(model, shown, [["cat", "kitten", "house cat"], ["sofa", "couch"]], 2, most=5)
    assert shown.most <= 2  # the next one is made before the last one is gone
    assert words.notes[1] == "4 of their crops were not looked at, beyond 5 of a class (most)"
    assert words.embeddings.isfinite().all()
    few = fit(model, Pictures(5), [["cat", "kitten", "house cat"], ["sofa", "couch"]], 2, most=5)
    assert torch.equal(words.embeddings, few.embeddings) and len(few.notes) == 1


def test_the_crops_that_count_are_those_near_the_mean(sam3):
    """Of four that are alike and one that is not, that one is left out."""
    same, other = picture(40, 48, 0), torch.full((3, 40, 48), 255, dtype=torch.uint8)
    labels = torch.zeros(40, 48, dtype=torch.long)
    cut = [crop(other if place == 1 else same, labels, 0) for place in range(5)]
    with torch.inference_mode():
        assert sorted(nearest(sam3, cut.__getitem__, range(5), 4)) == [0, 2, 3, 4]
        assert nearest(sam3, cut.__getitem__, [3, 1], 2) == [3, 1]


def test_phrases_are_rated_in_the_crop_and_a_little_in_the_class_alone(sam3, monkeypatch):
    """By the weights that the crops have in their mean."""
    labels = torch.zeros(40, 48, dtype=torch.long)
    labels[:20] = 1
    own, read = crop(picture(40, 48, 2), labels, 1), sam3.reader.read(["cat", "a red sofa"], None)
    views = []
    for view in (own.context, own.alone):
        alone = own._replace(context=view, alone=view)
        monkeypatch.setattr(concept_bank, "soft_dice", lambda scores, mask: views.append(scores) or scores.mean((1, 2)))
        with torch.inference_mode():
            rate(sam3, read, alone)
    monkeypatch.setattr(concept_bank, "soft_dice", soft_dice)
    with torch.inference_mode():
        found = rate(sam3, read, own)
    torch.testing.assert_close(found, soft_dice(0.9 * views[0] + 0.1 * views[1], own.mask), atol=1e-5, rtol=0)
    assert (views[0] - views[1]).abs().max() > 1e-3


def test_fitted_prompts_are_words_of_the_model(sam3):
    pictures = Pictures(3)
    words = fit(sam3, pictures, [["cat", "kitten", "house cat"], ["sofa", "couch"]], per_class=2)
    tokens, mask = unpack(words.embeddings, sam3.clip.channels)
    assert len(tokens) == 2 and mask.any(1).all() and words.vocabulary.names == ["cat", "sofa"]
    (found,) = ask(sam3, [pictures[0][0]], words, frozenset({CLASS_SCORES}))
    assert found.class_scores.shape == (2, 40, 48) and "fitted to labelled pictures" in words.notes[0]
    alone = fit(sam3, pictures, [["cat"], ["sofa"]])
    plain = unpack(sam3.reader.read(["cat", "sofa"], None), sam3.clip.channels)
    torch.testing.assert_close(
        unpack(alone.embeddings, sam3.clip.channels)[0], plain[0][:, : alone_length(alone, sam3)]
    )
    with pytest.raises(InputError, match="per_class is 0 and most 100; expected at least 1"):
        fit(sam3, pictures, [["cat"], ["sofa"]], 0)
    with pytest.raises(InputError, match="no picture shows 'dog'"):
        fit(sam3, pictures, [["cat"], ["sofa"], ["dog"]])


def alone_length(words, model) -> int:
    return words.embeddings.shape[1] // (model.clip.channels + 1)
