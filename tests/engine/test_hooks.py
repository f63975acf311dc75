"""What a training tells people and its log."""

from __future__ import annotations

from ovseg.engine.validation import Outcome


def test_scores_of_a_data_set() -> None:
    """Numbers that there are not are no mistake: of void ground truth, of a set that asks for prompts."""
    void = {"miou_present": None, "miou_all": None, "pixel_accuracy": None, "present": 0, "total": 3}
    whole = {"semantic": void, "panoptic": {"pq": 0.5, "present": 2}}
    assert Outcome(whole).line("a") == "a: mIoU - over the 0 classes present, - over all 3; pixel accuracy -; PQ 50.00"
    prompts = Outcome({"prompt": {"miou": 0.25}, "referring": {"overall_iou": None}})
    assert prompts.line("b") == "b: mIoU of prompts 25.00; oIoU -"
    assert Outcome({}).line("c") == "c: nothing was measured"
    assert Outcome(whole).flat() == {"present": 0, "total": 3, "panoptic/pq": 0.5, "panoptic/present": 2}


def test_what_a_number_is_not_of_stands_in_its_line() -> None:
    """Images that were left out, and images that were trained on."""
    failed = {f"{number}.jpg": "is damaged" for number in range(5)}
    found = Outcome({}, 7, failed, trained_on=3)
    assert found.line("a") == (
        "a: nothing was measured; 5 of 12 images left out: '0.jpg' (is damaged), '1.jpg' (is damaged), '2.jpg' (is "
        "damaged) and 2 more; 3 of its images were trained on: this is no measure of how new ones fare"
    )
    assert found.flat() == {"images_failed": 5, "images_trained_on": 3}
    assert Outcome(problem="no memory").line("a") == "a: validation failed, there is no number: no memory"
