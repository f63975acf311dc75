"""What a training tells people and its log."""

from __future__ import annotations

import pytest

from ovseg.engine import hooks


def test_scores_of_a_data_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers that there are not are no mistake: of void ground truth, of a set that asks for prompts."""
    said: list[str] = []
    monkeypatch.setattr(hooks.log, "info", said.append)
    void = {"miou_present": None, "miou_all": None, "pixel_accuracy": None, "present": 0, "total": 3}
    whole = {"semantic": void, "panoptic": {"pq": 0.5, "present": 2}}
    hooks.report("a", whole)
    hooks.report("b", {"prompt": {"miou": 0.25}, "referring": {"overall_iou": None}})
    hooks.report("c", {})
    assert said == [
        "a: mIoU - over the 0 classes present, - over all 3; pixel accuracy -; PQ 50.00",
        "b: mIoU of prompts 25.00; oIoU -",
        "c: nothing was measured",
    ]
    assert hooks.flat(whole) == {"present": 0, "total": 3, "panoptic/pq": 0.5, "panoptic/present": 2}
