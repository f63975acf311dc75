"""The golden checks: our code passes them, and they can fail."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden"
CASES = sorted(GOLDEN.rglob("*.json"))


@pytest.fixture(scope="module")
def tool():
    if "check_golden" not in sys.modules:
        spec = importlib.util.spec_from_file_location("check_golden", ROOT / "tools" / "check_golden.py")
        sys.modules["check_golden"] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules["check_golden"]


@pytest.fixture
def case(tmp_path):
    """A copy of a small case that a test may spoil: its json and its tensors."""
    source = GOLDEN / "pamr" / "batch2_prob.json"
    folder = tmp_path / "pamr"
    folder.mkdir()
    (folder / source.name).write_text(source.read_text())
    tensors = load_file(source.with_suffix(".safetensors"))
    save_file(tensors, folder / "batch2_prob.safetensors")
    return folder / source.name, tensors


@pytest.mark.parametrize("path", CASES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_parity(tool, path):
    report = tool.check_case(path)
    assert report.status == "PASS", report.remark


def test_the_folder_stays_small():
    for method in GOLDEN.iterdir():
        assert sum(path.stat().st_size for path in method.rglob("*")) < 3_000_000, method


def test_pass_line_and_exit_status(tool, case, capsys):
    assert tool.main([str(case[0].parent.parent), "--require", "pamr"]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first.startswith("PASS pamr/batch2_prob max_abs=")
    assert first.endswith("(2 outputs, 2 intermediates)")


@pytest.mark.parametrize(
    ("change", "remark"),
    [
        (lambda t: t["output.refined"].add_(1e-3), "worst output.refined: max_abs=1.0e-03 is"),
        (lambda t: t["intermediate.affinity"].mul_(1.01), "worst intermediate.affinity"),
        (lambda t: t["input.image"].fill_(float("nan")), "not finite"),
        (lambda t: t.update({"output.extra": torch.zeros(1)}), "not returned: output.extra"),
        (
            lambda t: t.update({"output.refined": torch.zeros(1)}),
            "worst output.refined: shape (2, 3, 33, 41), expected (1,)",
        ),
        (
            lambda t: t.update({"output.refined": t["output.refined"].int()}),
            "worst output.refined: torch.float32, expected torch.int32",
        ),
        (lambda t: t.pop("input.mask"), "KeyError: 'mask'"),
    ],
)
def test_a_spoilt_case_fails(tool, case, capsys, change, remark):
    path, tensors = case
    change(tensors)
    save_file(tensors, path.with_suffix(".safetensors"))
    assert tool.main([str(path)]) == 1
    line = capsys.readouterr().out.splitlines()[0]
    assert line.startswith("FAIL pamr/batch2_prob")
    assert remark in line


def test_what_a_case_leaves_out_is_not_compared(tool, case, capsys):
    path, tensors = case
    del tensors["output.after_1_iter"], tensors["intermediate.affinity"]
    save_file(tensors, path.with_suffix(".safetensors"))
    assert tool.main([str(path)]) == 0
    line = capsys.readouterr().out.splitlines()[0]
    assert line.endswith("(1 outputs, 1 intermediates, 2 more that the case does not hold)")


FROM_BOXES = {"native_text_only"}
"""Cases of SAM 3 whose state dict lacks a weight, the references of its decoder, which only their boxes tell."""


@pytest.mark.parametrize("path", CASES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_runner_copes_with_a_single_output(tool, path):
    case = tool.read_case(path)
    outputs = [key for key in sorted(case.tensors) if key.startswith("output.")]
    kept = "output.pred_boxes" if path.stem in FROM_BOXES else outputs[len(outputs) // 2]
    tensors = {k: v for k, v in case.tensors.items() if k == kept or not k.startswith(("output.", "intermediate."))}
    one = replace(case, tensors=tensors)
    with torch.no_grad():
        report = tool.compare(one, tool.find_runner(case.method)(one))
    assert report.status == "PASS", report.remark


def test_label_maps_may_differ_by_ties(tool):
    wanted = torch.zeros(1000, dtype=torch.int32)
    got = wanted.clone()
    got[:2] = 1
    assert tool.distance(got, wanted, 0, 0)[0] <= 1
    got[2] = 1
    assert tool.distance(got, wanted, 0, 0)[0] > 1


def test_skips(tool, case, capsys):
    path, _ = case
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "method": "no_such_method"}))
    assert tool.main([str(path)]) == 0
    assert "SKIP no_such_method/batch2_prob no runner" in capsys.readouterr().out
    assert tool.main([str(path), "--require", "no_such_method"]) == 1
    assert "is required but was skipped" in capsys.readouterr().out
    assert tool.main([str(path), "--require", "pamr"]) == 1
    assert "pamr is required but has no case here" in capsys.readouterr().out


def test_mistakes_of_the_caller(tool, tmp_path, case, capsys):
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "empty").mkdir()
    for name in ("nothing", "notes.txt", "empty"):
        assert tool.main([str(tmp_path / name)]) == 2
        assert capsys.readouterr().err.startswith("error: ")
    path, _ = case
    path.with_suffix(".safetensors").write_bytes(b"short")
    assert tool.main([str(path)]) == 1
    assert "cannot be read" in capsys.readouterr().out
    path.with_suffix(".safetensors").unlink()
    assert tool.main([str(path)]) == 1
    assert "has no batch2_prob.safetensors beside it" in capsys.readouterr().out
    path.write_text('{"a": 1}')
    assert tool.main([str(path)]) == 1
    assert "is no golden case" in capsys.readouterr().out
    path.write_text("{")
    assert tool.main([str(path)]) == 1
    assert "cannot be read as json" in capsys.readouterr().out
