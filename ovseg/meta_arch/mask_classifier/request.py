"""Masks of the user's own as part of a request: read, checked against the photograph, and encoded in place of proposals."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from typing_extensions import Unpack

from ovseg.data.images import ReadOptions, read_image
from ovseg.errors import ConfigError, InputError
from ovseg.meta_arch.mask_classifier.masks import checked, read
from ovseg.meta_arch.mask_classifier.model import MaskClassifier
from ovseg.result.segmentation import Segmentation
from ovseg.segmenter import EncodedImage, Segmenter, Words

ENDINGS = (".npz", ".npy", ".png")


def encode_masks(segmenter: Segmenter, image: Any, masks: Any, **reading: Unpack[ReadOptions]) -> EncodedImage:
    """Encode a photograph with masks, to be asked about any words as what `Segmenter.encode` gives.

    Args:
        segmenter: Of a `MaskClassifier`.
        image: As of `Segmenter.encode`.
        masks: An array or tensor (Q, H, W) of the photograph's size, or a map of ids (H, W) where 0 is no mask.
        **reading: As of `Segmenter.encode`.

    Raises:
        ConfigError: The model takes no masks.
        InputError: The image cannot be read, or the masks have another size, or one is empty.
    """
    model = taker(segmenter)
    start = time.perf_counter()
    photo = read_image(image, **reading)
    seconds = {"read": time.perf_counter() - start}
    size = (photo.pixels.shape[0], photo.pixels.shape[1])
    own, start = checked(masks, size), time.perf_counter()
    encoded = model.encode_masks(model.size_rule(photo.pixels), own)
    return EncodedImage(
        photo, encoded, 0, {**seconds, "preprocess": 0.0, "model": time.perf_counter() - start}, segmenter
    )


def name_files(
    segmenter: Segmenter, images: Sequence[Path], masks: Path, words: Words, **reading: Unpack[ReadOptions]
) -> Iterator[Segmentation]:
    """Name the masks of files, image by image.

    Args:
        segmenter: Of a `MaskClassifier`.
        images: Photographs.
        masks: Their file, or the folder of files that are called like the images (`ENDINGS`).
        words: Of the segmenter.
        **reading: As of `Segmenter.encode`.

    Raises:
        ConfigError: The model takes no masks.
        InputError: A file is missing, or its masks do not fit the image.
    """
    taker(segmenter)
    places = [file_of(Path(image), masks, len(images)) for image in images]
    for image, place in zip(images, places, strict=True):
        try:
            yield encode_masks(segmenter, image, read(place), **reading).answer(words)
        except InputError as error:
            raise InputError(f"{place}: {error}") from error


def file_of(image: Path, masks: Path, count: int) -> Path:
    """Return the file of masks of an image.

    Raises:
        InputError: There is none, or one file is given for several images.
    """
    if not masks.is_dir():
        if count > 1:
            raise InputError(
                f"{masks} is one file of masks for {count} images; give a folder of files called like them"
            )
        return masks
    for ending in ENDINGS:
        if (path := masks / f"{image.stem}{ending}").is_file():
            return path
    raise InputError(f"{masks} has no masks of {image.name}; expected {image.stem} with one of {', '.join(ENDINGS)}")


def taker(segmenter: Segmenter) -> MaskClassifier:
    """Return the model of a segmenter, which takes masks.

    Raises:
        ConfigError: It takes none.
    """
    if not isinstance(segmenter.model, MaskClassifier):
        raise ConfigError(
            f"{segmenter.name} finds its masks itself and takes none; choose a mask classifier, such as "
            "alphaclip-b16-grit1m or the config alpha_clip/masks_mini.yaml"
        )
    return segmenter.model
