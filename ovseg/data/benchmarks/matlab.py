"""Label maps in MATLAB files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ovseg.errors import InputError


def read_matrix(path: Path, key: str) -> np.ndarray:
    """Return a label map (H, W) int32 of a MATLAB file.

    Raises:
        InputError: The file is missing or broken, or has no such matrix.
    """
    from scipy.io import loadmat

    try:
        return np.asarray(loadmat(str(path))[key]).astype(np.int32)
    except Exception as error:  # the reader raises nearly anything on damaged files
        reason = f"no matrix '{key}' in it" if isinstance(error, KeyError) else " ".join(str(error).split())[:100]
        raise InputError(f"label '{path}' cannot be read ({reason}); unpack its archive again") from error
