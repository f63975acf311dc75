"""Prompts that are fitted to labelled pictures."""

from __future__ import annotations

import pytest
import torch

from ovseg.contract import CLASS_SCORES
from ovseg.errors import InputError
from ovseg.meta_arch.sam3.concept_bank import GREY, crop, fit, fuse, nearest, soft_dice, weigh
from ovseg.meta_arch.sam3.texts import unpack
from tests.meta_arch.models import picture
from tests.meta_arch.tester import ask


def test_a_crop_is_a_square_around_a_class():
    image, labels = picture(60, 80), torch.zeros(60, 80, dtype=torch.long)
    labels[10:20, 30:50] = 2
    found = crop(image, labels, 2, 0.2, 4)
    assert found.box == (25, 0, 52, 28) or found.box == (25, 0, 52, 27)
    left, top, right, bottom = found.box
    assert torch.equal(found.context, image[:, top : bottom + 1, left : right + 1])
    assert int(found.mask.sum()) == 200 and (found.alone[:, ~found.mask] == GREY).all()
    assert torch.equal(found.alone[:, found.mask], found.context[:, found.mask])
    assert crop(image, labels, 3) is None
    assert crop(image, labels, 2).box == (0, 0, 79, 59)  # no larger than the image


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


def test_fitted_prompts_are_words_of_the_model(sam3):
    pictures = []
    for seed in range(3):
        labels = torch.full((40, 48), 255)
        labels[:20], labels[24:, :30] = 0, 1
        pictures.append((picture(40, 48, seed), labels))
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
    crops = [crop(image, labels, 0) for image, labels in pictures]
    assert len(nearest(sam3, crops, 2)) == 2 and len(nearest(sam3, crops, 5)) == 3
    with pytest.raises(InputError, match="no picture shows 'dog'"):
        fit(sam3, pictures, [["cat"], ["sofa"], ["dog"]])


def alone_length(words, model) -> int:
    return words.embeddings.shape[1] // (model.clip.channels + 1)
