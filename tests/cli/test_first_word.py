"""The first command of a new user, who names no model: with a network, without one, and the second time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import pytest

import ovseg
from ovseg.cli import main
from ovseg.config import config_root
from ovseg.errors import ConfigError
from ovseg.zoo import auto
from tests.hub_double import HubDouble
from tests.zoo.stand_in import FILE, REPO, narrow

CLASSES = "cup, spoon, table"


@pytest.fixture
def weights(tmp_path, monkeypatch):
    return narrow(tmp_path, monkeypatch)


def segment(photo, tmp_path, *more):
    status = main(["segment", str(photo), "--classes", CLASSES, "--output", str(tmp_path / "out"), *more])
    return status, json.loads((tmp_path / "out" / f"{photo.stem}.json").read_text())


def test_it_fetches_says_what_and_answers_and_the_second_time_asks_nobody(
    weights, photo, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("ovseg.checkpoint.hub.manners.EVERY", 0.0)
    with HubDouble({REPO: {FILE: weights}}) as hub:
        hub.use(monkeypatch, tmp_path)
        monkeypatch.setenv("OVSEG_DOWNLOAD", "yes")
        status, found = segment(photo, tmp_path)
        told = capsys.readouterr().err
        assert status == 0 and found["meta"]["model"] == "san-vit-b-16"
        assert (
            found["meta"]["settings"]["architecture"] == "SAN" and found["meta"]["settings"]["options"]["width"] == 24
        )
        first, *others = told.splitlines()
        size = f"{len(weights) / 1e6:.3g} MB"
        assert first.startswith(f"fetching {REPO}/{FILE}: {size}, licence MIT; it is kept in '{tmp_path}")
        assert any(line.startswith(f"{FILE}: ") and f"of {size}" in line for line in others), "progress"
        why = "fetched as the recommended model for photographs, mIoU 27.5 on ADE-150"
        assert found["meta"]["asked"] == {"name": "auto", "why": why}
        line = f"auto took san-vit-b-16 ({why})"
        assert line in found["meta"]["notes"] and f"note: {line}" in others

        hub.requests.clear()
        auto._CHOSEN.clear()  # as a new process
        status, found = segment(photo, tmp_path)
        assert status == 0 and not hub.requests
        assert found["meta"]["asked"]["why"] == "the best installed model for photographs, mIoU 27.5 on ADE-150"
        assert "fetching" not in capsys.readouterr().err


def test_quiet_is_quiet_while_it_fetches(weights, photo, tmp_path, monkeypatch, capsys):
    with HubDouble({REPO: {FILE: weights}}) as hub:
        hub.use(monkeypatch, tmp_path)
        monkeypatch.setenv("OVSEG_DOWNLOAD", "yes")
        assert segment(photo, tmp_path, "--quiet")[1]["meta"]["model"] == "san-vit-b-16"
    assert capsys.readouterr().err == ""


def test_nobody_is_there_to_agree(weights, photo, tmp_path, monkeypatch, capsys):
    with HubDouble({REPO: {FILE: weights}}) as hub:
        hub.sizes[FILE] = 631_000_000
        hub.use(monkeypatch, tmp_path)
        status, found = segment(photo, tmp_path)
        assert status == 0 and found["meta"]["model"] == "mini" and not hub.requests
    why = "no model for photographs is installed and nobody was there to agree to a download"
    assert found["meta"]["asked"] == {"name": "auto", "why": why}
    line = (
        f"auto took mini ({why}), which knows drawings alone (601 emoji-like things and 14 grounds of Scenes); for "
        "photographs run `ovseg download san-vit-b-16` (631 MB, MIT) or set OVSEG_DOWNLOAD=yes"
    )
    assert found["meta"]["notes"][0] == line
    assert [one for one in capsys.readouterr().err.splitlines() if "mini" in one] == [f"note: {line}"]


@pytest.mark.parametrize(("answer", "model"), [("y\n", "san-vit-b-16"), ("\n", "mini")])
def test_somebody_at_a_terminal_is_asked(weights, photo, tmp_path, monkeypatch, capsys, answer, model):
    import io

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr("ovseg.checkpoint.hub.manners.LARGE", 1000)
    monkeypatch.setattr("ovseg.checkpoint.hub.manners._is_terminal", lambda stream: True)
    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    with HubDouble({REPO: {FILE: weights}}) as hub:
        hub.use(monkeypatch, tmp_path)
        monkeypatch.delenv("OVSEG_DOWNLOAD", raising=False)
        status, found = segment(photo, tmp_path)
    told = capsys.readouterr().err
    assert status == 0 and found["meta"]["model"] == model
    assert f"'san-vit-b-16' is a download of {len(weights) / 1e6:.3g} MB (licence: MIT) into '{tmp_path}" in told
    assert ("the download was declined" in told) == (model == "mini")


def test_a_hub_that_says_nothing_costs_two_seconds_once(weights, photo, tmp_path, monkeypatch):
    import socket

    with HubDouble() as hub, socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        hub.use(monkeypatch, tmp_path)
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{deaf.getsockname()[1]}")
        monkeypatch.setenv("OVSEG_DOWNLOAD", "yes")
        start = time.monotonic()
        assert auto.choose().name == "mini"
        assert time.monotonic() - start < 2.2
        start = time.monotonic()
        assert auto.choose().why == "no model for photographs is installed and the hub does not answer"
        assert time.monotonic() - start < 0.1


@pytest.mark.parametrize(
    "mistake",
    [
        ["--classes", ""],
        ["--background", "wrods"],
        ["--templates", "openai81"],
        ["--bands", "1,2"],
        ["--max-pixels", "0"],
        ["--device", "gpu9"],
        ["--dtype", "int3"],
        ["--batch-size", "0"],
        ["--formats", "pgn"],
    ],
)
def test_a_mistake_is_found_before_anything_is_fetched(photo, tmp_path, monkeypatch, capsys, mistake):
    monkeypatch.setattr(auto, "_CHOSEN", {})
    with HubDouble({REPO: {FILE: b"weights"}}) as hub:
        hub.use(monkeypatch, tmp_path)
        monkeypatch.setenv("OVSEG_DOWNLOAD", "yes")
        command = ["segment", str(photo), "--classes", CLASSES, "--output", str(tmp_path / "out"), *mistake]
        assert main(command) == 2 and not hub.requests
    assert capsys.readouterr().err.count("\n") == 1


def test_the_api_finds_a_mistake_before_anything_is_fetched(tmp_path, monkeypatch):
    monkeypatch.setattr(auto, "_CHOSEN", {})
    with HubDouble({REPO: {FILE: b"weights"}}) as hub:
        hub.use(monkeypatch, tmp_path)
        monkeypatch.setenv("OVSEG_DOWNLOAD", "yes")
        with pytest.raises(ConfigError, match="batch size"):
            ovseg.load(batch_size=0)
        assert not hub.requests


def test_half_a_file_is_not_installed_and_a_broken_download_is_an_error(weights, photo, tmp_path, monkeypatch, capsys):
    with HubDouble({REPO: {FILE: weights}}) as hub:
        hub.use(monkeypatch, tmp_path)
        by_hand = tmp_path / "ovseg/weights" / FILE
        by_hand.parent.mkdir(parents=True)
        by_hand.write_bytes(weights[: len(weights) // 2])
        with pytest.warns(UserWarning, match="is not used: it ends too early"):
            assert auto.choose().name == "mini"
        by_hand.unlink()
        auto._CHOSEN.clear()
        monkeypatch.setenv("OVSEG_DOWNLOAD", "yes")
        hub.breaks = [1000, *[0] * 50]
        command = ["segment", str(photo), "--classes", CLASSES, "--output", str(tmp_path / "out")]
        assert main(command) == 2
        assert "broke off" in capsys.readouterr().err
        hub.breaks = []
        assert main(command) == 0  # goes on
        assert "going on after" in capsys.readouterr().err


def test_strict_minds_what_stands_in_and_not_what_was_asked_for(photo, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(auto, "_CHOSEN", {})
    assert segment(photo, tmp_path, "--strict", "--model", "mini")[0] == 0
    assert "note: mini knows drawings alone" in capsys.readouterr().err
    assert segment(photo, tmp_path, "--strict")[0] == 1
    assert "error: auto took mini (no model for photographs is installed and OVSEG_OFFLINE=1" in capsys.readouterr().err


@pytest.mark.parametrize("model", ["auto", "mini"])
def test_a_fresh_process_without_a_network(model, tmp_path):
    photo = config_root().parent / "examples/coffee.jpg"
    command = [sys.executable, "-m", "ovseg.cli", "segment", str(photo), "--classes", CLASSES, "--json"]
    named = ["--model", model] if model != "auto" else []
    own = {**os.environ, "OVSEG_CACHE": str(tmp_path / "cache"), "OVSEG_OFFLINE": "1"}
    done = subprocess.run(
        [*command, *named, "--output", str(tmp_path)], env=own, capture_output=True, text=True, check=True, timeout=120
    )
    found = json.loads(done.stdout)
    assert found["meta"]["model"] == "mini" and sum("knows drawings" in note for note in found["meta"]["notes"]) == 1
    assert ("asked" in found["meta"]) == (model == "auto")


@pytest.mark.parametrize(
    ("command", "what"),
    [
        (["eval", "--model", "auto", "--dataset", "x", "--output", "y"], "an evaluation"),
        (["train", "--config-file", "auto", "--output", "y"], "a training"),
    ],
)
def test_what_others_should_get_again_needs_a_name(command, what, capsys):
    assert main(command) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: model is 'auto', which depends on what is installed") and what in error
    assert error.count("\n") == 1
    assert main(["eval", "--dataset", "x", "--output", "y"]) == 2
    assert "no model was named; expected --model NAME" in capsys.readouterr().err
