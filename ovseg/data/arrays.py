"""Arrays and tensors of any kind of number, brought to 8-bit RGB; and which of their bands are used."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ovseg.errors import ConfigError, InputError, one_of

STRIP_PIXELS = 2**22
"""So many pixels are converted at a time, so that a large picture is not held twice."""

_FLOAT_SLACK = 1e-4  # rounding of half precision just outside 0..1


def check_bands(bands: Sequence[int]) -> tuple[int, ...]:
    """Return the numbers of bands, counted from 1.

    Raises:
        InputError: They are not three of them, or one.
    """
    try:
        chosen = tuple(int(band) for band in bands)
    except (TypeError, ValueError):
        chosen = ()
    if len(chosen) not in (1, 3) or min(chosen, default=0) < 1:
        raise InputError(
            f"bands are {bands!r}; expected three numbers from 1, for red, green and blue, such as 3,2,1; or one"
        )
    return chosen


def channel_bands(channels: str, bands: Sequence[int] | None) -> Sequence[int] | None:
    """Return which bands of an array of three are red, green and blue.

    Args:
        channels: ``rgb`` or ``bgr``.
        bands: The same by numbers, which goes with ``rgb`` alone.

    Raises:
        ConfigError: There is no such order, or both are given.
    """
    if one_of("channels", channels, ("rgb", "bgr")) == "rgb":
        return bands
    if bands is not None:
        raise ConfigError(f"got channels 'bgr' and bands {tuple(bands)}; expected one of them, bands (3, 2, 1) are bgr")
    return 3, 2, 1


def choose_bands(array: np.ndarray, bands: Sequence[int], what: str) -> np.ndarray:
    """Pick bands of an array (H, W, C) or (H, W).

    Args:
        array: Of any dtype.
        bands: Three numbers from 1, or one.
        what: What it is called in messages.

    Returns:
        ``(H, W, 3)``, or ``(H, W)`` for one band.

    Raises:
        InputError: It has no such band.
    """
    chosen = check_bands(bands)
    stacked = array if array.ndim == 3 else array[..., None]
    if array.ndim not in (2, 3) or max(chosen) > stacked.shape[2]:
        have = stacked.shape[2] if stacked.ndim == 3 else 0
        wanted = ",".join(map(str, chosen))
        raise InputError(
            f"{what} has {have} bands and bands {wanted} were asked for; expected numbers from 1 to {have}"
        )
    picked = stacked[..., [band - 1 for band in chosen]]
    return picked if len(chosen) == 3 else picked[..., 0]


def tensor_pixels(tensor: torch.Tensor, bands: Sequence[int] | None = None) -> tuple[np.ndarray, str]:
    """Bring a tensor ``(3, H, W)``, or ``(C, H, W)`` with ``bands``, to ``(H, W, 3)`` uint8; see `array_pixels`."""
    shape = tuple(tensor.shape)
    if tensor.ndim != 3 or (shape[0] != 3 and bands is None):
        fix = "give (3, H, W)"
        if tensor.ndim == 4:
            fix = "give its images as a list: list(tensor)"
        elif tensor.ndim == 3 and shape[2] == 3:
            fix = "use tensor.permute(2, 0, 1)"
        elif tensor.ndim == 3 and shape[0] == 1:
            fix = "use tensor.expand(3, -1, -1)"
        elif tensor.ndim == 3 and shape[0] > 3:
            fix = "choose its bands: bands=(1, 2, 3)"
        raise InputError(f"image tensor has shape {shape}; expected (3, H, W) RGB; {fix}")
    if tensor.is_complex():
        raise InputError(f"image tensor holds {tensor.dtype}; expected uint8, or floats in 0..1")
    plain = tensor.detach().cpu()
    if plain.is_floating_point():
        plain = plain.float()  # numpy has no bfloat16
    return array_pixels(plain.permute(1, 2, 0).numpy(), "image tensor", bands)


def array_pixels(
    array: np.ndarray, what: str = "image array", bands: Sequence[int] | None = None
) -> tuple[np.ndarray, str]:
    """Bring an array ``(H, W, 3)`` or ``(H, W)`` to ``(H, W, 3)`` uint8.

    Args:
        array: uint8, bool, other integers up to 16 bits, or floats in 0..1; with ``bands`` of any number of bands.
        what: What it is called in messages.
        bands: The bands that become red, green and blue, counted from 1, or one for grey; None for all three.

    Returns:
        The pixels, which are never those of ``array``, and how they were scaled; empty where there is nothing to know.

    Raises:
        InputError: Another shape, other values, or no such band.
    """
    if bands is not None:
        array = choose_bands(array, bands, what)
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] != 3):
        fix = "give one image in that shape"
        if array.ndim == 4:
            fix = "give its images as a list: list(array)"
        elif array.ndim == 1:
            fix = "give what it holds as a list: list(array)"
        elif array.ndim == 3 and array.shape[0] == 3:
            fix = "use array.transpose(1, 2, 0)"
        elif array.ndim == 3 and array.shape[2] == 4:
            fix = "use PIL.Image.fromarray(array) to keep its transparency, or array[..., :3]"
        elif array.ndim == 3 and array.shape[2] == 1:
            fix = "use array[..., 0]"
        elif array.ndim == 3 and array.shape[2] > 4:
            fix = "choose its bands: bands=(1, 2, 3)"
        raise InputError(f"{what} has shape {array.shape}; expected (H, W, 3) RGB or (H, W) grey; {fix}")
    if array.size == 0:
        raise InputError(f"{what} has shape {array.shape}, so no pixels; expected at least 1x1")
    scaled, note = to_uint8(array, what)
    if scaled is not array:
        return np.ascontiguousarray(scaled if scaled.ndim == 3 else np.repeat(scaled[..., None], 3, axis=2)), note
    return np.array(scaled if scaled.ndim == 3 else np.repeat(scaled[..., None], 3, axis=2), order="C"), note


def full_scale(values: np.ndarray) -> int:
    """Return the largest value that an array could hold: 1 of floats, else by the smallest bit depth that fits."""
    return 2 ** _bits(values.max()) - 1 if values.dtype.kind in "ui" else 1


def _bits(high: float) -> int:
    return max(8, int(high).bit_length())


def to_uint8(array: np.ndarray, what: str) -> tuple[np.ndarray, str]:
    """Scale bools, integers and floats to 0..255; the shape stays, and uint8 is given back as it is.

    Returns:
        The values, and which bit depth was taken where it is not that of the array; empty otherwise.

    Raises:
        InputError: Values that are not finite, or out of range.
    """
    if array.dtype == np.uint8:
        return array, ""
    kind = array.dtype.kind
    if kind == "b":
        return array.astype(np.uint8) * 255, ""
    if kind not in "uif":
        raise InputError(f"{what} holds {array.dtype}; expected uint8, or floats in 0..1")
    low, high = float(array.min()), float(array.max())  # NaN and infinities come through here
    if not np.isfinite([low, high]).all():
        raise InputError(f"{what} holds NaN or infinite values; expected finite numbers, use numpy.nan_to_num")
    got = f"{what} holds {array.dtype} values from {low:g} to {high:g}"
    if kind == "f":
        if low < -_FLOAT_SLACK or high > 1 + _FLOAT_SLACK:
            fix = "divide by 255" if low >= 0 and high <= 255 else "undo the normalisation or rescale it"
            raise InputError(f"{got}; expected floats in 0..1; {fix}")
        out = np.empty(array.shape, dtype=np.uint8)
        step = max(1, STRIP_PIXELS // max(1, array[0].size))
        for top in range(0, len(array), step):
            out[top : top + step] = np.rint(array[top : top + step].clip(0, 1) * np.float32(255))
        return out, ""
    if low < 0 or high > 65535:
        raise InputError(f"{got}; expected 0..255 (or at most 0..65535); rescale it")
    bits = _bits(high)
    table = np.rint(np.arange(2**bits) * np.float32(255 / (2**bits - 1))).astype(np.uint8)
    wide = array.dtype.itemsize
    note = f"its {8 * wide}-bit values reach {high:.0f} and were scaled as {bits}-bit ones"
    return table[array], note if 8 < bits < 16 or (wide == 2 and bits == 8) else ""
