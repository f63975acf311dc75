"""The fifteen common corruptions of photos at five severities, for images of any size.

Kinds and strengths are those of ImageNet-C (Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common
Corruptions and Perturbations", ICLR 2019, arXiv:1903.12261), written anew in numpy and OpenCV. Three things differ on
purpose, so numbers compare with each other and only roughly with those of other implementations: lengths in pixels grow
with the short side of the image over 224, the size they were chosen for; frost is drawn, not pasted from photographs;
elastic bends locally, by root mean squares of one to three pixels, so that ground truth still fits the image.

What is drawn depends on kind, seed and image id; bits may change with the version of OpenCV.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ovseg.errors import InputError
from ovseg.evaluation.robustness.condition import Condition
from ovseg.system.registry import Kind, spelling
from ovseg.vocabulary import Vocabulary

SEVERITIES = (1, 2, 3, 4, 5)
_BEND = (0.7, 1.1, 1.6, 2.1, 2.7)
Image = np.ndarray  # (H, W, 3) float32, 0..1
Change = Callable[[Image, Any, float, np.random.Generator], Image]


@dataclass(frozen=True)
class Corruption(Condition):
    """One of `CORRUPTIONS` at severity 1..5."""

    FAMILY: ClassVar[str] = "corruption"

    def __post_init__(self) -> None:
        """Check name and severity.

        Raises:
            UnknownNameError: No such corruption.
            InputError: The severity is not 1..5.
        """
        object.__setattr__(self, "name", spelling(KIND, self.name))
        if self.severity not in SEVERITIES:
            raise InputError(f"corruption '{self.name}' has severity {self.severity}; expected 1 to 5")

    def image(self, pixels: np.ndarray, image_id: str, vocabulary: Vocabulary, present: Collection[int]) -> np.ndarray:
        """Return the corrupted photo."""
        change, strengths = CORRUPTIONS[self.name]
        scale = min(pixels.shape[:2]) / 224
        image = pixels.astype(np.float32) / 255
        found = change(image, strengths[self.severity - 1], scale, self.rng(image_id))
        return np.rint(found.clip(0, 1) * 255).astype(np.uint8)


def _gaussian_noise(image: Image, strength: float, scale: float, rng: np.random.Generator) -> Image:
    return image + strength * rng.standard_normal(image.shape, np.float32)


def _shot_noise(image: Image, photons: float, scale: float, rng: np.random.Generator) -> Image:
    return rng.poisson(image * photons).astype(np.float32) / photons


def _impulse_noise(image: Image, share: float, scale: float, rng: np.random.Generator) -> Image:
    drawn = rng.random(image.shape, np.float32)
    return np.where(drawn < share / 2, np.float32(0), np.where(drawn < share, np.float32(1), image))


def _defocus_blur(image: Image, strength: tuple[float, float], scale: float, rng: np.random.Generator) -> Image:
    radius, smooth = strength[0] * scale, strength[1] * scale
    reach = max(1, int(np.ceil(radius)))
    rows, columns = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disk = (radius + 0.5 - np.hypot(rows, columns)).clip(0, 1).astype(np.float32)  # its edge covers pixels in part
    return _filter(image, _smooth(disk, smooth))


def _glass_blur(image: Image, strength: tuple[float, int, int], scale: float, rng: np.random.Generator) -> Image:
    sigma, reach, rounds = strength[0] * scale, max(1, round(strength[1] * scale)), strength[2]
    height, width = image.shape[:2]
    found = _smooth(image, sigma)
    rows, columns = np.indices((height, width), np.int32)
    for _ in range(rounds):
        down, right = rng.integers(-reach, reach + 1, (2, height, width), np.int32)
        found = found[(rows + down).clip(0, height - 1), (columns + right).clip(0, width - 1)]
    return _smooth(found, sigma)


def _motion_blur(image: Image, strength: tuple[float, float], scale: float, rng: np.random.Generator) -> Image:
    return _filter(image, _streak(strength[0] * scale, strength[1] * scale, rng.uniform(-45, 45)))


def _zoom_blur(image: Image, strength: tuple[float, float], scale: float, rng: np.random.Generator) -> Image:
    import cv2

    height, width = image.shape[:2]
    factors = np.arange(1, strength[0], strength[1])
    total = image.copy()
    for factor in factors:
        matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), 0, float(factor))
        total += cv2.warpAffine(image, matrix, (width, height), borderMode=cv2.BORDER_REFLECT_101)
    return total / np.float32(len(factors) + 1)


def _snow(image: Image, strength: tuple[float, ...], scale: float, rng: np.random.Generator) -> Image:
    mean, spread, size, threshold, length, sigma, kept = strength
    # Two thirds: what linear interpolation, by which the strengths were chosen, leaves of the spread of enlarged noise.
    flakes = _grid(image.shape[:2], size * scale, rng) * np.float32(spread * 2 / 3) + np.float32(mean)
    flakes = np.where(flakes < threshold, np.float32(0), flakes.clip(0, 1))
    flakes = _filter(flakes, _streak(length * scale, sigma * scale, rng.uniform(-135, -45)))[..., None]
    grey = image @ np.array([0.299, 0.587, 0.114], np.float32)
    pale = np.maximum(image, grey[..., None] * 1.5 + 0.5)
    return kept * image + (1 - kept) * pale + flakes + flakes[::-1, ::-1]


def _frost(image: Image, strength: tuple[float, float], scale: float, rng: np.random.Generator) -> Image:
    veins = 1 - np.abs(_clouds(image.shape[:2], 60 * scale, 1.6, rng))  # bright where noise of many sizes crosses zero
    patches = _clouds(image.shape[:2], 110 * scale, 2.0, rng)
    ice = (veins.clip(0, 1) ** 3 * (0.55 + 0.45 * patches)).clip(0, 1)[..., None]
    return strength[0] * image + strength[1] * ice * np.array([0.88, 0.95, 1.0], np.float32)


def _fog(image: Image, strength: tuple[float, float], scale: float, rng: np.random.Generator) -> Image:
    mist = _clouds(image.shape[:2], 110 * scale, strength[1], rng)
    mist = (mist - mist.min()) / max(float(np.ptp(mist)), 1e-6)
    top = float(image.max())
    return (image + strength[0] * mist[..., None]) * np.float32(top / (top + strength[0]))


def _brightness(image: Image, strength: float, scale: float, rng: np.random.Generator) -> Image:
    import cv2

    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    hsv[..., 2] = (hsv[..., 2] + strength).clip(0, 1)
    found: Image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    return found


def _contrast(image: Image, strength: float, scale: float, rng: np.random.Generator) -> Image:
    middle = image.mean((0, 1), keepdims=True)
    return (image - middle) * np.float32(strength) + middle


def _elastic_transform(image: Image, strength: float, scale: float, rng: np.random.Generator) -> Image:
    import cv2

    height, width = image.shape[:2]
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    down, right = (_grid((height, width), 8 * scale, rng) for _ in range(2))
    bend = np.float32(strength * scale / np.sqrt(2))
    found: Image = cv2.remap(
        image, columns + bend * right, rows + bend * down, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
    )
    return found


def _pixelate(image: Image, strength: float, scale: float, rng: np.random.Generator) -> Image:
    import cv2

    height, width = image.shape[:2]
    factor = strength / max(scale, 1)  # blocks grow with the image as blurs do
    small = cv2.resize(
        image, (max(1, round(width * factor)), max(1, round(height * factor))), interpolation=cv2.INTER_AREA
    )
    found: Image = cv2.resize(small, (width, height), interpolation=cv2.INTER_NEAREST)
    return found


def _jpeg_compression(image: Image, quality: int, scale: float, rng: np.random.Generator) -> Image:
    import cv2

    pixels = np.ascontiguousarray(np.rint(image * 255).astype(np.uint8)[..., ::-1])
    _, data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])
    decoded: Any = cv2.imdecode(data, cv2.IMREAD_COLOR)
    return decoded[..., ::-1].astype(np.float32) / 255


def _filter(image: Image, kernel: np.ndarray) -> Image:
    """Convolve (H, W) or (H, W, 3) with a kernel that is made to sum to 1."""
    import cv2

    kernel = kernel[::-1, ::-1] / kernel.sum()  # OpenCV correlates
    found: Image = cv2.filter2D(image, -1, np.ascontiguousarray(kernel), borderType=cv2.BORDER_REFLECT_101)
    return found


def _smooth(image: np.ndarray, sigma: float) -> np.ndarray:
    """Blur with a Gaussian; sigmas below a tenth of a pixel change nothing."""
    import cv2

    if sigma < 0.1:
        return image
    found: np.ndarray = cv2.GaussianBlur(image, (0, 0), sigma, borderType=cv2.BORDER_REFLECT_101)
    return found


def _streak(length: float, sigma: float, degrees: float) -> np.ndarray:
    """Return a kernel (S, S) float32: a line from the middle that fades as half of a Gaussian."""
    reach = max(1, int(np.ceil(length)))
    steps = np.arange(0, reach + 0.25, 0.25)
    angle = np.deg2rad(degrees)
    weights = np.exp(-(steps**2) / (2 * max(sigma, 0.3) ** 2))
    places = [np.rint(reach + steps * part).astype(int) for part in (np.sin(angle), np.cos(angle))]
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1), np.float32)
    np.add.at(kernel, tuple(places), weights)
    return kernel


def _grid(size: tuple[int, ...], step: float, rng: np.random.Generator) -> np.ndarray:
    """Return smooth normal noise (H, W) float32 of variance about 1, with hills `step` pixels apart."""
    import cv2

    height, width = size
    step = max(step, 1.0)
    drawn = rng.standard_normal((int(height / step) + 2, int(width / step) + 2), np.float32)
    large = cv2.resize(drawn, None, fx=step, fy=step, interpolation=cv2.INTER_CUBIC)
    found = large[:height, :width]
    return found / np.float32(max(float(found.std()), 1e-6)) if found.size > 1 else found


def _clouds(size: tuple[int, ...], step: float, decay: float, rng: np.random.Generator) -> np.ndarray:
    """Return noise (H, W) float32, -1..1: hills `step` pixels apart, then halves, each `decay` times fainter."""
    total, weight = np.zeros(size, np.float32), 1.0
    while True:
        total += weight * _grid(size, step, rng)
        if step <= 2:
            return total / np.float32(max(float(np.abs(total).max()), 1e-6))
        step, weight = step / 2, weight / decay


CORRUPTIONS: dict[str, tuple[Change, tuple[Any, ...]]] = {
    "gaussian_noise": (_gaussian_noise, (0.08, 0.12, 0.18, 0.26, 0.38)),
    "shot_noise": (_shot_noise, (60, 25, 12, 5, 3)),
    "impulse_noise": (_impulse_noise, (0.03, 0.06, 0.09, 0.17, 0.27)),
    "defocus_blur": (_defocus_blur, ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))),
    "glass_blur": (_glass_blur, ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2))),
    "motion_blur": (_motion_blur, ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))),
    "zoom_blur": (_zoom_blur, ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03))),
    "snow": (
        _snow,
        (
            (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
            (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
            (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
            (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
            (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
        ),
    ),
    "frost": (_frost, ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75))),
    "fog": (_fog, ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4))),
    "brightness": (_brightness, (0.1, 0.2, 0.3, 0.4, 0.5)),
    "contrast": (_contrast, (0.4, 0.3, 0.2, 0.1, 0.05)),
    "elastic_transform": (_elastic_transform, _BEND),
    "pixelate": (_pixelate, (0.6, 0.5, 0.4, 0.3, 0.25)),
    "jpeg_compression": (_jpeg_compression, (25, 18, 15, 10, 7)),
}
"""Each corruption with its strengths at severities 1 to 5; another file of this package may add its own."""

KIND = Kind("corruption", CORRUPTIONS)
