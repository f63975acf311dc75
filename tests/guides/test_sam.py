from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import segment_anything
import torch

from ovseg.clip import Context
from ovseg.errors import ConfigError, UnknownNameError, WeightsError
from ovseg.guides import build_guide
from ovseg.regions import REGIONS
from ovseg.system.registry import build
from tests.small_sam import small_sam


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    monkeypatch.setitem(segment_anything.sam_model_registry, "vit_b", small_sam)
    torch.manual_seed(0)
    torch.save(small_sam().state_dict(), tmp_path / "sam.pth")
    return tmp_path / "sam.pth"


def test_features_of_any_image_live_on_the_grid_of_the_neck(checkpoint):
    guide = build_guide(f"sam:vit_b@{checkpoint}")
    images = torch.randn(2, 3, 40, 70)
    found = guide(Context((1, 1), images, None, (0.5,) * 3, (0.25,) * 3))
    assert found.shape == (2, 32, 4, 4) and found.isfinite().all()
    alone = guide(Context((1, 1), images[:1], None, (0.5,) * 3, (0.25,) * 3))
    torch.testing.assert_close(found[:1], alone, atol=1e-5, rtol=1e-4)


def test_regions(checkpoint):
    generator = build(REGIONS, "sam", {"checkpoint": str(checkpoint), "model_type": "vit_b", "points_per_side": 2})
    found = generator.half()(torch.randint(0, 255, (3, 48, 60)))  # its weights stay in single precision
    assert found.shape == (48, 60) and found.dtype == torch.int64
    assert found.min() >= -1


def test_threads_find_the_regions_of_their_own_images(checkpoint, monkeypatch):
    class Remembering:
        """As segment_anything's own, which keeps the features of the image that it is at."""

        def __init__(self, sam, points_per_side):
            pass

        def generate(self, image):
            self.image = image
            time.sleep(0.01)
            return [{"segmentation": self.image[..., 0] > 128}]

    monkeypatch.setattr(segment_anything, "SamAutomaticMaskGenerator", Remembering)
    generator = build(REGIONS, "sam", {"checkpoint": str(checkpoint), "model_type": "vit_b", "points_per_side": 2})
    images = [torch.randint(0, 255, (3, 40, 60)) for _ in range(12)]
    expected = [generator(image) for image in images]
    with ThreadPoolExecutor(6) as pool:
        assert all(torch.equal(a, b) for a, b in zip(pool.map(generator, images), expected, strict=True))


@pytest.mark.parametrize(
    ("name", "facet", "error", "message"),
    [
        ("sam:vit_b", "token", ConfigError, "guide sam got 'sam:vit_b'; expected"),
        ("sam:vit_b@sam.pth", "key", ConfigError, "guide sam got the facet key"),
        ("sam:vit_x@sam.pth", "token", UnknownNameError, "unknown SAM type 'vit_x'"),
        ("sam:vit_b@sam.pth", "token", WeightsError, "sam.pth does not exist"),
    ],
)
def test_mistakes(name, facet, error, message):
    with pytest.raises(error, match=message):
        build_guide(name, facet)


def test_a_foreign_file(checkpoint):
    torch.save({"weight": torch.zeros(1)}, checkpoint)
    with pytest.raises(WeightsError, match=r"holds none of the .* tensors of SAM vit_b"):
        build_guide(f"sam:vit_b@{checkpoint}")
