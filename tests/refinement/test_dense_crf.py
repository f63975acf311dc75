"""The dense CRF: labels follow edges; it is optional, and says so."""

from __future__ import annotations

import builtins
import sys

import pytest
import torch

import ovseg
from ovseg.errors import ConfigError, EnvironmentProblem
from ovseg.refinement import dense_crf


@pytest.fixture
def halves():
    """An image with a hard edge in the middle, and probabilities whose edge is eight pixels off."""
    image = torch.zeros(3, 32, 48, dtype=torch.uint8)
    image[:, :, 24:] = 220
    left = torch.full((32, 48), 0.8)
    left[:, 32:] = 0.2
    return image, torch.stack([left, 1 - left])


def test_labels_move_to_the_edge(halves):
    pytest.importorskip("pydensecrf")
    image, probabilities = halves
    refined = dense_crf(image, probabilities, 10, (1, 3), (20, 10, 10))
    assert refined.shape == probabilities.shape and refined.dtype == torch.float32
    torch.testing.assert_close(refined.sum(0), torch.ones(32, 48), atol=1e-4, rtol=0)
    truth = (torch.arange(48) >= 24).long().expand(32, -1)
    before, after = ((one.argmax(0) == truth).float().mean() for one in (probabilities, refined))
    assert before < 0.9 and after > 0.99


def test_a_single_class_stays(halves):
    assert (dense_crf(halves[0], halves[1][:1]) == 1).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "crf steps 0"),
        ({"smoothness": (3,)}, r"smoothness \(3,\)"),
        ({"appearance": (50, -1, 3)}, r"appearance \(50, -1, 3\)"),
    ],
)
def test_mistakes(halves, options, message):
    with pytest.raises(ConfigError, match=message):
        dense_crf(*halves, **options)


def test_sizes_must_agree(halves):
    with pytest.raises(ConfigError, match=r"got an image \(3, 32, 40\)"):
        dense_crf(halves[0][:, :, :40], halves[1])


@pytest.mark.parametrize(
    ("version", "mend"), [((3, 12, 4), r"pip install 'ovseg\[crf\]'"), ((3, 13, 0), "needs Python 3.12 or older")]
)
def test_without_the_package(halves, monkeypatch, version, mend):
    real = builtins.__import__

    def missing(name, *args, **kwargs):
        if name.startswith("pydensecrf"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    monkeypatch.setattr(sys, "version_info", version)
    with pytest.raises(EnvironmentProblem, match=mend):
        dense_crf(*halves)


def test_in_a_model(tiny_clip, photo):
    pytest.importorskip("pydensecrf")
    protocol = {"SHORT_SIDE": 64, "WINDOW": 0}
    plain = ovseg.load(tiny_clip, "cpu", overrides={"MODEL": {"PROTOCOL": protocol}})
    changes = {**protocol, "CRF_STEPS": 5, "CRF_APPEARANCE": [10.0, 8.0, 5.0]}
    refined = ovseg.load(tiny_clip, "cpu", overrides={"MODEL": {"PROTOCOL": changes}})
    words = ["cat", "dog", "sky", "sea"]
    before, after = (model(photo, words, "sky, wall") for model in (plain, refined))
    assert before.labels.shape == after.labels.shape
    assert set(after.labels.ravel()) <= set(before.labels.ravel())
    strict = ovseg.load(tiny_clip, "cpu", overrides={"MODEL": {"PROTOCOL": {**changes, "PROB_THRESHOLD": 1.0}}})
    assert (strict(photo, words).labels == -1).all()
