"""What the results of the images of a job are called: once chosen, a name stays, whatever images are added."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence

from ovseg.result.files import short_name
from ovseg.system.paths import folded, relative_names

NAME_BYTES = 200
"""Each part of a name is shortened to so many bytes, so that every ending fits behind it; archives may hold longer."""
_TAKEN = "run"
"""The job's own ``run.json`` is called like the report of an image of this name."""


def choose_names(keys: Sequence[str], kept: Mapping[str, str], whole: bool = False) -> dict[str, str]:
    """Choose a name for each image.

    Names are those of `relative_names`. An image that was added and would share the name of another one, or of a file
    of the job, gets its suffix, or a hash; names that were chosen before stay as they are.

    Args:
        keys: What the images are called, see `Item.key`.
        kept: Names that were chosen before, by key.
        whole: Keep every suffix: a name then depends on nothing but its own image.

    Returns:
        Names by key, different for different keys, also where upper and lower case count as the same.
    """
    fresh = [key for key in keys if key not in kept]
    chosen = dict(zip(keys, keys if whole else relative_names(keys, "."), strict=True))
    taken = {_TAKEN, *(folded(name) for name in kept.values())}
    names = {key: kept[key] for key in keys if key in kept}
    for key in fresh:
        for name in (chosen[key], key, f"{key}-{hashlib.sha256(os.fsencode(key)).hexdigest()[:8]}"):
            short = "/".join(short_name(part, NAME_BYTES) for part in name.split("/"))
            if folded(short) not in taken:
                break
        taken.add(folded(short))
        names[key] = short
    return names
