"""What is known of weights that a built model has, by their content: what they have seen, and what scores are worth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ovseg.system.values import some
from ovseg.zoo.aliases import AUTO, recommended
from ovseg.zoo.card import PACKAGE, list_models
from ovseg.zoo.spec import Spec


def add_knowledge(model: Any, spec: Spec) -> None:
    """Give a model its notes, behind those of its own, and its calibration, as far as its weights are known.

    Args:
        model: A `WordedModel`; others are left as they are.
        spec: What it was built from.

    Raises:
        WeightsError: A calibration that lies beside the weights cannot be read.
    """
    from ovseg.meta_arch.worded_model import WordedModel

    if isinstance(model, WordedModel):
        model.notes = (*model.notes, *_origin(model, spec), *_calibrate(model, spec))


def _origin(model: Any, spec: Spec) -> list[str]:
    """Say in one line which model ``auto`` took and why, and what its CLIP knows, unless that is photographs."""
    known = next((card for card in list_models() if card.clip_hash == model.clip.weights_hash != ""), None)
    took = f"{AUTO} took {spec.name} ({spec.why})" if spec.asked == AUTO else spec.name
    if known is None:
        return [took] if spec.asked == AUTO else []
    runs = "" if spec.name == known.name else f" runs on the CLIP of {known.name}, which"
    which = ", which" if spec.asked == AUTO else runs
    return [f"{took}{which} knows {known.knows}; for photographs {spec.mend or f'take {_for_photographs(spec)}'}"]


def _for_photographs(spec: Spec) -> str:
    """Return the name of a model with weights for photographs: of a method on a CLIP that knows them."""
    method, slash, _ = spec.name.partition("/")
    methods = {card.name.partition("/")[0] for card in list_models() if card.weights == "open_clip"}
    return f"{method}/ViT-B-16/openai" if slash and method.casefold() in methods else recommended()


def _calibrate(model: Any, spec: Spec) -> list[str]:
    """Give a model the calibration that lies beside its weights; say so where there is one for other settings alone."""
    from ovseg.labelling.calibration import Calibration  # it brings PyTorch, which cards do without

    others: list[str] = []
    for file in _files(spec):
        found = Calibration.read(file)
        if found.weights != model.weights_hash:
            continue
        others = found.other_settings(model.settings)
        if not others:
            model.calibrate(found)
            return []
    return [f"scores are the model's own: its calibration was fitted with another {some(others)}"] if others else []


def _files(spec: Spec) -> list[Path]:
    """Return the calibrations beside the weights of a model, and of its CLIP where that is a folder."""
    from ovseg.labelling.calibration import SUFFIX

    node = spec.config.MODEL
    folders = [Path(node.WEIGHTS).expanduser().parent] if node.WEIGHTS else []
    if node.CLIP.FOLDER:
        embedded = PACKAGE / "assets" / node.CLIP.FOLDER
        folders.append(embedded if embedded.is_dir() else Path(node.CLIP.FOLDER).expanduser())
    return sorted({file for folder in dict.fromkeys(folders) for file in folder.glob(f"*{SUFFIX}")})
