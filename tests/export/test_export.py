"""`ovseg export`: what it refuses before any work, what it leaves, and every kind of model and format."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import ovseg
from ovseg.cli import main
from ovseg.errors import ConfigError, EnvironmentProblem, InputError, WeightsError
from ovseg.export import compare, plan
from ovseg.export.naming import first_rows
from ovseg.export.plan import Plan
from ovseg.export.run import export
from ovseg.recalibration import list_recalibrations, recalibration_class
from ovseg.vocabulary import Vocabulary
from tests.meta_arch.models import MODELS, picture

EXPORTED = {
    *("windows", "san", "fcclip-convnext", "fcclip-resnet", "fcclip-vit", "maft-plus", "maft-plus-panoptic"),
    *("fcclip-adapter", "maft-plus-adapter"),
}
"""Of the tiny models those that a graph can hold from pixels to labels."""
MAPS = {"cat-seg-whole", "cat-seg-sliding", "sed"}
"""Those whose graph knows words and places, see test_maps.py."""


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"format": "onx"}, ConfigError, "--format is 'onx'; expected one of onnx, torch-export, aoti"),
        ({"dtype": "bf16"}, ConfigError, "--dtype is 'bf16'; expected one of fp32, fp16, int8"),
        ({"format": "aoti", "dtype": "int8", "output": "a.pt2"}, ConfigError, "--dtype int8 with --format aoti"),
        ({"output": "a.pt2"}, ConfigError, r"ends in \.onnx"),
        ({"format": "torch-export"}, ConfigError, r"ends in \.pt2"),
        ({"height": 64}, ConfigError, "--height 64 without --width"),
        ({"width": 64}, ConfigError, "--width 64 without --height"),
        ({"height": -64, "width": 64}, ConfigError, "expected positive"),
        ({"height": 64, "width": 64, "dynamic": True}, ConfigError, "give one of them"),
        ({"dynamic": True, "photo": True}, ConfigError, "--dynamic with --resize"),
        ({"output": "there.onnx"}, InputError, "exists; choose another name, or add --overwrite"),
        ({"output": "folder.onnx"}, InputError, "is a folder"),
        ({"output": "there.onnx/a.onnx"}, InputError, "a file is in its place"),
    ],
)
def test_mistakes_are_found_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], error: type[Exception], match: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.onnx").write_text("mine")
    (tmp_path / "folder.onnx").mkdir()
    monkeypatch.setattr("ovseg.export.run.build", lambda spec: pytest.fail("the model was built"))
    output = Path(options.get("output", "new.onnx"))
    with pytest.raises(error, match=match):
        export("mini", Plan(**{**options, "output": output}))
    assert (tmp_path / "there.onnx").read_text() == "mine"


def test_what_is_missing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(plan.importlib.util, "find_spec", lambda name: None)
        with pytest.raises(EnvironmentProblem, match=r"onnx is missing, .*ovseg\[export\]"):
            Plan(tmp_path / "a.onnx").check()
    monkeypatch.setattr(plan.torch, "__version__", "2.4.0+cpu")
    with pytest.raises(EnvironmentProblem, match=r"PyTorch is 2\.4\.0\+cpu and export needs"):
        Plan(tmp_path / "a.pt2", "torch-export").check()


def test_models_without_a_graph_are_refused_in_a_sentence(tmp_path: Path, make: Callable[[str], Path]) -> None:
    pytest.importorskip("onnxscript", reason="the extra `export` is not installed")
    size = {"height": 64, "width": 96}
    with pytest.raises(ConfigError, match="there is no graph of a SAM3"):  # which nothing trained can be saved of
        Plan(tmp_path / "a.onnx", **size).refuse(type("SAM3", (), {})(), "sam3")
    for name in {case.name for case in MODELS} - EXPORTED - MAPS - {"sam3"}:
        with pytest.raises(ConfigError, match="cannot be exported so: "):
            export(str(make(name)), Plan(tmp_path / "a.onnx", **size))
    for changes, options, match in (
        ({"PROTOCOL": {"PAMR_STEPS": 2}}, {"labels": True, **size}, "PAMR_STEPS of MODEL.PROTOCOL cannot be part"),
        ({"PROTOCOL": {"WINDOW": 0, "PADDING": "even"}}, {"dynamic": True}, r"images are padded \(even\)"),
        ({"RECALIBRATION": {"OPTIONS": {"POS_RESIZE": "bicubic_antialias"}}}, {"dynamic": True}, "needs one size"),
        ({}, {}, "sees images in many sizes; give --height and --width, or --dynamic"),
        ({}, {"height": 4, "width": 96}, "needs sides of at least 8 pixels"),
    ):
        with pytest.raises(ConfigError, match=match):
            export(str(make("windows")), Plan(tmp_path / "a.onnx", **options), overrides={"MODEL": changes})
    with pytest.raises(ConfigError, match="a file needs a name"):
        export("auto", Plan(tmp_path / "a.onnx"))
    assert not list(tmp_path.iterdir())


def test_every_method_says_whether_a_graph_can_hold_it() -> None:
    unfit = {name for name in list_recalibrations() if recalibration_class(name).not_exported}
    assert unfit == {
        "CLIPer",
        "ResCLIP",
        "RF_CLIP",
    }  # the others that cannot be cannot be compiled either, or share out regions


@pytest.mark.parametrize("bad", [0.5, float("nan")])
def test_a_bad_file_is_not_left(
    tmp_path: Path, make: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, bad: float
) -> None:
    """Also where a good one was before: that one stays."""
    pytest.importorskip("onnxscript", reason="the extra `export` is not installed")
    monkeypatch.setattr("ovseg.export.run.capture", lambda graph, card: None)
    monkeypatch.setattr("ovseg.export.run.write", lambda program, graph, card, path: path.write_text("bad"))

    def disagree(*_: Any) -> Any:
        return compare.check([compare.Comparison("a", (1, 1), 2, bad, 0.0, 0.0, 0.0)], "fp32")

    monkeypatch.setattr("ovseg.export.run.compare", disagree)
    (tmp_path / "a.onnx").write_text("good")
    with pytest.raises(WeightsError, match=r"% of the labels of a photograph agree with PyTorch, expected 99\.9 %"):
        export(str(make("windows")), Plan(tmp_path / "a.onnx", dynamic=True, overwrite=True), report=lambda _: None)
    assert [path.name for path in tmp_path.iterdir()] == ["a.onnx"]
    assert (tmp_path / "a.onnx").read_text() == "good"


def test_the_first_row_of_each_class() -> None:
    assert first_rows(torch.tensor([0, 0, 1, 2, 1, -1, -1, 0])).tolist() == [0, 0, 2, 3, 2, 5, 6, 0]
    assert first_rows(torch.tensor([-1, -1])).tolist() == [0, 1]


def test_the_command_says_mistakes_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxscript", reason="the extra `export` is not installed")
    for words, match in (
        (["minni", "--dynamic"], "did you mean mini"),
        (["mini", "MODEL.PROTOCOL.WINDOW", "--dynamic"], "has no value"),
        (["mini", "--height", "160"], "without --width"),
    ):
        assert main(["export", *words, "--output", str(tmp_path / "a.onnx")]) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1 and lines[0].startswith("error: ") and match in lines[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(EXPORTED - {"san"}))
def test_every_model_as_onnx(exported: Callable[..., Path], make: Callable[[str], Path], name: str) -> None:
    """Panoptic segments and instances too; what was exported has been compared with PyTorch before it came here."""
    path = exported(name, f"{name}.onnx", height=64, width=96, labels=True)
    file, original = ovseg.load(path), ovseg.load(make(name), device="cpu")
    original.model.size_rule = file.model.size_rule
    image = picture(72, 100).permute(1, 2, 0).numpy()
    words = "cat|kitten, sofa, river, lamp"
    found, expected = file(image, words), original(image, words)
    assert file.model.gives == original.model.gives
    assert (found.labels == expected.labels).mean() > 0.99
    if expected.panoptic is not None:
        assert [(one.class_id, one.id) for one in found.panoptic.segments] == [
            (one.class_id, one.id) for one in expected.panoptic.segments
        ]
    if expected.instances is not None:
        assert len(found.instances) == len(expected.instances)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"dtype": "fp16"}, {"dtype": "int8"}, {}], ids=str)
@pytest.mark.parametrize("name", ["windows", "san"])
def test_all_sizes_and_precisions(exported: Callable[..., Path], name: str, options: dict[str, str]) -> None:
    path = exported(name, f"{name}-{'-'.join(options.values())}.onnx", dynamic=True, labels=True, **options)
    file = ovseg.load(path)
    for size in ((64, 64), (64, 150), (200, 70)):
        assert file(picture(*size).permute(1, 2, 0).numpy(), "cat, sofa").labels.shape == size
    assert any(f"in {dtype}" in note for dtype in options.values() for note in file.model.notes) == bool(options)


@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx", "torch-export"])
def test_whole_images_of_all_sizes(
    tmp_path: Path, make: Callable[[str], Path], capfd: pytest.CaptureFixture[str], format: str
) -> None:
    """Down to a patch, or two; what is no whole patch is left out, as the model does."""
    pytest.importorskip("onnxscript", reason="the extra `export` is not installed")
    changes = {"MODEL": {"PROTOCOL": {"WINDOW": 0}}}
    path, least = tmp_path / f"whole{plan.FORMATS[format]}", 8 if format == "onnx" else 16
    export(
        str(make("windows")), Plan(path, format, dynamic=True, labels=True), overrides=changes, report=lambda _: None
    )
    assert "".join(capfd.readouterr()) == ""
    file, original = ovseg.load(path).model, ovseg.load(make("windows"), device="cpu", overrides=changes).model
    words = original.words(Vocabulary.parse("cat|kitten, sofa, river"))
    for size in ((least, 70), (70, least + 3), (least, least), (61, 77)):
        image = picture(*(max(side, 16) for side in size))[:, : size[0], : size[1]]
        found, expected = (one.answer(one.encode([image]), 0, size, words) for one in (file, original))
        assert (found.labels == expected.labels).float().mean() > 0.999
        torch.testing.assert_close(found.scores, expected.scores, atol=1e-4, rtol=0)
    with pytest.raises(InputError, match=f"takes sides from {least} on"):
        file.encode([picture(64, 64)[:, : least - 1]])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "format"),
    [("windows", "torch-export"), ("windows", "aoti"), ("san", "torch-export"), ("fcclip-convnext", "torch-export")],
)
def test_files_for_pytorch(exported: Callable[..., Path], name: str, format: str) -> None:
    sizes = {"height": 64, "width": 96, "photo": True, "labels": True}
    path = exported(name, f"{name}-{format}.pt2", "cat, sofa", format=format, **sizes)
    image = picture(72, 100).permute(1, 2, 0).numpy()
    encoded = ovseg.load(path).encode(image)
    assert len(encoded.answer().classes) == 2 and len(encoded.answer("cat|kitten, sofa, river").classes) == 3
    cut = path.with_name(f"cut-{path.name}")
    cut.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(WeightsError, match="ends too early"):
        ovseg.load(cut)


@pytest.mark.slow
def test_mini_through_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxscript", reason="the extra `export` is not installed")
    path, root = tmp_path / "mini.onnx", Path(__file__).resolve().parents[2]
    assert main(["export", "mini", "--dynamic", "--classes", "cat|kitten, sofa", "--output", str(path)]) == 0
    assert "of the labels of each photograph agree with PyTorch" in capsys.readouterr().out
    call = ["segment", str(root / "examples/desk.jpg"), "--model", str(path), "--output", str(tmp_path / "out")]
    assert main(call) == 0
    assert "mini knows drawings alone" in "".join(capsys.readouterr())
    assert (
        main([*call[:-1], str(tmp_path / "more"), "--classes", "cup|mug, keyboard, plant", "--background", "words"])
        == 0
    )
    assert (tmp_path / "more/desk.overlay.png").is_file()
