"""Fully connected CRF: labels that follow the edges of the photograph.

Krähenbühl and Koltun, "Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials", NeurIPS 2011, by
their own code in Python (package pydensecrf2, github.com/lucasb-eyer/pydensecrf); it runs on the CPU.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from ovseg.errors import ConfigError, EnvironmentProblem


def import_dense_crf() -> ModuleType:
    """Import the package.

    Raises:
        EnvironmentProblem: It is not installed.
    """
    try:
        from pydensecrf import densecrf
    except ImportError as error:
        mend = "run `pip install 'ovseg[crf]'`" if sys.version_info < (3, 13) else "it needs Python 3.12 or older"
        raise EnvironmentProblem(f"dense CRF needs pydensecrf2; {mend}") from error
    return densecrf


def dense_crf(
    image: Tensor,
    probabilities: Tensor,
    steps: int = 10,
    smoothness: Sequence[float] = (3.0, 3.0),
    appearance: Sequence[float] = (50.0, 5.0, 10.0),
) -> Tensor:
    """Refine class probabilities by mean-field inference.

    Args:
        image: (3, H, W) uint8 RGB.
        probabilities: (K, H, W) in 0..1; they need not sum to 1.
        steps: Rounds of inference.
        smoothness: Standard deviation in pixels, and weight, of the term that makes neighbours agree.
        appearance: Standard deviations in pixels and in grey levels, and weight, of the term that makes neighbours of
            like colour agree.

    Returns:
        (K, H, W) float32 that sum to 1 over the classes, on the device of the probabilities.

    Raises:
        ConfigError: A number is out of range, or the sizes differ.
        EnvironmentProblem: pydensecrf2 is not installed.
    """
    classes, height, width = probabilities.shape
    if tuple(image.shape) != (3, height, width) or image.dtype != torch.uint8:
        raise ConfigError(
            f"got an image {tuple(image.shape)} of {image.dtype} and probabilities {tuple(probabilities.shape)}; "
            "expected (3, H, W) uint8 and (K, H, W)"
        )
    if len(smoothness) != 2 or len(appearance) != 3 or steps < 1 or min(*smoothness, *appearance) <= 0:
        raise ConfigError(
            f"crf steps {steps}, smoothness {tuple(smoothness)}, appearance {tuple(appearance)}; expected at least 1 "
            "step, (pixels, weight) and (pixels, levels, weight), all positive"
        )
    if classes < 2:  # the package takes no single class, and there is nothing to decide
        return torch.ones_like(probabilities, dtype=torch.float32)
    model = import_dense_crf().DenseCRF2D(width, height, classes)
    energy = -probabilities.float().clamp_min(1e-5).log()
    model.setUnaryEnergy(np.ascontiguousarray(energy.flatten(1).cpu().numpy()))
    model.addPairwiseGaussian(sxy=smoothness[0], compat=smoothness[1])
    pixels = np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy())
    model.addPairwiseBilateral(sxy=appearance[0], srgb=appearance[1], rgbim=pixels, compat=appearance[2])
    refined = np.asarray(model.inference(steps), dtype=np.float32).reshape(classes, height, width)
    return torch.from_numpy(refined).to(probabilities.device)
