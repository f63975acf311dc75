"""The loss of maps of classes: what is asked of each image, once for all maps, and which classes are compared."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from ovseg.errors import ConfigError
from ovseg.losses.class_maps import ClassMapCriterion
from ovseg.losses.matcher import Target


def target(*labels, size=(6, 8)):
    masks = torch.zeros(len(labels), *size, dtype=torch.bool)
    for row, mask in enumerate(masks):
        mask[row] = True
    return Target(torch.tensor(labels, dtype=torch.long), masks)


@pytest.mark.parametrize("void", ["negative", "left_out"])
@pytest.mark.parametrize("classes", [None, torch.tensor([0, 2, 3])])
def test_the_mean_over_all_questions(void, classes):
    criterion, shown = ClassMapCriterion(void=void), [target(2, 0), target(3)]
    names = [0, 1, 2, 3] if classes is None else classes.tolist()
    maps = [torch.randn(len(names), 3, 4) for _ in shown]
    sums, count = 0.0, 0
    for own, one in zip(maps, shown, strict=True):
        wanted = torch.zeros(len(names), 6, 8)
        for label, mask in zip(one.labels.tolist(), one.masks, strict=True):
            wanted[names.index(label)][mask] = 1
        every = F.binary_cross_entropy_with_logits(
            F.interpolate(own[None], (6, 8), mode="bilinear")[0], wanted, reduction="none"
        )
        counted = every if void == "negative" else every[:, one.masks.any(0)]
        sums, count = sums + counted.sum(), count + counted.numel()
    questions = criterion.questions(shown, [classes, classes], 4)
    torch.testing.assert_close(criterion(maps, questions), sums / count)


def test_questions_are_the_same_for_all_maps_of_an_image():
    criterion = ClassMapCriterion()
    (asked,) = criterion.questions([target(1)], [None], 2)
    assert asked.known is None and asked.wanted.dtype == torch.float32
    before = asked.wanted.clone()
    for _ in range(2):
        criterion([torch.randn(2, 3, 4)], [asked])
    assert torch.equal(asked.wanted, before)


def test_half_precision_is_summed_in_full():
    criterion, shown = ClassMapCriterion(), [target(0, size=(200, 200))]
    questions = criterion.questions(shown, [None], 8)
    logits = torch.full((8, 10, 10), 4.0)
    half = criterion([logits.half()], questions)
    assert half.dtype == torch.float32 and half.isfinite()
    torch.testing.assert_close(half, criterion([logits], questions), atol=0, rtol=1e-3)  # their sum is beyond float16


def test_images_are_compared_with_what_they_show_and_with_what_is_near():
    asked = []

    def near(index):
        asked.append(index)
        return torch.tensor([0.1, 0.9, 0.2, 0.8, 0.3])

    choose = ClassMapCriterion(train_classes=3).choose
    assert [own.tolist() for own in choose(near, 5, [target(0), target(), target(0, 2, 4, 1)])] == [
        [0, 1, 3],
        [1, 3, 4],
        [0, 1, 2, 4],
    ]
    assert asked == [0, 1, 2]
    for count in (0, 5, 9):  # all are compared, so nobody asks what is near
        assert ClassMapCriterion(train_classes=count).choose(near, 5, [target(0)]) == [None]
    assert asked == [0, 1, 2]


@pytest.mark.parametrize("count", [0, 2])
@pytest.mark.parametrize("label", [4, -1])
def test_a_class_that_is_not_among_the_words_is_refused(count, label):
    criterion = ClassMapCriterion(train_classes=count)
    with pytest.raises(ConfigError, match=r"target classes range from .* expected 0 to 3, the vocabulary's"):
        criterion.choose(lambda _: torch.zeros(4), 4, [target(0), target(label)])
