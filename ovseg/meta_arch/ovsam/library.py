"""The parts of segment_anything that this model is made of: its blocks, its two-way transformer, its prompts."""

from __future__ import annotations

from typing import Any

from ovseg.errors import EnvironmentProblem


def sam_modules() -> Any:
    """Return ``segment_anything.modeling``.

    Raises:
        EnvironmentProblem: It cannot be imported.
    """
    try:
        from segment_anything import modeling
    except (ImportError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise EnvironmentProblem(
            f"cannot import segment_anything ({reason}); run `pip install segment-anything`"
        ) from error
    return modeling
