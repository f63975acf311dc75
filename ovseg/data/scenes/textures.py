"""Stuff of Scenes: photographed (scikit-image, CC0) and procedural textures, each a named class."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Rgb = tuple[int, int, int]
SIDE = 256

# The names and synonyms of the stuff classes, in the order of their ids.
STUFF: dict[str, list[str]] = {
    "grass": ["lawn"],
    "gravel": ["pebbles"],
    "brick wall": ["wall of bricks"],
    "sky": ["blue sky"],
    "night sky": ["starry sky"],
    "water": ["sea"],
    "sand": ["beach"],
    "snow": ["snowy ground"],
    "wooden floor": ["planks"],
    "tiles": ["tiled floor"],
    "asphalt": ["road"],
    "soil": ["earth"],
    "carpet": ["rug"],
    "foliage": ["hedge"],
}


def fractal(rng: np.random.Generator, power: float, stretch: tuple[float, float] = (1.0, 1.0)) -> np.ndarray:
    """Noise with a 1/f**power spectrum, scaled to 0..1.

    Args:
        rng: Source of randomness.
        power: 1 is rough, 2 is cloudy.
        stretch: How much longer features are along y and x.

    Returns:
        (256, 256) float64.
    """
    fy = np.fft.fftfreq(SIDE)[:, None] * stretch[0]
    fx = np.fft.rfftfreq(SIDE)[None] * stretch[1]
    radius = np.sqrt(fy**2 + fx**2)
    radius[0, 0] = np.inf
    phase = np.exp(2j * np.pi * rng.random(radius.shape))
    noise = np.fft.irfft2(phase / radius**power, s=(SIDE, SIDE))
    low, high = np.percentile(noise, [1, 99])
    return np.clip((noise - low) / (high - low), 0, 1)


def tint(grey: np.ndarray, dark: Rgb, light: Rgb) -> np.ndarray:
    """Colour a (H, W) map in 0..1 by mixing two RGB colours: (H, W, 3) in 0..255."""
    return np.asarray(dark) * (1 - grey[..., None]) + np.asarray(light) * grey[..., None]


def _jitter(rng: np.random.Generator, color: Rgb, amount: int = 18) -> Rgb:
    r, g, b = np.clip(np.asarray(color) + rng.integers(-amount, amount + 1, 3), 0, 255)
    return int(r), int(g), int(b)


def _sky(rng: np.random.Generator) -> np.ndarray:
    top, bottom = ((60, 120, 210), (170, 210, 245)) if rng.random() < 0.75 else ((90, 100, 170), (250, 180, 120))
    ramp = np.repeat(np.linspace(0, 1, SIDE)[:, None], SIDE, 1)
    base = tint(ramp, _jitter(rng, top), _jitter(rng, bottom))
    clouds = np.clip((fractal(rng, 1.8, (0.5, 1.0)) - rng.uniform(0.5, 0.9)) * 4, 0, 1)[..., None]
    return base * (1 - clouds) + 245 * clouds


def _night_sky(rng: np.random.Generator) -> np.ndarray:
    base = tint(fractal(rng, 1.9), _jitter(rng, (8, 10, 30), 8), _jitter(rng, (40, 40, 90)))
    stars = rng.random((SIDE, SIDE)) > 0.996
    base[stars] = rng.integers(170, 256, (int(stars.sum()), 1))
    return base


def _water(rng: np.random.Generator) -> np.ndarray:
    waves = fractal(rng, 1.5, (0.5, 3.0))
    base = tint(waves, _jitter(rng, (10, 60, 110)), _jitter(rng, (70, 150, 190)))
    glints = np.clip((waves - 0.85) * 6, 0, 1)[..., None]
    return base * (1 - glints) + 240 * glints


def _sand(rng: np.random.Generator) -> np.ndarray:
    ripples = 0.5 + 0.5 * np.sin(np.arange(SIDE)[:, None] / rng.uniform(3, 8) + 6 * fractal(rng, 2.0))
    return tint(0.6 * fractal(rng, 0.6) + 0.4 * ripples, _jitter(rng, (190, 155, 100)), _jitter(rng, (240, 215, 165)))


def _snow(rng: np.random.Generator) -> np.ndarray:
    return tint(0.7 * fractal(rng, 1.8) + 0.3 * fractal(rng, 0.4), _jitter(rng, (195, 210, 230), 8), (252, 253, 255))


def _wood(rng: np.random.Generator) -> np.ndarray:
    plank = int(rng.integers(24, 56))
    rows = np.arange(SIDE) // plank
    shade = rng.uniform(0.7, 1.0, rows.max() + 1)[rows][:, None, None]
    grain = fractal(rng, 1.2, (0.3, 6.0))
    base = tint(grain, _jitter(rng, (95, 58, 28)), _jitter(rng, (190, 135, 80))) * shade
    base[np.arange(SIDE) % plank < 2] *= 0.4
    return base


def _tiles(rng: np.random.Generator) -> np.ndarray:
    size = int(rng.integers(28, 64))
    y, x = np.arange(SIDE)[:, None] // size, np.arange(SIDE)[None] // size
    light, dark = _jitter(rng, (225, 225, 220), 25), _jitter(rng, (120, 150, 165), 60)
    checker = (y + x) % 2 if rng.random() < 0.5 else np.zeros((SIDE, SIDE))
    base = tint(0.85 * checker + 0.15 * fractal(rng, 1.0), light, dark)
    seam = (np.arange(SIDE) % size < 2)[:, None] | (np.arange(SIDE) % size < 2)[None]
    base[seam] = 150
    return base


def _asphalt(rng: np.random.Generator) -> np.ndarray:
    grain = 0.5 * fractal(rng, 0.3) + 0.5 * fractal(rng, 1.5)
    base = tint(grain, _jitter(rng, (50, 50, 54), 8), _jitter(rng, (120, 120, 122), 10))
    if rng.random() < 0.4:
        base[int(rng.integers(30, 220)) :][:6, :] = 225
    return base


def _soil(rng: np.random.Generator) -> np.ndarray:
    clods = 0.5 * fractal(rng, 0.8) + 0.5 * fractal(rng, 1.6)
    return tint(clods, _jitter(rng, (50, 30, 15), 10), _jitter(rng, (135, 90, 55)))


def _carpet(rng: np.random.Generator) -> np.ndarray:
    dark, light = _jitter(rng, (130, 40, 60), 90), _jitter(rng, (200, 160, 120), 55)
    period = rng.uniform(6, 16)
    y, x = np.arange(SIDE)[:, None], np.arange(SIDE)[None]
    weave = 0.5 + 0.25 * np.sin(2 * np.pi * x / period) + 0.25 * np.sin(2 * np.pi * y / period)
    return tint(0.7 * weave + 0.3 * fractal(rng, 0.4), dark, light)


def _foliage(rng: np.random.Generator) -> np.ndarray:
    blobs = np.abs(fractal(rng, 1.1) - 0.5) * 2
    return tint(0.7 * blobs + 0.3 * fractal(rng, 0.5), _jitter(rng, (12, 45, 12), 10), _jitter(rng, (90, 160, 60), 25))


def _photographed(name: str, tints: list[tuple[Rgb, Rgb]]) -> Callable[[np.random.Generator], np.ndarray]:
    def make(rng: np.random.Generator) -> np.ndarray:
        from skimage import data

        photo = np.asarray(getattr(data, name)(), dtype=np.float64)
        y, x = rng.integers(0, photo.shape[0] - SIDE + 1), rng.integers(0, photo.shape[1] - SIDE + 1)
        crop = photo[y : y + SIDE, x : x + SIDE]
        low, high = np.percentile(photo, [1, 99])
        dark, light = tints[int(rng.integers(len(tints)))]
        return tint(np.clip((crop - low) / (high - low), 0, 1), _jitter(rng, dark), _jitter(rng, light))

    return make


MAKERS: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
    "grass": _photographed("grass", [((15, 50, 10), (140, 195, 80)), ((40, 60, 15), (180, 190, 90))]),
    "gravel": _photographed("gravel", [((50, 48, 45), (205, 200, 190)), ((70, 60, 50), (200, 185, 165))]),
    "brick wall": _photographed("brick", [((95, 35, 25), (205, 120, 95)), ((110, 70, 40), (220, 175, 130))]),
    "sky": _sky,
    "night sky": _night_sky,
    "water": _water,
    "sand": _sand,
    "snow": _snow,
    "wooden floor": _wood,
    "tiles": _tiles,
    "asphalt": _asphalt,
    "soil": _soil,
    "carpet": _carpet,
    "foliage": _foliage,
}


def make_texture(name: str, seed: int) -> np.ndarray:
    """Draw one texture of a stuff class.

    Args:
        name: A key of `STUFF`.
        seed: Equal seeds give equal pictures.

    Returns:
        (256, 256, 3) uint8 RGB.
    """
    rng = np.random.default_rng([seed, list(STUFF).index(name)])
    return np.clip(MAKERS[name](rng), 0, 255).astype(np.uint8)
