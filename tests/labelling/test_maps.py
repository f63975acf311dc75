"""From `COMPACT` pixels on maps take half the memory; what they say stays."""

import numpy as np
import pytest
import torch

import ovseg
from ovseg.labelling.maps import empty_maps
from ovseg.result.segmentation import Segmentation

MODULES = ("ovseg.labelling.maps", "ovseg.labelling.scores", "ovseg.result.segmentation")
WORDS = "sailboat, turtle, octopus, sand, water"


@pytest.fixture
def small_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in MODULES:
        monkeypatch.setattr(f"{module}.COMPACT", 1000)
    monkeypatch.setattr("ovseg.labelling.scores._BAND", 5000)


@pytest.mark.parametrize("model", ["mini", "itaclip/mini", "gem/mini"])
def test_compact_results_say_the_same(model: str, request: pytest.FixtureRequest) -> None:
    segmenter = ovseg.load(model, device="cpu")
    before = segmenter("examples/beach.jpg", WORDS)
    request.getfixturevalue("small_is_large")
    after = segmenter("examples/beach.jpg", WORDS)
    assert (before.labels.dtype, before.scores.dtype) == (np.int32, np.float32)
    assert (after.labels.dtype, after.scores.dtype) == (np.int16, np.float16)
    np.testing.assert_array_equal(after.labels, before.labels)
    np.testing.assert_allclose(after.scores, before.scores, atol=5e-4)
    assert any("kept in 16 bits" in note for note in after.meta["notes"])
    assert not any("kept in 16 bits" in note for note in before.meta["notes"])
    assert [(s.class_id, s.area, s.bbox) for s in after.segments] == [
        (s.class_id, s.area, s.bbox) for s in before.segments
    ]


@pytest.mark.usefixtures("small_is_large")
def test_classes_beyond_16_bits_keep_wide_labels() -> None:
    labels, scores = empty_maps((100, 100), 40_000, torch.device("cpu"))
    assert (labels.dtype, scores.dtype) == (torch.int32, torch.float16)


def test_results_of_ordinary_size_are_wide_whatever_they_are_made_of() -> None:
    labels, scores = np.zeros((4, 5), np.int16), np.zeros((4, 5), np.float16)
    classes = ovseg.Vocabulary.parse("cat, dog")
    result = Segmentation.from_labels(labels, scores, classes, np.zeros((4, 5, 3), np.uint8))
    assert (result.labels.dtype, result.scores.dtype) == (np.int32, np.float32)
