"""ONNX graphs in half precision, or with weights of 8 bits: the part that knows no words alone."""

from __future__ import annotations

import contextlib
import io
import logging
from pathlib import Path
from typing import Any

from ovseg.meta_arch.exported.card import IMAGE, FileCard


def lower(whole: Any, card: FileCard, path: Path) -> Any:
    """Return a model (ONNX) whose image part is in the precision of the card; what words make of it stays float32.

    Args:
        whole: In float32.
        card: Says the precision, and where the parts meet.
        path: Beside it a temporary file may stand for a while.
    """
    from onnx.utils import Extractor

    part = Extractor(whole).extract_model([IMAGE], list(card.seen))
    changed = _half(part) if card.dtype == "fp16" else _whole_numbers(part, path)
    return _put_back(whole, changed, set(card.seen))


def _half(part: Any) -> Any:
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

    blocked = [*DEFAULT_OP_BLOCK_LIST, "GridSample", "Range", "Floor"]
    with contextlib.redirect_stdout(io.StringIO()):
        return convert_float_to_float16(part, keep_io_types=True, op_block_list=blocked)


def _whole_numbers(part: Any, path: Path) -> Any:
    """Let products with weights run in whole numbers, scaled by the largest value of each pass ("dynamic")."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    matrices = {one.name for one in part.graph.initializer if len(one.dims) == 2}
    products = [node.name for node in part.graph.node if len(node.input) > 1 and node.input[1] in matrices]
    place = path.with_name(f"{path.stem}.int8{path.suffix}")
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # it advises a step that this graph has behind it
    try:
        quantize_dynamic(
            part,
            place,
            op_types_to_quantize=["MatMul", "Gemm"],
            nodes_to_quantize=products,
            per_channel=True,
            weight_type=QuantType.QInt8,
        )
        return onnx.load(place)
    finally:
        root.setLevel(level)
        place.unlink(missing_ok=True)


def _put_back(whole: Any, part: Any, seen: set[str]) -> Any:
    """Put a changed image part into the place of its own; what is behind `seen` stays as it was."""
    maker = {name: node for node in whole.graph.node for name in node.output}
    rest, left = list[Any](), [one.name for one in whole.graph.output if one.name not in seen]
    known = set[int]()
    while left:
        name = left.pop()
        node = maker.get(name)
        if name in seen or node is None or id(node) in known:
            continue
        known.add(id(node))
        rest.append(node)
        left += node.input
    behind = [node for node in whole.graph.node if id(node) in known]
    taken = {one.name for one in part.graph.initializer} | {name for node in part.graph.node for name in node.output}
    used = {name for node in behind for name in node.input} | {name for node in behind for name in node.output}
    renamed = {name: f"image_{name}" for name in taken & used if name not in seen}
    for node in part.graph.node:  # some, which read the size of the image, are behind it too
        node.name = f"image_{node.name}"
        for names in (node.input, node.output):
            names[:] = [renamed.get(name, name) for name in names]
    for one in part.graph.initializer:
        one.name = renamed.get(one.name, one.name)
    weights = [one for one in whole.graph.initializer if one.name in used]
    graph = whole.graph
    nodes = [*part.graph.node, *behind]
    del graph.node[:]
    del graph.initializer[:]
    del graph.value_info[:]
    graph.node.extend(nodes)
    graph.initializer.extend([*part.graph.initializer, *weights])
    versions = {one.domain: one.version for one in (*whole.opset_import, *part.opset_import)}
    del whole.opset_import[:]
    for domain, version in versions.items():
        entry = whole.opset_import.add()
        entry.domain, entry.version = domain, version
    return whole
