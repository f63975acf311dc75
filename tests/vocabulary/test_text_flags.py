"""Text engineering from the command line and from a config down to the results."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import ovseg
from ovseg.cli import main

WORDS = "cat|kitten, dog, motorbike"


@pytest.fixture
def segment(tiny_clip, photo, tmp_path, capsys):
    """Run ``ovseg segment`` in this process; returns exit code, stderr and the report."""

    def run(*arguments, classes=WORDS):
        out = tmp_path / "out"
        words = ["segment", str(photo), "--classes", classes, "--model", str(tiny_clip), "--device", "cpu"]
        status = main([*words, "--templates", "vild14", "--output", str(out), *arguments])
        report = out / "photo.json"
        return status, capsys.readouterr().err, json.loads(report.read_text()) if status == 0 else report.exists()

    return run


@pytest.mark.parametrize(
    ("arguments", "recorded"),
    [
        ([], {}),
        (["--definitions", "definitions_voc20.json"], {"auxiliary": "definitions_voc20.json", "auxiliary_weight": 0.2}),
        (
            ["--definitions", "definitions_voc20.json", "--definition-weight", "0.1"],
            {"auxiliary": "definitions_voc20.json", "auxiliary_weight": 0.1},
        ),
        (
            ["--descriptions", "descriptions_voc20.json"],
            {"descriptions": "descriptions_voc20.json", "descriptions_with_templates": False},
        ),
        (
            ["--descriptions", "descriptions_voc20.json", "--descriptions-with-templates"],
            {"descriptions": "descriptions_voc20.json", "descriptions_with_templates": True},
        ),
        (["--subclasses", "subclasses_voc20.json"], {"subclasses": "subclasses_voc20.json"}),
        (["--autoclip"], {"autoclip": 0.85}),
        (["--autoclip", "0.5"], {"autoclip": 0.5}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_flags_reach_the_result(segment, arguments, recorded):
    status, stderr, report = segment(*arguments)
    assert status == 0 and stderr.splitlines() == [f"note: {note}" for note in report["meta"]["notes"]]
    text = report["meta"]["settings"]["text"]
    assert {key: value for key, value in text.items() if not key.endswith("_hash")} == recorded
    assert len(text) == len(recorded) + sum("json" in str(value) for value in recorded.values())


def test_classes_without_an_entry_are_noted(segment):
    _, _, report = segment("--definitions", "definitions_voc20.json", classes="cat, motorbikes, sky")
    (note,) = [note for note in report["meta"]["notes"] if "no entry" in note]
    assert "no entry for 'motorbikes', 'sky' (is 'motorbike' for 'motorbikes' meant?)" in note


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--definitions", "no.json"], "text file 'no.json' does not exist"),
        (["--definition-weight", "0.1"], "--definition-weight changes nothing without a file"),
        (["--descriptions-with-templates"], "give one by --descriptions FILE"),
        (["--autoclip", "2"], "autoclip is 2.0; expected a share between 0 and 1"),
        (["--autoclip", "--templates", "none"], "autoclip weighs templates but there is one"),
        (["--autoclip", "--descriptions", "descriptions_voc20.json"], "descriptions take their place"),
        (["--subclasses", "definitions_voc20.json", "--classes", "sky, sun"], "no entry for any class of 'sky', 'sun'"),
    ],
)
def test_mistakes_are_found_before_the_model_is_loaded(segment, monkeypatch, arguments, message):
    monkeypatch.setattr("ovseg.zoo.load", None)  # would fail when called
    status, stderr, written = segment(*arguments)
    assert status == 2 and not written
    assert stderr.startswith("error: ") and message in stderr and stderr.count("\n") == 1


@pytest.mark.parametrize("method", ["", "sclip/", "naclip/"])
def test_autoclip_weighs_for_each_image(tiny_clip: Path, photos: Path, pixels, method: str):
    text = {"AUTOCLIP": 0.5, "TEMPLATES": "vild14", "SUBCLASSES": "subclasses_voc20.json"}
    sources = [*sorted(photos.iterdir()), pixels]
    alone, together, plain = (
        ovseg.load(f"{method}{tiny_clip}", "cpu", batch_size=size, overrides={"MODEL": {"TEXT": changes}})(
            sources, WORDS
        )
        for size, changes in ((1, text), (4, text), (1, text | {"AUTOCLIP": 0.0}))
    )
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_allclose(one.scores, other.scores, atol=1e-4)
    assert max(np.abs(one.scores - other.scores).max() for one, other in zip(alone, plain, strict=True)) > 1e-4


LONG = "an old chair of red painted wood with a seat of straw and the back of it"


def test_long_names_are_cut_with_a_note_or_read_in_windows(segment):
    status, stderr, cut = segment(classes=f"{LONG}, dog")
    (note,) = [note for note in cut["meta"]["notes"] if "tokens" in note]
    assert (
        status == 0
        and stderr.count(note) == 1
        and "the rest of longer texts was cut" in note
        and "'an old chair" in note
    )
    status, stderr, whole = segment("--long-text", classes=f"{LONG}, dog")
    assert status == 0 and whole["meta"]["settings"]["text"] == {"long_text": True}
    assert any("were read in windows" in note for note in whole["meta"]["notes"])
    assert [one["score"] for one in cut["classes"]] != [one["score"] for one in whole["classes"]]


def test_long_names_that_become_one_are_refused(segment):
    status, stderr, written = segment(classes=f"{LONG} is green, {LONG} is blue")
    assert (status, written) == (2, False)
    assert stderr.startswith("error: class 0 ('an old chair") and "and class 1 ('an old chair" in stderr
    assert "become the same text" in stderr and "--long-text" in stderr and stderr.count("\n") == 1
    assert segment("--long-text", classes=f"{LONG} is green, {LONG} is blue")[0] == 0
