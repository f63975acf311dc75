"""The fit of calibrations: counted, made monotone, written, and better on data that it has not seen."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ovseg
from ovseg.labelling.calibration import Calibration

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
from fit_calibration import Counts, fit, main, monotone

values = st.lists(st.tuples(st.floats(0, 1), st.floats(0.125, 8)), min_size=1, max_size=12)


@given(values)
def test_monotone_is_the_nearest_curve_that_never_falls(pairs):
    wanted, weights = np.array(pairs).T
    found = monotone(wanted, weights)
    assert (np.diff(found) >= 0).all()
    assert np.average(found, weights=weights) == pytest.approx(np.average(wanted, weights=weights))

    def far(curve):
        return (weights * (curve - wanted) ** 2).sum()

    rng = np.random.default_rng(0)
    for _ in range(20):  # no other such curve is nearer
        assert far(found) <= far(np.sort(found + rng.normal(0, 0.1, len(found)))) + 1e-9


def test_the_share_that_is_right_is_found_again():
    rng = np.random.default_rng(0)
    easy, hard = Counts(), Counts()
    scores = rng.uniform(0, 4, 400_000).astype(np.float32)
    easy.add(scores, rng.uniform(size=len(scores)) < scores / 4)
    hard.add(scores, rng.uniform(size=len(scores)) < scores / 8)
    at, curves = fit([easy, hard])
    np.testing.assert_allclose(curves[0], np.array(at) / 4, atol=0.02)
    np.testing.assert_allclose(curves[1], np.array(at) / 8, atol=0.02)
    guess = Counts()
    guess.add(scores, rng.uniform(size=len(scores)) < 0.5)
    (nothing, *flat) = fit([guess])[1][0]
    assert nothing == 0 and (np.diff(flat) > 0).all() and max(flat) - min(flat) < 0.05


def test_order_changes_nothing():
    rng = np.random.default_rng(0)
    scores, right = rng.uniform(0, 1, 5000), rng.uniform(size=5000) < 0.5
    one, other = Counts(), Counts()
    one.add(scores, right)
    for part in np.array_split(rng.permutation(5000), 7):
        other.add(scores[part], right[part])
    assert fit([one]) == fit([other])


def test_a_model_is_fitted_and_takes_what_lies_beside_its_weights(own_data, tiny_clip, tmp_path, photo, capsys):
    import shutil

    folder = tmp_path / "model"
    shutil.copytree(tiny_clip, folder)
    before = ovseg.load(folder, "cpu")(photo, "glorp, blix")
    command = ["--model", str(folder), "--data", str(own_data), "--check", str(own_data), "--words", "2"]
    assert main([*command, "--output", str(folder / "own.calibration.json")]) == 0
    said = capsys.readouterr().out
    assert "fitted on" in said and "2 words: ECE" in said
    segmenter = ovseg.load(folder, "cpu")
    after = segmenter(photo, "glorp, blix")
    fitted = Calibration.read(folder / "own.calibration.json")
    assert after.meta["settings"]["calibration"] == fitted.hash and "calibration" not in before.meta["settings"]
    np.testing.assert_array_equal(after.labels, before.labels)
    own = np.interp(before.scores, fitted.scores, fitted.curve(2))
    np.testing.assert_allclose(after.scores, own, atol=1e-5)
    changed = ovseg.load(folder, "cpu", overrides={"MODEL": {"PROTOCOL": {"SHORT_SIDE": 48}}})
    notes = changed.words("glorp, blix").notes
    assert notes == ("scores are the model's own: its calibration was fitted with another size_rule.short_side",)
    assert "calibration" not in changed.model.settings


def test_mistakes(own_data, tiny_clip, tmp_path, capsys):
    command = ["--model", str(tiny_clip), "--data", str(own_data)]
    assert main([*command, "--output", str(tmp_path / "x.json")]) == 2
    assert "expected a name that ends in .calibration.json" in capsys.readouterr().err
    for words in ("3", "a", "-1"):
        assert main([*command, "--words", words, "--output", str(tmp_path / "x.calibration.json")]) == 2
        assert "expected numbers" in capsys.readouterr().err


def test_mistakes_are_found_before_the_fit(own_data, tiny_clip, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("fit_calibration.fitted", lambda *given: pytest.fail("fitted"))
    command = ["--model", str(tiny_clip), "--data", str(own_data), "--words", "2"]
    (tmp_path / "file").write_text("")
    for more, said in (
        (["--check", str(tmp_path / "nowhere")], "nowhere"),
        (["--images", "-3"], "--images is -3; expected at least 0"),
        (["--output", str(tmp_path / "file/x.calibration.json")], "a file is in its place"),
    ):
        assert main([*command, "--output", str(tmp_path / "x.calibration.json"), *more]) == 2
        assert said in capsys.readouterr().err
