"""``ovseg download`` and ``ovseg cache``: fetched for later, summed up, listed with their users, removed."""

from __future__ import annotations

import io
import json

import pytest
import torch

from ovseg.cli import main
from ovseg.zoo.needs import needs_of
from tests.hub_double import HubDouble
from tests.zoo.stand_in import FILE, REPO

CLIP = "timm/vit_base_patch16_clip_224.openai"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    file = io.BytesIO()
    torch.save({"a": torch.zeros(1000)}, file)
    clip = {"open_clip_model.safetensors": b"c" * 2000, "open_clip_config.json": b"{}"}
    config = {"config.json": b"{}", "model.safetensors": b"m" * 3000, "tokenizer.json": b"{}"}
    with HubDouble({REPO: {FILE: file.getvalue()}, CLIP: clip, "own/clip": config}) as double:
        double.use(monkeypatch, tmp_path)
        yield double


def run(capsys, *arguments):
    status = main([*arguments])
    return status, *capsys.readouterr()


def test_names_are_consent_and_their_sizes_are_summed_up(hub, capsys, tmp_path):
    hub.sizes[FILE] = 631_385_632
    status, out, _ = run(capsys, "download", "fast", "san-vit-b-16", "sclip/ViT-B-16/openai", "--dry-run")
    assert status == 0 and not list(tmp_path.rglob("*.pth"))
    assert "model san-vit-b-16: 631 MB, licence MIT" in out and "CLIP ViT-B-16/openai: 0.002 MB" in out
    assert "2 to fetch, 631 MB" in out
    hub.sizes.clear()
    status, out, told = run(capsys, "download", "fast", "clearclip/ViT-B-16/openai")
    assert status == 0 and (tmp_path / f"ovseg/weights/hub/{REPO}/main/{FILE}").is_file()
    assert f"fetching {REPO}/{FILE}" in told and "licence MIT" in told
    hub.requests.clear()
    status, out, _ = run(capsys, "download", "auto", "naclip/ViT-B-16/openai", "mini", "sclip/mini")
    assert status == 0 and not hub.requests and out.count(" is here: ") == 2


def test_hub_ids(hub, capsys, tmp_path):
    status, out, _ = run(capsys, "download", "sclip/hf:own/clip", "--dry-run")
    assert status == 0 and "model own/clip: 0.003" in out
    assert run(capsys, "download", "hf:own/clip")[0] == 0
    assert needs_of("clearclip/hf:own/clip")[0].found == tmp_path / "ovseg/weights/hub/own/clip/main"
    assert run(capsys, "download", f"hf-hub:{CLIP}")[0] == 0
    status, _, error = run(capsys, "download", "hf:no/such")
    assert status == 2 and error.startswith("error: ") and "no repository 'no/such'" in error


def test_what_can_be_had_by_hand_only(hub, capsys):
    status, out, error = run(capsys, "download", "panoptic", "fast")
    assert status == 1 and "model san-vit-b-16 is here" in out
    assert error.splitlines()[-1].startswith(
        "error: model fcclip-convnext-l cannot be fetched from here; fetch https://"
    )


def test_mistakes(capsys, monkeypatch):
    for name, said in (("fastt", "did you mean fast"), ("sclip/ViT-B-16/opnai", "did you mean openai")):
        status, _, error = run(capsys, "download", name)
        assert status == 2 and said in error
    status, _, error = run(capsys, "download", "fast")
    assert (status, error.count("\n")) == (2, 1) and "OVSEG_OFFLINE=1 is set; unset it to download" in error


def test_the_cache_lists_weights_with_their_users_and_removes_them(hub, capsys, monkeypatch, tmp_path):
    assert run(capsys, "download", "fast", "sclip/ViT-B-16/openai")[0] == 0
    status, out, _ = run(capsys, "cache")
    assert (
        status == 0 and f"hub/{REPO}/main/{FILE}" in out and "san-vit-b-16" in out and "METHOD/ViT-B-16/openai" in out
    )
    (kept,) = (tmp_path / "ovseg").rglob(FILE)
    status, _, error = run(capsys, "cache", "--remove", "fast")
    assert status == 2 and "would be removed and there is nobody to ask; add --yes" in error and kept.is_file()
    status, out, _ = run(capsys, "cache", "--remove", "fast", "--yes")
    assert status == 0 and "used by san-vit-b-16" in out and not kept.exists()
    assert run(capsys, "cache", "--remove", "sclip/ViT-B-16/openai", "--yes")[0] == 0
    assert "0.0 MB of weights; none in" in run(capsys, "cache")[1]
    assert run(capsys, "download", "fast")[0] == 0
    assert run(capsys, "cache", "--remove", "hub/Mendel192", "--yes")[0] == 0
    status, _, error = run(capsys, "cache", "--remove", "fast", "--yes")
    assert status == 2 and "unknown weights on this disk 'fast'" in error
    status, _, error = run(capsys, "cache", "--yes")
    assert status == 2 and "--yes without --remove" in error


def test_listed_users_are_json_free_names(hub, capsys):
    assert run(capsys, "download", "fast")[0] == 0
    (card,) = [one for one in json.loads(run(capsys, "models", "--json")[1]) if one["name"] == "san-vit-b-16"]
    assert card["installed"] is True


def test_members_of_an_ensemble_and_revisions_are_needs(hub, capsys):
    needs = needs_of("sclip/clip:hf:own/clip+ViT-B-16/openai")
    assert [(need.what, need.found) for need in needs] == [("model own/clip", None), ("CLIP ViT-B-16/openai", None)]
    status, _, _ = run(capsys, "download", "sclip/hf:own/clip@main")
    assert status == 0 and needs_of("hf:own/clip")[0].found == needs_of("hf:own/clip@main")[0].found is not None
    assert needs_of("hf:own/clip@v2")[0].found is None
