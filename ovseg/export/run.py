"""Exports a model: builds it, captures its graph, writes the file, and keeps it only if it says what the model says."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ovseg._version import __version__
from ovseg.config import examples_root
from ovseg.errors import ConfigError
from ovseg.export.compare import Comparison, compare
from ovseg.export.formats import capture, graph_of, write
from ovseg.export.graphs import Model, Shape
from ovseg.export.plan import Plan, least_side, unit_of
from ovseg.labelling.calibration import Calibration
from ovseg.meta_arch.conv_mask_model import ConvMaskModel
from ovseg.meta_arch.cost_model import CostModel
from ovseg.meta_arch.exported.card import FileCard, FixedSize, pack_words
from ovseg.meta_arch.sed import SED
from ovseg.meta_arch.training_free import TrainingFree
from ovseg.system.files import atomic_write, check_writable
from ovseg.system.values import plain
from ovseg.vocabulary import Vocabulary
from ovseg.zoo import build, resolve
from ovseg.zoo.auto import require_named
from ovseg.zoo.spec import Spec

Report = Callable[[str], None]


def export(
    name: str, plan: Plan, classes: Any = None, overrides: dict[str, Any] | None = None, report: Report = print
) -> list[Comparison]:
    """Export a model.

    Args:
        name: Of the model; see the top of `ovseg.zoo`.
        plan: What is made of it.
        classes: Words that are embedded into the file, so that these need no text tower; None for none.
        overrides: Changes to the config.
        report: Is told in lines what is done and what came of it.

    Returns:
        What came of each photograph by which the file was compared.

    Raises:
        OvsegError: The model, the plan or the words cannot be used, or both together.
        WeightsError: The file does not say what the model says; none is left.
    """
    plan.check()
    require_named(name, "a file")
    vocabulary = None if classes is None else Vocabulary.parse(classes)
    spec = resolve(name, overrides=overrides)
    if spec.exported is not None:
        raise ConfigError(f"'{name}' is a file of `ovseg export` already; name the model {spec.exported[1].model}")
    model: Model = build(spec).eval()
    plan.refuse(model, spec.name)
    shape = plan.shape(model, spec.name)
    if shape.size is not None and (model.size_rule.aspect != "square" or model.size_rule.size(1, 1) != shape.size):
        model.size_rule = FixedSize.of(*shape.size)
    card = _card(model, spec, plan, shape, vocabulary)
    check_writable(plan.output.parent)
    start = time.perf_counter()
    graph = graph_of(model, shape)
    program = capture(graph, card)
    with atomic_write(plan.output) as temporary:
        write(program, graph, card, temporary)
        megabytes = temporary.stat().st_size / 1e6
        report(f"{card.format} {card.dtype}, {megabytes:.1f} MB, in {time.perf_counter() - start:.0f} s; comparing:")
        found = compare(model, temporary, card, examples_root(), report)
    worst = min(one.agreement for one in found)
    report(f"{plan.output}: at least {100 * worst:.3f} % of the labels of each photograph agree with PyTorch")
    return found


def _card(model: Model, spec: Spec, plan: Plan, shape: Shape, vocabulary: Vocabulary | None) -> FileCard:
    """Describe a file that is yet to be written."""
    graph = graph_of(model, shape)
    settings = plain({**model.settings, "joint": model.clip.embed_dim})
    words = None if vocabulary is None else pack_words(model.words(vocabulary))
    trained = None
    if isinstance(model, ConvMaskModel) and not model.ensemble.clip_alone:
        trained = tuple(sorted(model.trained_names or ()))
    calibration: Calibration | None = model.calibration
    return FileCard(
        ovseg=__version__,
        model=_findable(spec.asked or spec.name),
        kind=_kind(model),
        format=plan.format,
        dtype=plan.dtype,
        size=shape.size,
        unit=unit_of(model),
        least=plan.least(model),
        photo=shape.photo,
        seen=graph.seen_names,
        named=graph.naming.names,
        labels=shape.labels,
        weights_hash=model.weights_hash,
        clip=model.clip.name,
        clip_hash=model.clip.weights_hash,
        config=_nested(spec.config),
        settings=settings,
        mean=tuple(model.clip.mean),
        std=tuple(model.clip.std),
        patch_size=least_side(model),
        gives=tuple(sorted(model.gives)),
        templates=model.default_templates,
        background=model.default_background.policy,
        notes=model.notes,
        clip_notes=tuple(model.clip.notes),
        calibration=None if calibration is None else plain(asdict(calibration)),
        trained_names=trained,
        words=words,
        **_of_maps(model),
    )


def _kind(model: Model) -> str:
    return "patches" if isinstance(model, TrainingFree) else "maps" if isinstance(model, CostModel) else "masks"


def _of_maps(model: Model) -> dict[str, Any]:
    """Return what a card says of a model that makes a map for every word."""
    if not isinstance(model, CostModel):
        return {}
    plan, prompts = model.sliding, model.decoder.prompts if isinstance(model, SED) else 0
    own = {"prompts": prompts, "names": model.names, "most": model.most, "cut": model.cut}
    if plan is None:
        return own
    return {**own, "sliding": (plan.side, plan.window, plan.overlap), "view": model.resolution}


def _findable(name: str) -> str:
    """Return a name by which the model is found from any folder."""
    place = Path(os.path.expanduser(name))
    return str(place.resolve()) if place.exists() else name


def _nested(config: Any) -> dict[str, Any]:
    """Return a config as JSON values: what of it says how words are embedded, and what it was."""
    import yaml

    found: dict[str, Any] = yaml.safe_load(config.dump())
    return {"MODEL": found["MODEL"]}
