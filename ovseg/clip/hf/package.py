"""The transformers package, which only its models need, and the repositories that it would fetch by itself."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

from ovseg.checkpoint.hub import fetch_repository
from ovseg.errors import EnvironmentProblem, WeightsError


def import_transformers(who: str, extra: str = "hf") -> ModuleType:
    """Import transformers at first use.

    Args:
        who: What needs it, for the message.
        extra: Of ours, which brings it.

    Raises:
        EnvironmentProblem: It is not installed, or cannot be imported.
    """
    try:
        import transformers
    except (ImportError, RuntimeError) as error:  # RuntimeError: packages that do not go together
        if getattr(error, "name", None) == "transformers":
            raise EnvironmentProblem(f"{who} needs transformers; run `pip install 'ovseg[{extra}]'`") from error
        reason = str(error).splitlines()[0]
        raise EnvironmentProblem(
            f"{who} needs transformers, which cannot be imported ({reason}); run `pip install -U 'ovseg[{extra}]'`"
        ) from error
    return transformers


def local_files(name: str) -> str:
    """Return the folder with config and tokenizer that a name means: a folder, or a repository, which is fetched.

    Raises:
        WeightsError: It cannot be had.
    """
    if Path(name).is_dir():
        return name
    if name.count("/") > 1 or name.startswith(("/", ".", "~")):
        raise WeightsError(f"the folder {name}, which should hold a tokenizer, does not exist")
    return str(fetch_repository(name, "tokenizer", name=name))
