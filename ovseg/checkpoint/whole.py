"""Whether a file of weights is all there, told by a few bytes of it; needs no PyTorch."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path


def is_whole(path: Path) -> bool:
    """Tell whether a file of weights reaches to its end: half of one names more than it holds, or has lost its index.

    It reads a few bytes. Files of PyTorch before 1.6, which say nothing of their length, count as whole unless empty.
    """
    try:
        with path.open("rb") as file:
            start = file.read(9)
            size = path.stat().st_size
            if start.startswith(b"PK"):
                return zipfile.is_zipfile(path)
            if path.suffix != ".safetensors" and start[5:] != b"\0\0\0{":
                return size > 0
            header = int.from_bytes(start[:8], "little")
            entries = json.loads(start[8:] + file.read(header - 1)) if 0 < header < size else {}
            ends = [entry["data_offsets"][1] for key, entry in entries.items() if key != "__metadata__"]
            return bool(ends) and 8 + header + max(ends) == size
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return False
