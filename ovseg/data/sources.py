"""What is one image and what are several: the one place that decides it, for all entrances."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Set
from typing import Any

import numpy as np
import torch

from ovseg.data.images import expand_inputs


def is_several(source: Any) -> bool:
    """Tell whether a source stands for several images.

    One image is a path of a file, an open file, a PIL image, an array of two or three dimensions, a tensor of three, or
    what `read_image` made of one. Several are a folder, an array or tensor of more dimensions (a batch), and a list, a
    tuple, a generator or another iterable of any of these, also of one.
    """
    if isinstance(source, (str, os.PathLike)):
        return os.path.isdir(source)
    if isinstance(source, (np.ndarray, torch.Tensor)):
        return source.ndim > 3
    kept = (bytes, bytearray, Mapping, Set)  # iterable, and no list of images: `read_image` says what to give
    return isinstance(source, Iterable) and not isinstance(source, kept) and not hasattr(source, "read")


def each_image(source: Any) -> list[Any] | Iterator[Any]:
    """Return the single images that a source stands for, in order; nothing is read, and paths need not exist.

    Args:
        source: One image or several, as `is_several` tells.

    Returns:
        A list; for a generator and other iterables a generator, which takes one after another.

    Raises:
        InputError: A folder cannot be read, or holds no images.
    """
    if not is_several(source):
        return [source]
    if isinstance(source, (str, os.PathLike)):
        return expand_inputs(source)
    items = (one for item in source for one in each_image(item))
    return list(items) if isinstance(source, (list, tuple, np.ndarray, torch.Tensor)) else items
