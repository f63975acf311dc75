"""A whole training from a config file: data, model, loop, exported model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from detectron2.utils import comm

from ovseg._version import __version__
from ovseg.checkpoint.run_files import EARLIER
from ovseg.engine.checkpoints import Checkpoint
from ovseg.engine.expectation import describe
from ovseg.engine.exporting import write_description
from ovseg.engine.held_out import HELD_OUT, HeldOut, is_share
from ovseg.engine.hooks import Log, Save, Validation, start_log
from ovseg.engine.identity import DATA, trained_before, trained_on
from ovseg.engine.options import training_spec, with_seed
from ovseg.engine.pace import log
from ovseg.engine.run_data import RunData, chosen_words, load_held_out, load_run_data, load_tests
from ovseg.engine.trainer import Trainer, seed_everything
from ovseg.engine.validation import describe_tests, validate
from ovseg.errors import ConfigError
from ovseg.system.device import resolve_device
from ovseg.system.files import atomic_write, check_writable
from ovseg.system.values import dump, plain
from ovseg.zoo import Spec, build, require_weights

RECORD = "training.json"
"""What a run was told and has found in its data, for people and programs; a start writes it anew."""


def train(
    config: str,
    changes: dict[str, Any],
    resume: bool = False,
    adopt: bool = False,
    skip_broken: bool = False,
) -> int:
    """Train a model; in every process of a run.

    Args:
        config: A YAML file, a shipped one, or the name of a model to go on from.
        changes: Nested changes to it.
        resume: Go on with the run in ``OUTPUT_DIR``.
        adopt: Go on although what the run was made of has changed, or was not recorded by an earlier version.
        skip_broken: Leave out training images that cannot be used, instead of refusing to start.

    Returns:
        0: what a validation has left out is in the log.

    Raises:
        OvsegError: The data, the config or the folder of the run cannot be used, or the training broke down.
    """
    if adopt and not resume:
        raise ConfigError("--adopt goes on with a run that was made of something else; give --resume, too")
    spec, lines = training_spec(config, changes)
    checkpoint = Checkpoint(spec.config.OUTPUT_DIR, resume)
    spec, seeded = with_seed(spec, config, checkpoint.seed)
    start_log(checkpoint.folder)
    for line in (*lines, *seeded):
        log.info(line)
    cfg, folder = spec.config, checkpoint.folder
    kept = HeldOut.read(folder) if checkpoint.before else None
    model = _model(spec, untrained=True)  # before the images are read: its weights may be missing
    if new := getattr(model, "untrained", ""):
        log.info(new)
        seeded = [*seeded, new]
    earlier = _trained_before(checkpoint, cfg.MODEL.WEIGHTS)
    data = load_run_data(cfg, kept, skip_broken, earlier)
    start = checkpoint.own_start(spec.path, cfg.MODEL.WEIGHTS)
    trainer = Trainer(cfg, model, data, checkpoint, start, adopt)
    if comm.is_main_process():
        _write_record(trainer, data, spec, [*lines, *seeded], folder)
    for line in (*describe(trainer), *describe_tests(data.tests, cfg.TEST.EVAL_PERIOD)):
        log.info(line)
    if resume:
        log.info(_going_on(trainer))
    log_hook = Log(folder, trainer.start_iter)
    trainer.register_hooks([log_hook, Save(), Validation(data.tests, log_hook)])
    trainer.fit()
    log.info(f"done: ovseg segment IMAGE --model {folder}")
    comm.synchronize()
    return 0


def _trained_before(checkpoint: Checkpoint, weights: str) -> set[str]:
    """Return hashes of the images that the weights were trained on with which a run has started."""
    if checkpoint.before:
        return trained_before(checkpoint.folder)
    return trained_on(Path(weights).parent) if weights else set()


def _going_on(trainer: Trainer) -> str:
    """Return the line on where a run goes on."""
    folder, done, steps = trainer.checkpoint.folder, trainer.start_iter, trainer.max_iter
    if trainer.checkpoint.before is None:
        return f"--resume: there is no run in '{folder}' yet, this one starts at its first step"
    if done >= steps:
        return f"the run in '{folder}' has {done} steps, and SOLVER.MAX_ITER is {steps}: nothing is left to train"
    return f"going on at step {done} of '{folder}'"


def evaluate(config: str, changes: dict[str, Any]) -> int:
    """Evaluate a model on ``DATASETS.TEST`` as a training validates it; in every process.

    Args:
        config: As for `train`; the folder of a run stands for what it has learnt, finished or not.
        changes: Nested changes to it.

    Returns:
        0, or 1 where images or a whole data set could not be measured; the log names them.

    Raises:
        WeightsError: The head has no weights.
        OvsegError: As `train`.
    """
    spec, lines = training_spec(config, changes, evaluating=True)
    require_weights(spec)
    spec, seeded = with_seed(spec, config, None)
    cfg = spec.config
    if not cfg.DATASETS.TEST:
        raise ConfigError("there is nothing to evaluate on; give --val DIR, or DATASETS.TEST")
    start_log(check_writable(cfg.OUTPUT_DIR))
    for line in (*lines, *seeded):
        log.info(line)
    model, run = _model(spec), _run_of(spec)
    shares = [name for name in cfg.DATASETS.TEST if is_share(name)]
    trained = trained_on(run)
    tests = load_held_out(cfg, run, trained) if shares else []
    tests += load_tests(
        [name for name in cfg.DATASETS.TEST if name not in shares], chosen_words(cfg), trained, {"test": []}
    )
    found = validate(model, tests)
    for name, outcome in found.items():
        log.info(outcome.line(name))
    comm.synchronize()
    return int(any(outcome.failed or outcome.problem for outcome in found.values()))


def _run_of(spec: Spec) -> Path:
    """Return the folder of the run whose weights or config these are; that of the config where it is no run."""
    weights = spec.config.MODEL.WEIGHTS
    places = [Path(weights).parent] if weights else []
    return next((place for place in places if (place / DATA).is_file()), spec.path.parent)


def _model(spec: Spec, untrained: bool = False) -> Any:
    """Build the model; what is new in it starts the same in every run of this seed."""
    device = resolve_device(spec.config.MODEL.DEVICE)
    seed_everything(spec.config.SEED)
    return build(spec, untrained).eval().place(device, torch.float32)


def _write_record(trainer: Trainer, data: RunData, spec: Spec, lines: list[str], folder: Path) -> None:
    """Write what the run is, before its first step: so a kill leaves no checkpoint without its classes."""
    write_description(trainer.cfg, trainer.classes, folder)
    if not trainer.start_iter:
        trainer.identity.write(folder)
    if data.earlier:
        with atomic_write(folder / EARLIER) as temporary:
            temporary.write_text(dump(sorted(data.earlier)), encoding="utf-8")
    if data.held_out:
        data.held_out.write(folder)
        log.info(f"held out for validation: {sum(map(len, data.held_out.images.values()))} images, see '{HELD_OUT}'")
    record = {
        "ovseg": __version__,
        "torch": torch.__version__,
        "config": spec.name,
        "seed": trainer.cfg.SEED,
        "start": trainer.start_iter,
        "weights": trainer.identity.weights,
        "notes": lines,
        "adopted": trainer.checkpoint.adopted,
        "data": data.record,
    }
    with atomic_write(folder / RECORD) as temporary:
        temporary.write_text(dump(plain(record), indent=1) + "\n", encoding="utf-8")
