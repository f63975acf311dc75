"""A whole training from a config file: data, model, loop, exported model."""

from __future__ import annotations

import ast
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.utils import comm

from ovseg.checkpoint.trained import trained_state
from ovseg.data.checking import require_sound
from ovseg.data.registration import load_datasets
from ovseg.engine.expectation import describe
from ovseg.engine.hooks import Log, Save, Validation, log, report, start_log
from ovseg.engine.trainer import Trainer, seed_everything
from ovseg.engine.validation import load_test_sets, validate
from ovseg.errors import ConfigError
from ovseg.system.device import resolve_device
from ovseg.system.files import atomic_write, check_writable
from ovseg.zoo import Spec, build, resolve

_WORDS = {"true": True, "false": False, "null": None}  # as YAML writes what Python spells otherwise
CHECKED = 64  # images of each data set that are read before training; all names of files are compared


def read_options(words: Sequence[str]) -> dict[str, Any]:
    """Turn ``KEY VALUE KEY VALUE`` of a command line into nested changes to a config.

    Raises:
        ConfigError: A value is missing.
    """
    if len(words) % 2:
        raise ConfigError(f"'{words[-1]}' has no value; expected KEY VALUE pairs such as SOLVER.MAX_ITER 1000")
    changes: dict[str, Any] = {}
    for key, text in zip(words[::2], words[1::2], strict=True):
        node = changes
        *parents, last = key.split(".")
        for parent in parents:
            node = node.setdefault(parent, {})
        try:
            node[last] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            node[last] = _WORDS.get(text, text)
    return changes


def train(config: str, changes: dict[str, Any], resume: bool = False, eval_only: bool = False) -> None:
    """Train a model, or only evaluate it; in every process of a run.

    Args:
        config: A YAML file, a shipped one, or the name of a model to go on from.
        changes: Nested changes to it.
        resume: Go on with the run in ``OUTPUT_DIR``.
        eval_only: Evaluate ``MODEL.WEIGHTS`` on ``DATASETS.TEST``.

    Raises:
        OvsegError: The data, the config or the folder of the run cannot be used, or the training broke down.
    """
    spec = resolve(config, overrides=changes)
    cfg = spec.config
    tests = load_test_sets(cfg.DATASETS.TEST, cfg.DATASETS.VOCABULARY, cfg.DATASETS.RENAME)
    folder = check_writable(cfg.OUTPUT_DIR)
    start_log(folder)
    if eval_only:
        for name, scores in validate(_model(spec), tests).items():
            report(name, scores)
        return
    datasets = load_datasets(cfg.DATASETS.TRAIN, cfg.DATASETS.VOCABULARY, rename=cfg.DATASETS.RENAME)
    for dataset in {dataset.name: dataset for dataset in (*datasets, *tests)}.values():
        require_sound(dataset, CHECKED)
    trainer = Trainer(cfg, _model(spec), datasets, resume)
    for line in describe(trainer):
        log.info(line)
    if trainer.start_iter:
        log.info(f"going on at step {trainer.start_iter} of '{folder}'")
    log_hook = Log(folder, trainer.start_iter)
    trainer.register_hooks([log_hook, Validation(tests, log_hook), Save()])
    trainer.fit()
    if comm.is_main_process():
        export(trainer, folder)
        log.info(f"done: ovseg segment IMAGE --model {folder}")
    comm.synchronize()


def _model(spec: Spec) -> Any:
    """Build the model; what is new in it starts the same in every run of this seed."""
    device = resolve_device(spec.config.MODEL.DEVICE)
    seed_everything(spec.config.SEED)
    return build(spec).eval().place(device, torch.float32)


def export(trainer: Trainer, folder: Path) -> None:
    """Write what `ovseg.load(folder)` needs: config.yaml, classes.json and model.safetensors.

    Raises:
        InputError: A file cannot be written.
    """
    from ovseg.checkpoint.trained import save_trained

    with trainer.averaged():
        save_trained(trained_state(trainer.model), folder / "model.safetensors")
    cfg = trainer.cfg.clone()
    cfg.defrost()
    cfg.MODEL.WEIGHTS, cfg.MODEL.TEXT.VOCABULARY = "", ""  # `ovseg.load` takes those of the folder
    for name, text in (("classes.json", json.dumps(trainer.classes.to_json(), indent=1)), ("config.yaml", cfg.dump())):
        with atomic_write(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
