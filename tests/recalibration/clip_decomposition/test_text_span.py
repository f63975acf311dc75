"""TextSpan: it finds the texts that span outputs, and says what it cannot do."""

from __future__ import annotations

import pytest
import torch

from ovseg.errors import InputError
from ovseg.recalibration.clip_decomposition.text_span import text_span


def test_the_texts_that_made_the_outputs_are_found_in_the_order_of_their_spread():
    texts = torch.linalg.qr(torch.randn(16, 16))[0]
    weights = torch.randn(50, 3) * torch.tensor([1.0, 9.0, 3.0])
    outputs = weights @ texts[[4, 11, 7]] + 5 * texts[4]
    found = text_span(outputs, texts, steps=3, rank=3)
    assert found.selected.tolist() == [11, 7, 4]
    torch.testing.assert_close(found.reconstruction, outputs, atol=1e-4, rtol=1e-4)


def test_fewer_texts_explain_less():
    outputs, texts = torch.randn(40, 12), torch.randn(30, 12)
    errors = [(text_span(outputs, texts, steps, rank=12).reconstruction - outputs).norm() for steps in (1, 6, 12)]
    assert errors[0] > errors[1] > errors[2] and errors[2] < 1e-3


@pytest.mark.parametrize(
    ("outputs", "texts", "steps", "message"),
    [
        ((5, 8), (9, 7), 2, r"got outputs \(5, 8\) and texts \(9, 7\); expected"),
        ((5, 8, 1), (9, 8), 2, "expected"),
        ((5, 8), (9, 8), 6, "6 texts were asked for of 5 images, 9 texts and rank 80; expected 1 to 5"),
        ((5, 8), (9, 8), 0, "0 texts were asked for"),
        ((1, 8), (9, 8), 1, "at least 2 images"),
    ],
)
def test_mistakes(outputs, texts, steps, message):
    with pytest.raises(InputError, match=message):
        text_span(torch.randn(outputs), torch.randn(texts), steps)
