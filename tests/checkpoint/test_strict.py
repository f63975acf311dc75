"""Translation of foreign checkpoints: every tensor finds its place, or the error names it."""

from __future__ import annotations

import pytest
import torch

from ovseg.checkpoint.strict import check_finite, load_strict, rename, translate
from ovseg.errors import WeightsError

OWN = {"a.weight": torch.empty(3, 2), "a.bias": torch.empty(3), "scale": torch.empty(())}
RENAMES = ((r"a\.(.+)", r"their.\1"),)


def name_of(key):
    return rename(key, RENAMES)


def theirs(**changes):
    state = {"their.weight": torch.ones(3, 2, 1, 1), "their.bias": torch.ones(3), "scale": torch.ones(1), **changes}
    return {key.replace("_dot_", "."): value for key, value in state.items() if value is not None}


def test_names_and_shapes():
    found = translate(OWN, theirs(), name_of, "x.pth", "model")
    assert {key: value.shape for key, value in found.items()} == {key: value.shape for key, value in OWN.items()}
    translate(OWN, theirs(buffer_dot_1=torch.ones(1)), name_of, "x.pth", "model", [r"buffer\.\d"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"their_dot_bias": None}, r"x\.pth does not fit model: it misses their\.bias"),
        ({"more": torch.ones(1)}, "it has unexpected more"),
        ({"their_dot_bias": torch.ones(4)}, r"mis-shaped their\.bias \(got \(4,\) torch\.float32, expected \(3,\)\)"),
        ({"their_dot_weight": torch.ones(2, 3)}, r"their\.weight \(got \(2, 3\) torch\.float32, expected \(3, 2\)\)"),
        ({"their_dot_weight": torch.ones(3, 2, 3, 3)}, "mis-shaped"),
        ({"their_dot_weight": torch.ones(3, 2).int()}, r"mis-shaped their\.weight \(got \(3, 2\) torch\.int32"),
        ({"their_dot_weight": None, "their_dot_bias": None, "scale": None}, "holds none of the 3 tensors of model"),
    ],
)
def test_what_does_not_fit_is_named(changes, message):
    changes = {key.replace("_dot_", "."): value for key, value in changes.items()}
    state = {key: value for key, value in {**theirs(), **changes}.items() if value is not None}
    with pytest.raises(WeightsError, match=message) as caught:
        translate(OWN, state, name_of, "x.pth", "model")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.float8_e5m2])
def test_weights_that_are_no_numbers_are_refused(value, dtype):
    broken = torch.ones(3, 2)
    broken[1, 1] = value
    message = r"x\.pth holds NaN or infinite values in their\.weight \(1 of 6 in their\.weight\); expected finite"
    with pytest.raises(WeightsError, match=message):
        translate(OWN, theirs(their_dot_weight=broken.to(dtype)), name_of, "x.pth", "model")
    check_finite({"whole": torch.ones(2).to(dtype), "none": torch.ones(0, 3), "count": torch.tensor(3)}, "x.pth")


def test_masks_that_follow_from_the_configuration_may_be_infinite():
    mask = torch.full((4, 4), float("-inf")).triu_(1)
    translate(OWN, theirs(attn_mask=mask), name_of, "x.pth", "model", ["attn_mask"])


def test_a_part_with_broken_weights_is_refused_and_stays_as_it_was():
    part = torch.nn.Linear(2, 2)
    before = part.weight.clone()
    with pytest.raises(WeightsError, match=r"the file holds NaN or infinite values in bias, weight \(2 of 2 in bias\)"):
        load_strict(
            part, {"weight": torch.full((2, 2), torch.nan), "bias": torch.full((2,), torch.inf)}, "the file", "it"
        )
    assert torch.equal(part.weight, before)
