"""``ovseg doctor --dtype``: measure what bf16 changes for a model, and keep it for ``--dtype auto``."""

from __future__ import annotations

from collections.abc import Sequence


def check_dtype(model_and_images: Sequence[str], classes: str | None) -> int:
    """Measure, print a line for each image and the decision, and store it.

    Args:
        model_and_images: Name of the model, then files and folders.
        classes: As for ``ovseg segment``; None for the model's own words.

    Raises:
        InputError: There is no model, or no image.
        OvsegError: As `ovseg.jobs.dtype_check.measure`.
    """
    from rich.markup import escape
    from rich.table import Table

    from ovseg.errors import InputError
    from ovseg.system import terminal
    from ovseg.system.precision import percent, store

    if len(model_and_images) < 2:
        got = " ".join(model_and_images) or "nothing"
        raise InputError(f"--dtype got '{got}'; expected a model and images: ovseg doctor --dtype MODEL IMAGES")
    from ovseg.jobs.dtype_check import measure
    from ovseg.system.device import CPU
    from ovseg.zoo import load

    model, *images = model_and_images
    console = terminal.console()
    with console.status("loading ...") as status:
        found = measure(lambda dtype: load(model, CPU.type, dtype), images, classes, status.update)
    table = Table("image", "labels that bf16 keeps", title=found.whole.model, title_justify="left")
    for name, share in found.images:
        table.add_row(escape(name), percent(share))
    console.print(table)
    console.print(found.whole.decision, soft_wrap=True, markup=False, highlight=False)
    console.print(f"stored: {store(found.whole)}", soft_wrap=True, markup=False, highlight=False)
    return 0
