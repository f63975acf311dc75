"""From a model to a file: its graph is captured once, then written as ONNX or by `torch.export`, or compiled."""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ovseg.errors import ConfigError
from ovseg.export.graphs import Graph, MapGraph, MaskGraph, Model, Naming, PatchGraph, Shape
from ovseg.meta_arch.cost_model import CostModel
from ovseg.meta_arch.exported.card import ENTRY, KEY, NAMING, FileCard, entry_of
from ovseg.meta_arch.training_free import TrainingFree
from ovseg.ops.mask_pooling import mask_pool_plain
from ovseg.ops.ms_deform_attn import sample_grids

_OPSET = 18
_WORDS = 5  # of the sample by which a graph is captured; their number stays free
_PHOTO = (60, 84)  # its size, where any is taken


def graph_of(model: Any, shape: Shape) -> Graph:
    """Return the graph of a model (`Model`)."""
    if isinstance(model, TrainingFree):
        return PatchGraph(model, shape)
    return MapGraph(model, shape) if isinstance(model, CostModel) else MaskGraph(model, shape)


def _sample(card: FileCard, model: Model) -> tuple[Tensor, ...]:
    """Return inputs by which a graph is captured: any values, and for all that is free a size of no meaning."""
    if card.photo:
        image = torch.zeros(*_PHOTO, 3, dtype=torch.uint8)
    else:
        size = card.size or card.view or tuple(_multiple(side, card) for side in model.size_rule.size(480, 660))
        image = torch.zeros(1, 3, *size)
    rows = (_WORDS, model.clip.embed_dim) if not card.prompts else (_WORDS, card.prompts, model.clip.embed_dim)
    texts = torch.nn.functional.normalize(torch.randn(*rows), dim=-1)
    words = (texts, torch.tensor([0, 0, 1, 2, -1]))
    return (image, *words) if card.trained_names is None else (image, *words, torch.zeros(_WORDS, dtype=torch.bool))


def _multiple(side: int, card: FileCard) -> int:
    return max(-(-side // card.unit), -(-card.least // card.unit) + 1) * card.unit


def _free(card: FileCard) -> tuple[Any, ...]:
    """Return which axes of the inputs are free."""
    words = torch.export.Dim("words")
    image: dict[int, Any] | None = None
    if card.photo:
        image = {0: torch.export.Dim("photo_height"), 1: torch.export.Dim("photo_width")}
    elif card.size is None and card.view is None:
        # Of an axis that may be one window or patch PyTorch says that it is never one; operators of ONNX do not care.
        least = max(card.least + (card.format == "onnx"), 2 * card.patch_size)
        rows, columns = (torch.export.Dim(name, min=-(-least // card.unit)) for name in ("rows", "columns"))
        image = {2: card.unit * rows, 3: card.unit * columns}
    of_words = ({0: words}, {0: words}) if card.trained_names is None else ({0: words},) * 3
    return (image, *of_words)


def capture(graph: Graph, card: FileCard) -> Any:
    """Capture a graph as a program of `torch.export`, in plain operators.

    Raises:
        ConfigError: PyTorch cannot capture it; says why.
    """
    return _capture(graph, _sample(card, graph.model), _free(card), card.model)


def _capture(module: nn.Module, sample: tuple[Tensor, ...], free: Any, name: str) -> Any:
    with torch.no_grad(), _quietly():
        try:
            program = torch.export.export(module.eval(), sample, dynamic_shapes=free, strict=False)
            return program.run_decompositions(_plain_operators())
        except Exception as error:  # PyTorch's exporter raises of all kinds
            reason = " ".join(str(error).partition("\n\n")[0].split())
            raise ConfigError(
                f"{name} cannot be exported: PyTorch {torch.__version__} says {reason[:300]}; try a fixed --height and "
                "--width, or another model"
            ) from error


def _plain_operators() -> dict[Any, Any]:
    """Return our operators in terms of PyTorch's."""

    def deform(value: Tensor, sizes: list[int], locations: Tensor, weights: Tensor) -> Tensor:
        return sample_grids(value, list(zip(sizes[::2], sizes[1::2], strict=True)), locations, weights)

    return {
        torch.ops.ovseg.ms_deform_attn.default: deform,
        torch.ops.ovseg.mask_pool.default: mask_pool_plain,
    }


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Keep what PyTorch's exporters tell their developers."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    before = [one.level for one in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for one in loggers:
            one.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for one, level in zip(loggers, before, strict=True):
                one.setLevel(level)


def write(program: Any, graph: Graph, card: FileCard, path: Path) -> None:
    """Write a captured program with its card.

    Raises:
        ConfigError: It cannot be written in this format.
    """
    if card.format == "onnx":
        write_onnx(program, card, path)
        return
    with torch.no_grad(), _quietly():
        if card.format == "aoti":
            from torch._inductor import aoti_compile_and_package

            aoti_compile_and_package(program, package_path=str(path))
        else:
            torch.export.save(program, str(path))
        naming = io.BytesIO()
        torch.export.save(_naming(graph, card), naming)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(entry_of(archive, NAMING), naming.getvalue())
        archive.writestr(entry_of(archive, ENTRY), card.dump())


def _naming(graph: Graph, card: FileCard) -> Any:
    """Capture the part that words come into by itself, so that a second question needs no second pass."""
    sample = _sample(card, graph.model)
    with torch.no_grad():
        seen = [one.clone() for one in graph(*sample)[: len(card.seen)]]
    words = _free(card)[1:]
    auto = torch.export.Dim.AUTO
    axes = [
        [axis for axis, side in enumerate(one.shape) if side > 1] for one in seen
    ]  # it warns of one view, or window
    fixed = card.size is not None or card.kind == "maps"  # views are squeezed to one size
    free = [None if fixed else dict.fromkeys(own, auto) for own in axes]
    return _capture(Naming(graph), (*seen, *sample[1:]), ((*free, *words),), card.model)


def _erf(x: Any) -> Any:
    """Write the error function in float32, the one precision that ONNX Runtime has it in."""
    op: Any = importlib.import_module("onnxscript").opset18
    return op.CastLike(op.Erf(op.Cast(x, to=1)), x)


def _erfc(x: Any) -> Any:
    op: Any = importlib.import_module("onnxscript").opset18
    return op.CastLike(op.Sub(op.Constant(value_float=1.0), op.Erf(op.Cast(x, to=1))), x)


def write_onnx(program: Any, card: FileCard, path: Path) -> None:
    """Write a program as ONNX, in the precision of the card, in one file; see `write`."""
    import onnx

    try:
        with torch.no_grad(), _quietly(), contextlib.redirect_stdout(io.StringIO()):
            made = torch.onnx.export(
                program,
                (),
                dynamo=True,
                opset_version=_OPSET,
                input_names=list(card.inputs),
                output_names=list(card.outputs),
                custom_translation_table={torch.ops.aten.erf.default: _erf, torch.ops.aten.erfc.default: _erfc},
                verbose=False,
            )
        proto: Any = made.model_proto  # type: ignore[union-attr]
    except Exception as error:
        reason = " ".join(str(error).partition("\n\n")[0].split())
        raise ConfigError(
            f"{card.model} cannot be written as ONNX: PyTorch {torch.__version__} says {reason[:300]}; try --format "
            "torch-export"
        ) from error
    if card.dtype != "fp32":
        from ovseg.export.precision import lower

        proto = lower(proto, card, path)
    del proto.metadata_props[:]
    onnx.helper.set_model_props(proto, {KEY: card.dump()})
    onnx.save(proto, str(path))
