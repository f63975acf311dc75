from __future__ import annotations

import pytest
import torch

from ovseg.clip.normalise import denormalise, normalise

MEAN, STD = (0.1, 0.5, 0.9), (0.2, 0.3, 0.4)


@pytest.mark.parametrize("shape", [(3, 4, 5), (2, 3, 4, 5), (2, 7, 3, 4, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_each_channel_has_its_own_mean_and_deviation(shape, dtype):
    images = torch.rand(shape).to(dtype)
    found = normalise(images, MEAN, STD)
    assert found.shape == shape and found.dtype == dtype
    for channel in range(3):
        expected = (images.select(-3, channel) - MEAN[channel]) / STD[channel]
        torch.testing.assert_close(found.select(-3, channel), expected, atol=2e-2, rtol=2e-2)
    torch.testing.assert_close(denormalise(found, MEAN, STD), images, atol=1e-2, rtol=1e-2)
