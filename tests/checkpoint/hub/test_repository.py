"""Folders of repositories: which files make a model, in both layouts, whole or in shards."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from ovseg.checkpoint.hub import Source, fetch, fetch_repository, local_repository, stored
from ovseg.checkpoint.hub.repository import choose
from ovseg.errors import ConfigError, DownloadError
from tests.hub_double import HubDouble

REPO = "authors/model"
TOKENIZER = {"tokenizer.json": b"{}", "vocab.json": b"{}", "merges.txt": b"", "special_tokens_map.json": b"{}"}
SHARDS = {f"model-0000{i}-of-00002.safetensors": b"shard%d" % i for i in (1, 2)}
INDEX = {"model.safetensors.index.json": json.dumps({"weight_map": {"a": next(iter(SHARDS))}}).encode()}
CONFIG, OTHERS = {"config.json": b'{"model_type": "clip"}'}, {"README.md": b"#", "flax_model.msgpack": b"flax"}
OPEN_CLIP = {"open_clip_config.json": b"{}", "open_clip_model.safetensors": b"open"}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with HubDouble({}) as double:
        double.use(monkeypatch, tmp_path)
        yield double


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.startswith(".")}


@pytest.mark.parametrize(
    ("layout", "files", "expected"),
    [
        ("hf", {**CONFIG, **TOKENIZER, "model.safetensors": b"1", "pytorch_model.bin": b"2"}, "model.safetensors"),
        ("hf", {**CONFIG, **TOKENIZER, "pytorch_model.bin": b"2"}, "pytorch_model.bin"),
        ("hf", {**CONFIG, **TOKENIZER, **SHARDS, **INDEX, "pytorch_model.bin": b"2"}, {*SHARDS, *INDEX}),
        ("hf", {**CONFIG, **TOKENIZER, **OPEN_CLIP, "model.safetensors": b"1"}, "model.safetensors"),
        ("hf", {**CONFIG, **TOKENIZER, "model.fp16.safetensors": b"0", "pytorch_model.bin": b"2"}, "pytorch_model.bin"),
        ("open_clip", {**CONFIG, **TOKENIZER, **OPEN_CLIP, "model.safetensors": b"1"}, "open_clip_model.safetensors"),
    ],
)
def test_config_tokenizer_and_the_weights_that_are_liked_best(hub, capsys, layout, files, expected):
    hub.repos[REPO] = {**files, **OTHERS, "onnx/model.onnx": b"3"}
    assert local_repository(REPO, layout) is None
    folder = fetch_repository(REPO, layout)
    said = capsys.readouterr().err
    assert "licence mit; they are kept in" in said and len(said.splitlines()) == 1  # none for each small file
    config = {"hf": "config.json", "open_clip": "open_clip_config.json"}[layout]
    weights = {expected} if isinstance(expected, str) else expected
    assert names(folder) == {config, *TOKENIZER, *weights}
    assert all((folder / name).read_bytes() == files[name] for name in names(folder))
    hub.requests.clear()
    assert fetch_repository(REPO, layout) == folder == local_repository(REPO, layout) and not hub.requests


def test_a_tokenizer_alone_and_then_the_rest(hub):
    hub.repos[REPO] = {**CONFIG, **TOKENIZER, "model.safetensors": b"1"}
    folder = fetch_repository(REPO, "tokenizer")
    assert names(folder) == {"config.json", *TOKENIZER} and local_repository(REPO) is None
    hub.requests.clear()
    assert fetch_repository(REPO) == folder
    assert [path for path in hub.asked("GET") if "/resolve/" in path] == [
        f"/{REPO}/resolve/{hub.commit(REPO)}/model.safetensors"
    ]


def test_a_broken_repository_is_gone_on_with(hub):
    hub.repos[REPO] = {**CONFIG, **INDEX, **{name: data * 10_000 for name, data in SHARDS.items()}}
    hub.breaks = [60_000, 30_000, 0, 0, 0, 0]
    with pytest.raises(DownloadError, match=r"00002-of-00002.* broke off"):
        fetch_repository(REPO)
    assert local_repository(REPO) is None
    hub.requests.clear()
    fetch_repository(REPO)
    assert hub.requests[-1].start == 30_000 and not [path for path in hub.asked() if "00001" in path]


def test_a_damaged_shard_is_fetched_anew(hub):
    hub.repos[REPO] = {**CONFIG, **INDEX, **SHARDS}
    shard = fetch_repository(REPO) / next(iter(SHARDS))
    shard.write_bytes(b"damaged")
    with pytest.warns(UserWarning, match="is not used: its sha256"):
        assert local_repository(REPO) is None
    with pytest.warns(UserWarning, match="is not used: its sha256"):
        fetch_repository(REPO)
    assert shard.read_bytes() == b"shard1"


def test_a_wrong_shard_is_thrown_away(hub):
    hub.repos[REPO] = {**CONFIG, **INDEX, **SHARDS}
    hub.corrupt = {"model-00002-of-00002.safetensors"}
    with pytest.raises(DownloadError, match="they were thrown away"):
        fetch_repository(REPO)
    assert local_repository(REPO) is None and len(stored()) == 3


def test_the_parts_of_stable_diffusion(hub):
    small = {
        "model_index.json": b"{}",
        "unet/config.json": b"{}",
        "tokenizer/merges.txt": b"",
        "vae/config.json": b"{}",
    }
    small |= {"scheduler/scheduler_config.json": b"{}", "feature_extractor/preprocessor_config.json": b"{}"}
    weights = {"unet/diffusion_pytorch_model.safetensors": b"1", "vae/diffusion_pytorch_model.bin": b"2"}
    weights |= {"text_encoder/model.safetensors": b"3"}
    left = {"unet/diffusion_pytorch_model.fp16.safetensors": b"4", "safety_checker/model.safetensors": b"5"}
    left |= {"text_encoder/pytorch_model.bin": b"6", "v2.ckpt": b"7", "unet/deeper/config.json": b"8"}
    hub.repos[REPO] = {**small, **weights, **left}
    folder = fetch_repository(REPO, "diffusers")
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.name.startswith(".")}
    assert {name for name in there if "." in name} == {*small, *weights}
    hub.requests.clear()
    assert fetch_repository(REPO, "diffusers") == folder and not hub.requests
    del hub.repos[REPO]["vae/diffusion_pytorch_model.bin"]
    with pytest.raises(DownloadError, match=r"authors/model/vae has no weights that can be read"):
        fetch_repository(REPO, "diffusers", hub.commit(REPO))


@pytest.mark.parametrize(
    ("layout", "files", "message"),
    [
        ("hf", OPEN_CLIP, r"no config\.json, which 'hf:authors/model' means; write 'hf-hub:authors/model'"),
        ("open_clip", CONFIG, r"no open_clip_config\.json, which 'hf-hub:.*; write 'hf:authors/model'"),
        ("hf", {"x.bin": b""}, r"no config\.json, .*; it has x\.bin"),
        ("hf", {**CONFIG, **OTHERS}, r"no weights that can be read; expected model\.safetensors or pytorch_model\.bin"),
        ("hf", {**CONFIG, **INDEX, next(iter(SHARDS)): b""}, "no weights that can be read"),  # a shard is missing
        ("hf", {**CONFIG, **SHARDS}, "no weights that can be read"),  # the index is missing
        ("tokenizer", {**CONFIG}, r"holds no tokenizer; expected tokenizer\.json"),
    ],
)
def test_repositories_that_hold_no_such_model(hub, layout, files, message):
    hub.repos[REPO] = files
    with pytest.raises(DownloadError, match=message) as caught:
        fetch_repository(REPO, layout)
    assert "\n" not in str(caught.value) and stored() == []


def test_what_is_not_there_or_not_for_everybody(hub, monkeypatch):
    with pytest.raises(DownloadError, match="has no repository 'authors/model'"):
        fetch_repository(REPO)
    hub.repos[REPO] = {**CONFIG, "model.safetensors": b"1"}
    with pytest.raises(DownloadError, match="has no revision 'v9'"):
        fetch_repository(REPO, revision="v9")
    hub.gated[REPO] = 401
    with pytest.raises(
        DownloadError, match=r"is gated \(401\), .* 1\. .* 2\. .* 3\. .*; or take 'ViT-B-16/openai', which is open"
    ):
        fetch_repository(REPO)
    monkeypatch.setenv("OVSEG_OFFLINE", "1")
    with pytest.raises(DownloadError, match=r"OVSEG_OFFLINE=1 is set; unset it, or fetch .*put them into"):
        fetch_repository(REPO)
    with pytest.raises(ConfigError, match="layout is 'flax'; expected one of hf, open_clip, tokenizer, diffusers"):
        fetch_repository(REPO, "flax")


def test_a_server_that_names_files_outside_of_the_folder(hub, tmp_path):
    hub.repos[REPO] = {**CONFIG, "model.safetensors": b"1", "../../../../escaped.json": b"2"}
    folder = fetch_repository(REPO)
    assert names(folder) == {"config.json", "model.safetensors"} and not list(tmp_path.rglob("escaped.json"))


def test_the_folder_of_the_hubs_own_client_is_used_if_it_is_whole(hub, tmp_path):
    hub.repos[REPO] = {**CONFIG, **SHARDS, **INDEX}
    commit = hub.commit(REPO)
    theirs = tmp_path / "hf/hub/models--authors--model"
    (theirs / "refs").mkdir(parents=True)
    (theirs / "refs/main").write_text(commit)
    snapshot = theirs / "snapshots" / commit
    snapshot.mkdir(parents=True)
    for name in (*CONFIG, *INDEX, *list(SHARDS)[:1]):
        (snapshot / name).write_bytes(hub.repos[REPO][name])
    assert local_repository(REPO) is None
    (snapshot / list(SHARDS)[1]).write_bytes(b"shard2")
    assert local_repository(REPO) == snapshot == fetch_repository(REPO) and not hub.requests
    assert local_repository(REPO, "open_clip") is None


def test_files_are_of_one_commit(hub):
    hub.repos[REPO] = {**CONFIG, "model.safetensors": b"1"}
    commit = hub.commit(REPO)
    fetch_repository(REPO)
    assert {path.split("/")[4] for path in hub.asked() if "/resolve/" in path} == {commit}


def test_choosing_knows_no_order():
    files = ["model.safetensors.index.json", *SHARDS, "config.json", "tokenizer.json"]
    assert sorted(choose(files, "hf", REPO)) == sorted(choose(files[::-1], "hf", REPO)) == sorted(files)


def test_files_of_two_commits_are_never_mixed(hub, capsys):
    hub.repos[REPO] = {**CONFIG, **TOKENIZER, "model.safetensors": b"1" * 50_000}
    hub.breaks = [10_000, 0, 0, 0, 0]
    with pytest.raises(DownloadError, match="broke off"):
        fetch_repository(REPO)
    hub.repos[REPO] |= {"config.json": b'{"model_type": "other"}', "model.safetensors": b"2" * 50_000}
    capsys.readouterr()
    folder = fetch_repository(REPO)
    assert all((folder / name).read_bytes() == data for name, data in hub.repos[REPO].items())
    said = capsys.readouterr().err
    assert "config.json: the server has another file than the one that is kept" in said
    assert "fetching 2 files of authors/model: 0.05 MB" in said  # the others are the same in both


def test_a_folder_that_was_filled_by_hand(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("OVSEG_OFFLINE", "1")
    with pytest.raises(DownloadError, match="put them into '") as caught:
        fetch_repository(REPO)
    place = Path(str(caught.value).rpartition("put them into '")[2].rstrip("'"))
    place.mkdir(parents=True)
    (place / "config.json").write_bytes(CONFIG["config.json"])
    for name in SHARDS:
        (place / name).write_bytes(save({"a": np.zeros(3)}))
    assert local_repository(REPO) is None
    (place / next(iter(INDEX))).write_bytes(b"{}")
    assert fetch_repository(REPO) == place and not hub.requests


def test_a_tokenizer_of_which_a_part_came_is_none(hub):
    hub.repos[REPO] = {**TOKENIZER, "spiece.model": b"1" * 50_000}
    hub.breaks = [10_000, 0, 0, 0, 0]
    with pytest.raises(DownloadError, match="broke off"):
        fetch_repository(REPO, "tokenizer")
    assert local_repository(REPO, "tokenizer") is None
    assert names(fetch_repository(REPO, "tokenizer")) == {*TOKENIZER, "spiece.model"}


def test_room_for_all_files_is_looked_for_before_the_first(hub, monkeypatch):
    """Half of the shards of a large model help nobody."""
    hub.repos[REPO] = {**CONFIG, **INDEX, **{name: data * 100_000 for name, data in SHARDS.items()}}
    free = type("Free", (), {"free": 1_000_000})
    monkeypatch.setattr("ovseg.checkpoint.hub.fetching.shutil.disk_usage", lambda folder: free)
    with pytest.raises(DownloadError, match=r"^authors/model needs 1\.2 MB and the disk of '.*' has 1\.0 MB left"):
        fetch_repository(REPO)
    assert stored() == [] and not [path for path in hub.asked("GET") if "/resolve/" in path]
    free.free = 2_000_000
    hub.breaks = [500_000, 0, 0, 0, 0]
    with pytest.raises(DownloadError, match="broke off"):
        fetch_repository(REPO)
    free.free = 1_000_000  # and half a million bytes are here already
    assert fetch_repository(REPO).is_dir()


def test_a_part_of_the_index_is_none_of_the_file(hub):
    """Both names begin alike."""
    hub.repos[REPO] = {"model.safetensors": b"1" * 50_000, "model.safetensors.index.bin": b"2" * 50_000}
    hub.breaks = [10_000, 0, 0, 0, 0]
    with pytest.raises(DownloadError, match="broke off"):
        fetch(Source(REPO, "model.safetensors.index.bin"))
    fetch(Source(REPO, "model.safetensors"))
    assert [one.bytes for one in stored() if not one.complete] == [10_000]


@pytest.mark.parametrize("note", ["rubbish", "5", "null", "[[]]", '["../../../etc/passwd"]', '[""]'])
def test_a_note_that_is_damaged_is_written_anew(hub, note):
    hub.repos[REPO] = {**CONFIG, "model.safetensors": b"1"}
    folder = fetch_repository(REPO)
    (folder / ".hf.files").write_text(note)
    assert fetch_repository(REPO) == folder == local_repository(REPO)
