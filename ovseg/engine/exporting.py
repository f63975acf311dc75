"""The model that a run leaves: model.safetensors, config.yaml and classes.json, which `ovseg.load(folder)` takes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from ovseg.checkpoint.run_files import CLASSES, CONFIG, EARLIER, LAST, MODEL
from ovseg.checkpoint.run_state import RunState, require_finite, require_run_state
from ovseg.checkpoint.trained import save_trained
from ovseg.engine.held_out import HELD_OUT
from ovseg.engine.identity import DATA
from ovseg.errors import InputError, WeightsError
from ovseg.system.files import atomic_write, check_writable
from ovseg.vocabulary import Vocabulary

if TYPE_CHECKING:
    from collections.abc import Mapping

    from detectron2.config import CfgNode
    from torch import Tensor


def write_description(cfg: CfgNode, classes: Vocabulary, folder: Path) -> None:
    """Write what says how the weights of a run are to be used: its config, and the classes that it learns.

    It lies in the folder from the start, so that a run that is killed has left a model with its first checkpoint.

    Raises:
        InputError: A file cannot be written.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.WEIGHTS, cfg.MODEL.TEXT.VOCABULARY = "", ""  # `ovseg.load` takes those of the folder
    for name, text in ((CLASSES, json.dumps(classes.to_json(), indent=1)), (CONFIG, cfg.dump())):
        with atomic_write(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")


def write_model(weights: Mapping[str, Tensor], step: int, folder: Path) -> None:
    """Write the trained part of a model, as it is after a step.

    Raises:
        TrainingError: A weight is not finite.
        InputError: The file cannot be written.
    """
    require_finite(weights, folder / MODEL, step)
    save_trained(dict(weights), folder / MODEL, step)


def export_checkpoint(run: Path, output: Path | None = None) -> RunState:
    """Write the model that the checkpoint of a run holds, whether the run is finished or not.

    Args:
        run: Folder of the run, or its ``last.pt``.
        output: Where to; None is the folder of the run.

    Returns:
        The state that was exported.

    Raises:
        InputError: The folder holds no run, or cannot be written to.
        WeightsError: The checkpoint is broken, or of an earlier version and without its config beside it.
        TrainingError: A weight is not finite.
    """
    folder = run.parent if run.name == LAST else run
    if not (folder / LAST).is_file():
        raise InputError(f"'{folder}' holds no run ({LAST}); expected the OUTPUT_DIR of `ovseg train`")
    state = require_run_state(folder / LAST)
    if missing := [name for name in (CONFIG, CLASSES) if not (folder / name).is_file()]:
        raise WeightsError(
            f"'{folder}' has no {' and no '.join(missing)}, which runs of earlier versions got at their end only; give "
            "the command of the training again with --resume --adopt: it writes them, and goes on"
        )
    into = check_writable(output or folder)
    write_model(state.weights, state.step, into)
    for name in (CONFIG, CLASSES, DATA, EARLIER, HELD_OUT):  # how to use it, and what it must not be judged by
        if (folder / name).is_file() and into.resolve() != folder.resolve():
            with atomic_write(into / name) as temporary:
                shutil.copyfile(folder / name, temporary)
    return state
