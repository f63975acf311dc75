"""The double of the hub is one for the hub's own client and for open_clip, too."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.hub_double import HubDouble

REPO = "authors/model"
FILES = {"config.json": b"{}", "open_clip_model.safetensors": bytes(range(256)) * 400, "sub/notes.txt": b"text"}
CLIENT = """
import sys
from huggingface_hub import hf_hub_download, snapshot_download, model_info
from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError
import open_clip
large = open(open_clip.pretrained.download_pretrained({"hf_hub": "authors/model/"}), "rb").read()
assert large == bytes(range(256)) * 400
assert open(hf_hub_download("authors/model", "config.json"), "rb").read() == b"{}"
from pathlib import Path
assert sorted(p.name for p in Path(snapshot_download("authors/model")).rglob("*") if p.is_file()) == [
    "config.json", "notes.txt", "open_clip_model.safetensors"]
assert model_info("authors/model", files_metadata=True).card_data.license == "mit"
for error, arguments in (
    (EntryNotFoundError, ("authors/model", "none.json")),
    (RepositoryNotFoundError, ("nobody/none", "config.json")),
    (RevisionNotFoundError, ("authors/model", "config.json", "v9")),
    (GatedRepoError, ("authors/gated", "config.json")),
):
    try:
        hf_hub_download(*arguments[:2], revision=(*arguments, None)[2])
    except error:
        continue
    raise SystemExit(f"no {error}")
print("ok")
"""


def test_the_hubs_own_client_and_open_clip_take_it_for_a_hub(tmp_path):
    with HubDouble({REPO: FILES, "authors/gated": FILES}) as hub:
        hub.gated["authors/gated"] = 401
        environment = hub.environment(tmp_path, HF_HUB_DISABLE_XET="1")
        done = subprocess.run([sys.executable, "-c", CLIENT], env=environment, capture_output=True, text=True)
        assert done.stdout == "ok\n", done.stderr
        assert any(one.cdn for one in hub.requests)


@pytest.mark.slow
def test_the_hubs_own_client_in_this_process(tmp_path, monkeypatch):
    from huggingface_hub import hf_hub_download

    with HubDouble({REPO: FILES}) as hub:
        hub.use(monkeypatch, tmp_path)
        path = hf_hub_download(REPO, "config.json")
        assert path.startswith(str(tmp_path)) and hub.asked("HEAD") == [f"/{REPO}/resolve/main/config.json"]
    monkeypatch.undo()
    with pytest.raises(Exception, match=r"offline|disabled|network is off|connection|Cannot find"):
        hf_hub_download(REPO, "config.json")


def test_processes_that_a_test_starts_are_offline():
    code = "from ovseg.checkpoint.hub import offline; print(offline())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "OVSEG_OFFLINE=1 is set\n"
