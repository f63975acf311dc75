"""Outlines of one object: COCO's polygons and run lengths, corners, a picture; nothing is decoded before it is checked.

pycocotools is C: a coordinate that is no number, or far away, or a string that is cut, ends the process. So here an
outline is *sound* or refused. Polygons: at least three corners, finite, at most one image size outside of the image
(COCO itself has corners a little outside; what is drawn is cut off at the edge). Run lengths: of the image's size,
whole numbers from 0 that add up to its pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from ovseg.data.mask_files import read_label_image
from ovseg.errors import InputError

MOST_STEPS = 50_000_000  # along the edges of polygons, five a pixel; decoding needs some 30 bytes for each
FAR = 2**53  # beyond it floats are no counts
_TOO_SHORT = "expected at least 6 (x and y of three corners), draw it again"


def sound_outline(outline: Any, size: tuple[int, int]) -> Any:
    """Return an outline of a COCO file in a form that can be decoded.

    Args:
        outline: What ``segmentation`` holds, whatever that is.
        size: Height and width of the image.

    Returns:
        Polygons of at least three corners (those of one or two, which have no area, are left out), or run lengths.

    Raises:
        InputError: It cannot be used; the message is a clause about "its polygon" or "its run lengths", with the mend.
    """
    if outline is None or outline in ([], {}, "", ()):
        raise InputError("it has no outline (segmentation is empty); draw one")
    if isinstance(outline, dict):
        return _sound_runs(outline, size)
    if isinstance(outline, (list, tuple)):
        return _sound_polygons(outline, size)
    raise InputError(f"its segmentation is {_shown(outline)}; expected polygons or run lengths as in COCO")


def outline_rle(outline: Any, size: tuple[int, int]) -> dict[str, Any]:
    """Return an outline of a COCO file as pycocotools' compressed run lengths.

    Raises:
        InputError: As `sound_outline`.
    """
    from pycocotools import mask as rle

    sound = sound_outline(outline, size)
    if isinstance(sound, list):
        return {**rle.merge(rle.frPyObjects(sound, *size))}
    return {**(rle.frPyObjects(sound, *size) if isinstance(sound["counts"], list) else sound)}


def draw_outline(record: dict[str, Any], annotation: dict[str, Any], size: tuple[int, int]) -> np.ndarray:
    """Draw the mask of an annotation.

    Args:
        record: Of its image.
        annotation: With ``segmentation`` (polygons or run lengths as in COCO), ``corners`` (polygons, each a list of x
            and y; corners are cut to whole pixels and the edge belongs to the object), or ``mask_file_name`` (a
            picture, where all but 0 is the object; empty for an object that the image does not show).
        size: Height and width of the image.

    Returns:
        (H, W) bool.

    Raises:
        InputError: The size is not that of the JSON file, or the outline cannot be used.
    """
    from pycocotools import mask as rle

    height, width = size
    if (record.get("height", height), record.get("width", width)) != size:
        raise InputError(
            f"image '{record['file_name']}' is {width}x{height} pixels, its JSON says {record.get('width')}x"
            f"{record.get('height')}; the outlines would not fit, mend the JSON"
        )
    if "mask_file_name" in annotation:
        return _read_mask(annotation["mask_file_name"], record, size)
    try:
        if "corners" in annotation:
            return _fill_corners(annotation["corners"], size)
        mask: np.ndarray = rle.decode(outline_rle(annotation.get("segmentation"), size)).astype(bool)
    except InputError as error:
        number = f"annotation {annotation['id']}" if "id" in annotation else "an annotation"
        raise InputError(f"{number} of '{record['file_name']}' cannot be drawn: {error}") from error
    return mask


def _sound_polygons(polygons: Sequence[Any], size: tuple[int, int]) -> list[list[float]]:
    if isinstance(polygons[0], (int, float)):
        raise InputError("its polygon stands alone; expected it in a list of polygons, [[x, y, ...]]")
    found = []
    for polygon in polygons:
        if not isinstance(polygon, (list, tuple)):
            raise InputError(f"a polygon is {_shown(polygon)}; expected a list of numbers, [[x, y, ...]]")
        if polygon and isinstance(polygon[0], (list, tuple)):
            raise InputError("its polygon is nested too deep; expected flat lists of numbers, [[x, y, x, y, ...]]")
        _check_numbers(polygon, size)
        if len(polygon) % 2:
            raise InputError(f"its polygon has {len(polygon)} numbers, which are no pairs; {_TOO_SHORT}")
        if len(polygon) >= 6:
            found.append(list(polygon))
    if not found:
        raise InputError(f"its polygon has {max(map(len, polygons))} numbers; {_TOO_SHORT}")
    _check_length(found, size)
    return found


def _check_numbers(polygon: Sequence[Any], size: tuple[int, int]) -> None:
    """Refuse what is no number, not finite, or far away; the usual polygon costs a few passes in C."""
    try:
        usual = math.isfinite(sum(polygon))
    except (TypeError, OverflowError):
        usual = False
    if not usual:
        for value in polygon:
            if not isinstance(value, (int, float)):
                raise InputError(f"its polygon holds {_shown(value)}; expected numbers, draw it again")
            if isinstance(value, float) and not math.isfinite(value):
                raise InputError(f"its polygon holds {value}; expected finite numbers, draw it again")
    for axis, side in enumerate(reversed(size)):
        values = polygon[axis::2]
        for value in (min(values), max(values)) if values else ():
            if not -side <= value <= 2 * side:
                raise InputError(
                    f"its polygon has the coordinate {_shown(value)}, far outside of the image of {size[1]}x{size[0]} "
                    "pixels; expected pixels of this image, draw it again"
                )


def _check_length(polygons: list[list[float]], size: tuple[int, int]) -> None:
    """Refuse polygons that run to and fro so often that following their edges needs gigabytes."""
    if sum(map(len, polygons)) * 8 * max(size) < MOST_STEPS:  # an edge is at most 3 sizes long
        return
    steps = 0.0
    for polygon in polygons:
        corners = np.array(polygon, np.float64).reshape(-1, 2)
        steps += 5 * float(np.abs(corners - np.roll(corners, 1, 0)).max(1).sum())
    if steps > MOST_STEPS:
        raise InputError(
            f"its polygon goes to and fro over {steps / 5:.0f} pixels in an image of {size[1]}x{size[0]}; expected the "
            "edge of an object, draw it again"
        )


def _sound_runs(outline: dict[str, Any], size: tuple[int, int]) -> dict[str, Any]:
    given, counts = outline.get("size"), outline.get("counts")
    if not (isinstance(given, (list, tuple)) and list(given) == list(size)):
        raise InputError(
            f"its run lengths are of size {_shown(given)}, the image of {list(size)} (height, width); make them anew "
            "from this image"
        )
    if isinstance(counts, (str, bytes)):
        runs = _unpack(counts)
    else:
        runs = _whole_numbers(counts)
        counts = runs.tolist()
    if len(runs) and runs.min() < 0:
        raise InputError(f"its run lengths hold {runs.min()}; expected counts of pixels from 0 on, make them anew")
    total = sum(runs.tolist())  # Python's integers do not overflow
    if total != size[0] * size[1]:
        raise InputError(
            f"its run lengths add up to {total} pixels, the image has {size[0] * size[1]}; make them anew from this "
            "image"
        )
    return {"size": list(size), "counts": counts}


def _whole_numbers(counts: Any) -> np.ndarray:
    """Return run lengths (N,) int64 of a list of numbers."""
    try:
        values = np.array(counts if isinstance(counts, (list, tuple)) else None)
        if values.ndim == 1 and values.dtype.kind in "if" and (values == np.rint(values)).all():
            return values.clip(-FAR, FAR).astype(np.int64)
    except (ValueError, TypeError, OverflowError):  # numpy's, of lists in lists
        pass
    raise InputError(f"its run lengths are {_shown(counts)}; expected a list of whole numbers, or COCO's string")


def _unpack(text: str | bytes) -> np.ndarray:
    """Return the run lengths (N,) int64 of COCO's compressed string: five bits a letter, differences of every second.

    The format is that of pycocotools (maskApi.c), which reads on behind a string that is cut.
    """
    raw = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    letters = np.frombuffer(raw, np.uint8).astype(np.int64) - 48
    if not len(letters) or letters.min() < 0 or letters.max() > 63:
        raise InputError(f"its run lengths are {_shown(text)}, no string of COCO's; make them anew")
    ends = np.flatnonzero(letters < 32)
    if letters[-1] >= 32 or np.diff(ends, prepend=-1).max() > 7:  # 35 bits are more than any image needs
        raise InputError(f"its run lengths {_shown(text)} are cut or garbled; make them anew")
    starts = np.append(0, ends[:-1] + 1)
    lengths = ends - starts + 1
    shifts = 5 * (np.arange(len(letters)) - np.repeat(starts, lengths))
    values: np.ndarray = np.add.reduceat((letters & 31) << shifts, starts)
    values -= np.where(letters[ends] & 16, np.int64(1) << 5 * lengths, 0)
    values[1::2], values[2::2] = values[1::2].cumsum(), values[2::2].cumsum()
    return values


def _fill_corners(polygons: list[list[list[float]]], size: tuple[int, int]) -> np.ndarray:
    """Draw polygons as PhraseCut's own evaluation does."""
    canvas = Image.new("1", size[::-1])
    pen = ImageDraw.Draw(canvas)
    for polygon in polygons:
        try:
            flat = [value for x, y in polygon for value in (x, y)]
        except (TypeError, ValueError) as error:
            raise InputError(f"its polygon is {_shown(polygon)}; expected corners [x, y], fetch it again") from error
        _check_numbers(flat, size)
        if len(polygon) > 1:
            pen.polygon([(int(x), int(y)) for x, y in polygon], fill=1, outline=1)
    return np.asarray(canvas)


def _read_mask(path: str, record: dict[str, Any], size: tuple[int, int]) -> np.ndarray:
    mask = read_label_image(path)[0] > 0 if path else np.zeros(size, bool)
    if mask.shape != size:
        raise InputError(
            f"mask '{path}' is {mask.shape[1]}x{mask.shape[0]} pixels, its image '{record['file_name']}' "
            f"{size[1]}x{size[0]}; expected equal sizes, unpack the archive again"
        )
    return mask


def _shown(value: object) -> str:
    """Return a short picture of a value of a JSON file, on one line."""
    try:
        text = repr(value)
    except ValueError:  # integers of thousands of digits have none
        text = f"a {type(value).__name__} of a number too large to print"
    return text if len(text) <= 40 else f"{text[:36]}..."
