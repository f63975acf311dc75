"""How images are normalised, in the forms in which transformers writes it."""

from __future__ import annotations

import json

import pytest
import torch

from ovseg.clip.normalise import normalise
from ovseg.clip.preprocessing import normalisation
from ovseg.errors import WeightsError

HALVES = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]}


@pytest.mark.parametrize(
    ("name", "said", "expected"),
    [
        ("preprocessor_config.json", HALVES, {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)}),
        ("processor_config.json", {"image_processor": HALVES}, {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)}),
        ("preprocessor_config.json", {"do_normalize": False}, {"mean": (0, 0, 0), "std": (1, 1, 1)}),
        ("preprocessor_config.json", {"image_std": [1, 1, 1]}, {"std": (1, 1, 1)}),
        ("preprocessor_config.json", {"image_mean": 0.5, "image_std": 0.25}, {"mean": (0.5,) * 3, "std": (0.25,) * 3}),
        ("preprocessor_config.json", {"size": 224}, {}),
        ("processor_config.json", {"processor_class": "CLIPProcessor"}, {}),
        ("other.json", HALVES, {}),
    ],
)
def test_what_a_folder_says(tmp_path, name, said, expected):
    (tmp_path / name).write_text(json.dumps(said))
    found = normalisation(tmp_path)
    assert found.keys() == expected.keys()
    for key, values in expected.items():
        assert found[key] == pytest.approx(values)


def test_the_first_file_that_says_something_counts(tmp_path):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"size": 224}))
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": HALVES}))
    assert normalisation(tmp_path)["mean"] == pytest.approx((0.5, 0.4, 0.3))


@pytest.mark.parametrize(("said", "factor"), [({"rescale_factor": 1 / 127.5}, 1 / 127.5), ({"do_rescale": False}, 1.0)])
def test_another_scale_of_pixels_is_the_same_as_theirs(tmp_path, said, factor):
    """They take pixels of 0..255 times the factor, we those of 0..1."""
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**HALVES, **said}))
    pixels = torch.randint(0, 256, (3, 4, 5)).float()
    found = normalisation(tmp_path)
    theirs = normalise(pixels * factor, HALVES["image_mean"], HALVES["image_std"])
    torch.testing.assert_close(normalise(pixels / 255, found["mean"], found["std"]), theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "text",
    [
        *("{", "[]", '{"image_mean": [1, 2]}', '{"image_mean": "x"}', '{"image_mean": [NaN, 1, 1]}'),
        *('{"image_std": [0, 0, 0]}', '{"image_std": -1}', '{"image_mean": [1, 1, 1], "rescale_factor": "x"}'),
        '{"image_mean": [1, 1, 1], "rescale_factor": 0}',
    ],
)
def test_files_that_say_nothing_sensible(tmp_path, text):
    (tmp_path / "preprocessor_config.json").write_text(text)
    with pytest.raises(WeightsError, match=r"preprocessor_config\.json.* expected "):
        normalisation(tmp_path)
