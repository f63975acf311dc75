"""What is kept: where, with which record, how it is listed and removed; and sources that lead nowhere."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save

from ovseg.checkpoint.hub import Source, fetch, fetch_repository, local, local_repository, remove, stored
from ovseg.checkpoint.hub.source import endpoint
from ovseg.errors import InputError, WeightsError
from tests.hub_double import HubDouble, sha256

REPO, FILE = "authors/model", "model.safetensors"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with HubDouble({REPO: {FILE: b"weights", "config.json": b"{}"}, "other/one": {FILE: b"more"}}) as double:
        double.use(monkeypatch, tmp_path)
        yield double


def weights(tmp_path: Path) -> Path:
    return tmp_path / "ovseg/weights"


def test_nothing_is_kept_at_first(hub, tmp_path):
    assert stored() == [] and not weights(tmp_path).exists()


def test_listed_and_removed(hub, tmp_path):
    first, second = fetch(Source(REPO, FILE)), fetch(Source("other/one", FILE))
    by_hand = weights(tmp_path) / "maftp_b.pth"
    by_hand.write_bytes(b"by hand")
    assert [(one.path, one.bytes, one.sha256) for one in stored()] == [
        (first, 7, sha256(b"weights")),
        (second, 4, sha256(b"more")),
        (by_hand, 7, ""),
    ]
    assert stored()[2].source is None and stored()[0].source == Source(REPO, FILE)
    assert remove(first) == 7 and not first.exists()
    assert [path.name for path in (weights(tmp_path) / "hub").iterdir()] == ["other"]  # nothing of it is left
    assert remove(by_hand) == 7 and [one.path for one in stored()] == [second]
    assert remove(weights(tmp_path) / "hub/other") > 4 and stored() == []
    assert fetch(Source(REPO, FILE)) == first


def test_a_repository_of_which_a_file_was_removed_is_not_whole(hub):
    folder = fetch_repository(REPO)
    assert local_repository(REPO) == folder
    remove(folder / "config.json")
    assert local_repository(REPO) is None and [one.path.name for one in stored()] == [FILE]
    hub.requests.clear()
    assert fetch_repository(REPO) == folder and not [path for path in hub.asked() if FILE in path]


def test_nothing_else_is_removed(hub, tmp_path):
    fetch(Source(REPO, FILE))
    outside = tmp_path / "mine.pth"
    outside.write_bytes(b"mine")
    link = weights(tmp_path) / "link.pth"
    link.symlink_to(outside)
    for path in (outside, weights(tmp_path) / "../../mine.pth", weights(tmp_path) / "nothing.pth", tmp_path):
        with pytest.raises(InputError, match="is not in the folder of weights"):
            remove(path)
    remove(link)
    assert outside.read_bytes() == b"mine" and not link.is_symlink()


def test_parts_are_listed_and_removed(hub):
    hub.breaks = [3, 0, 0, 0, 0]
    with pytest.raises(WeightsError, match="broke off"):
        fetch(Source(REPO, FILE))
    (part,) = stored()
    assert not part.complete and part.bytes == 3 and part.source is None
    remove(part.path)
    assert stored() == []


def test_revisions_and_hosts_lie_apart(monkeypatch):
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    one = Source(REPO, "a/b c.bin", "refs/pr/1")
    assert str(one.path) == "hub/authors/model/refs%2Fpr%2F1/a/b c.bin"
    assert one.address == "https://huggingface.co/authors/model/resolve/refs%2Fpr%2F1/a/b%20c.bin"
    assert str(one) == "authors/model@refs/pr/1/a/b c.bin"
    url = Source(url="https://x.org:8080/a/b.pt?download=1")
    assert str(url.path) == "url/x.org_8080/a/b.pt" and url.address.endswith("?download=1")
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.org/hub/")
    assert endpoint() == "https://mirror.org/hub" and Source(REPO, FILE).address.startswith("https://mirror.org/hub/a")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"repo": REPO},
        {"repo": REPO, "file": FILE, "url": "https://x.org/a"},
        {"repo": "a/b/c", "file": FILE},
        {"repo": "../x", "file": FILE},
        {"repo": REPO, "file": "../../x"},
        {"repo": REPO, "file": "/etc/x"},
        {"repo": REPO, "file": "a\\..\\x"},
        {"repo": REPO, "file": "C:x"},
        {"repo": REPO, "file": FILE, "revision": ".."},
        {"repo": REPO, "file": FILE, "revision": ""},
        {"url": "file:///etc/passwd"},
        {"url": "ftp://x.org/a"},
        {"url": "https://x.org/a/../../../b"},
        {"url": "https://x.org/a", "file": "../b"},
        {"repo": REPO, "file": FILE, "sha256": "abc"},
    ],
)
def test_sources_that_lead_nowhere_or_out_of_the_folder(options):
    with pytest.raises(WeightsError) as caught:
        Source(**options)
    assert "\n" not in str(caught.value)


@given(st.text(max_size=12), st.text(max_size=12))
def test_no_name_leads_out_of_the_folder(file, revision):
    try:
        path = Source(REPO, file, revision).path
    except WeightsError:
        return
    folder = Path("/weights")
    assert (folder / path).resolve().is_relative_to(folder / "hub/authors/model")


def test_a_file_put_there_by_hand_may_be_replaced_by_hand(tmp_path, monkeypatch):
    """It was half copied when it was first looked for; the record of then must not stand against the whole one."""
    monkeypatch.setenv("OVSEG_CACHE", str(tmp_path))
    whole = save({"a": np.zeros((100, 100), np.float32)})
    source = Source(REPO, FILE)
    place = tmp_path / "weights" / source.path
    place.parent.mkdir(parents=True)
    place.write_bytes(whole[:2000])
    with pytest.warns(UserWarning, match="is not used: it ends too early, as after a copy"):
        assert local(source) is None
    for time, data in ((1, whole), (2, save({"a": np.ones((100, 100), np.float32)}))):
        place.write_bytes(data)
        os.utime(place, (time, time))
        assert local(source) == place
        (one,) = stored()
        assert (one.sha256, one.when) == (sha256(data), "")
    with pytest.warns(UserWarning, match="expected 0123456789"):
        assert local(Source(REPO, FILE, sha256="0123456789")) is None


def test_the_day_of_a_download_stays_when_a_file_is_touched(hub):
    path = fetch(Source(REPO, FILE))
    record = path.with_name(f".{FILE}.json")
    record.write_text(record.read_text().replace(stored()[0].when, "2020-02-02T02:02:02+00:00"))
    os.utime(path)
    assert local(Source(REPO, FILE)) == path and stored()[0].when == "2020-02-02T02:02:02+00:00"


def test_half_a_file_of_others_is_not_used(hub, tmp_path, monkeypatch):
    """open_clip writes into its files while it fetches them."""
    monkeypatch.setenv("HOME", str(tmp_path))
    theirs = tmp_path / ".cache/clip/tiny.pt"
    theirs.parent.mkdir(parents=True)
    theirs.write_bytes(b"PK half of an archive")
    with pytest.warns(UserWarning, match=r"tiny\.pt' is not used: it ends too early"):
        assert local(Source(url="https://x.org/tiny.pt")) is None


@pytest.mark.parametrize(
    "wrong", [{"when": None}, {"sha256": 5}, {"source": {"evil": 1}}, {"etag": []}, {"bytes": "x"}]
)
def test_a_record_that_is_damaged_is_written_anew(hub, wrong):
    path = fetch(Source(REPO, "config.json"))
    record = path.with_name(".config.json.json")
    record.write_text(json.dumps({**json.loads(record.read_text()), **wrong}))
    assert len(stored()) == 1 and local(Source(REPO, "config.json")) == path
    assert stored()[0].sha256 == sha256(b"{}") == json.loads(record.read_text())["sha256"]
