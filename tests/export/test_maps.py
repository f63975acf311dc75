"""CAT-Seg and SED as files: they say what the models say, by any words and however many."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ovseg
from ovseg.aggregation.spatial import SwinBlock
from ovseg.contract import CLASS_SCORES
from ovseg.errors import ConfigError
from ovseg.export.formats import graph_of
from ovseg.export.graphs import Shape
from ovseg.export.plan import Plan
from ovseg.export.run import export
from ovseg.vocabulary import Vocabulary
from tests.meta_arch.models import picture

FEW = "cat|kitten|lion, sofa, lamp, river|brook"
MANY = ", ".join(f"word{i}|name{i}" for i in range(150))
"""300 texts: more than the original compares a view with, and than it fills lists up to."""
ALIKE = 0.99
"""Share of equal labels: random maps are so alike that rounding decides some; scores have to agree all the same."""


def photo(high: int, wide: int, seed: int = 0) -> np.ndarray:
    return np.ascontiguousarray(picture(high, wide, seed).permute(1, 2, 0).numpy())


def check_same(file: Any, original: Any, *asked: Any) -> None:
    """Compare two results and what they say of themselves."""
    found, expected = (one(*asked, want=[CLASS_SCORES]) for one in (file, original))
    assert (found.labels == expected.labels).mean() > ALIKE
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)
    np.testing.assert_allclose(found.class_scores, expected.class_scores, atol=1e-4)
    assert found.classes == expected.classes
    assert set(expected.meta["notes"]) <= set(found.meta["notes"])


@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx", "torch-export"])
@pytest.mark.parametrize("name", ["cat-seg-sliding", "cat-seg-whole", "sed"])
def test_all_sizes_and_any_words(
    exported: Callable[..., Path], make: Callable[[str], Path], name: str, format: str
) -> None:
    """The tiny CAT-Seg in windows compares a view with 6 words (MOST); both it and the whole one fill up to 256."""
    ending = "onnx" if format == "onnx" else "pt2"
    file = ovseg.load(exported(name, f"{name}-any.{ending}", format=format, dynamic=True))
    original = ovseg.load(make(name), device="cpu")
    check_same(file, original, photo(70, 110), FEW, "wall, sky")
    check_same(file, original, photo(64, 64), "cat", "none")
    check_same(file, original, photo(90, 50), MANY, "threshold:0.3")
    encoded, words = [one.encode(photo(70, 110)) for one in (file, original)], original.words(FEW)
    found, expected = (one.encoded for one in encoded)
    said = [
        one.model.explain(seen, 0, (70, 110), words, (3, 90)) for one, seen in ((file, found), (original, expected))
    ]
    torch.testing.assert_close(said[0].scores, said[1].scores, atol=1e-4, rtol=0)


@pytest.mark.slow
def test_photographs_in_and_labels_out(exported: Callable[..., Path], make: Callable[[str], Path]) -> None:
    """Labels inside have been compared with PyTorch before the file came here.

    Random maps of the tiny CAT-Seg are so alike that rounding decides two labels in a thousand; its graph is below.
    """
    path = exported("sed", "sed-whole.onnx", FEW, height=64, width=96, photo=True, labels=True)
    file, original = ovseg.load(path), ovseg.load(make("sed"), device="cpu")
    original.model.size_rule = file.model.size_rule
    check_same(file, original, photo(70, 110), FEW)


@pytest.mark.slow
@pytest.mark.parametrize("names", ["first", "all"])
def test_the_names_that_count(tmp_path: Path, make: Callable[[str], Path], names: str) -> None:
    pytest.importorskip("onnxscript", reason="the extra `export` is not installed")
    changes = {"MODEL": {"SED": {"NAMES": names}}}
    export(str(make("sed")), Plan(tmp_path / "a.onnx", height=64, width=64), overrides=changes, report=lambda _: None)
    file, original = ovseg.load(tmp_path / "a.onnx"), ovseg.load(make("sed"), device="cpu", overrides=changes)
    original.model.size_rule = file.model.size_rule
    check_same(file, original, photo(70, 110), FEW, "wall, sky")
    with pytest.raises(ConfigError, match="templates of 'vild14' do not fit"):
        file(photo(64, 64), FEW, templates="vild14")


@pytest.mark.parametrize(
    ("name", "changes", "options", "match"),
    [
        ("sed-fast", {}, {"dynamic": True}, "FAST lets words leave .* set MODEL.SED.FAST to False"),
        ("cat-seg-sliding", {}, {"dynamic": True, "labels": True}, "set MODEL.CATSeg.SLIDING to False"),
        ("cat-seg-sliding", {}, {"height": 64, "width": 64}, "cut from images of all sizes; give --dynamic alone"),
        (
            "cat-seg-whole",
            {"MODEL": {"CATSeg": {"MOST": 9}}},
            {"dynamic": True, "labels": True},
            "set MODEL.CATSeg.MOST to 0",
        ),
    ],
)
def test_what_is_done_behind_a_graph_is_not_put_into_it(
    tmp_path: Path,
    make: Callable[[str], Path],
    name: str,
    changes: dict[str, Any],
    options: dict[str, Any],
    match: str,
) -> None:
    pytest.importorskip("onnxscript", reason="the extra `export` is not installed")
    with pytest.raises(ConfigError, match=match):
        export(str(make(name)), Plan(tmp_path / "a.onnx", **options), overrides=changes)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["cat-seg-whole", "sed"])
def test_a_graph_labels_as_the_model_does(make: Callable[[str], Path], name: str) -> None:
    model = ovseg.load(make(name), device="cpu").model
    words, image = model.words(Vocabulary.parse(FEW), "wall, sky"), picture(70, 110)
    with torch.no_grad():
        graph = graph_of(model, Shape(None, False, True))
        found = graph(image[None].float(), words.embeddings, words.query_to_class)
        expected = model.answer(model.encode([image]), 0, (70, 110), words)
    given = dict(zip(graph.outputs, found, strict=True))
    assert (given["labels"] == expected.labels).float().mean() > ALIKE
    torch.testing.assert_close(given["scores"], expected.scores, atol=1e-5, rtol=0)


def test_a_graph_of_windows_leaves_nothing_behind_that_changes_the_model() -> None:
    """What one capture keeps has no values; a model that took it up answered anything, silently."""
    block = SwinBlock(8, 0, (4, 4), heads=2, side=2, shift=1, ratio=2).eval()
    maps = torch.randn(3, 16, 8)
    with torch.no_grad():
        program = torch.export.export(block, (maps, None), strict=False)
        fresh = SwinBlock(8, 0, (4, 4), heads=2, side=2, shift=1, ratio=2).eval()
        fresh.load_state_dict(block.state_dict())
        torch.testing.assert_close(fresh(maps, None), program.module()(maps, None))
