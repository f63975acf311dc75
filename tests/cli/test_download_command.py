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
    clip = {"open_clip_model.safetensors": b"c" * 2000, "open_clip_config.json": b'{"model_cfg": {}}'}
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
    assert status == 0 and "model hf:own/clip: 0.003" in out
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


def test_what_could_not_be_loaded_by_its_name_is_not_fetched(hub, capsys):
    status, out, error = run(capsys, "download", "clearclip/ViT-B-16/metaclip_400m")
    assert status == 2 and not out and not hub.requests
    assert "needs QuickGELU, and ViT-B-16 has exact GELU; name ViT-B-16-quickgelu/metaclip_400m" in error


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
    assert [(need.what, need.found) for need in needs] == [("model hf:own/clip", None), ("CLIP ViT-B-16/openai", None)]
    status, _, _ = run(capsys, "download", "sclip/hf:own/clip@main")
    assert status == 0 and needs_of("hf:own/clip")[0].found == needs_of("hf:own/clip@main")[0].found is not None
    assert needs_of("hf:own/clip@v2")[0].found is None


def test_two_layouts_and_two_revisions_of_a_repository_are_two_things(hub, capsys, tmp_path):
    files = {"open_clip_config.json": b'{"model_cfg": {}}', "open_clip_model.safetensors": b"o" * 1000}
    hub.repos["own/clip"] |= files
    commit = hub.commit("own/clip")
    status, out, _ = run(
        capsys, "download", "hf:own/clip", "hf-hub:own/clip", f"hf:own/clip@{commit}", "hf:own/clip@main"
    )
    assert status == 0 and "3 to fetch, " in out and out.count("is here: ") == 3
    folder = tmp_path / "ovseg/weights/hub/own/clip"
    assert (folder / "main/model.safetensors").is_file() and (folder / "main/open_clip_model.safetensors").is_file()
    assert (folder / commit / "model.safetensors").is_file()


def test_tokenizers_of_other_repositories_come_along(hub, capsys, monkeypatch):
    """Without them a machine that goes offline has weights, and no words."""
    tag = {"open_clip_model.safetensors": b"s" * 1000, "open_clip_config.json": b"{}", "tokenizer.json": b"{}"}
    texts = json.dumps({"model_cfg": {"text_cfg": {"hf_model_name": "roberta", "hf_tokenizer_name": "own/words"}}})
    hub.repos |= {
        "timm/ViT-B-16-SigLIP": tag,
        "own/multi": {"open_clip_config.json": texts.encode(), "open_clip_model.safetensors": b"m" * 1000},
        "roberta": {"config.json": b"{}", "tokenizer.json": b"{}", "pytorch_model.bin": b"x"},
        "own/words": {"tokenizer.json": b"{}"},
    }
    names = ["clearclip/ViT-B-16-SigLIP/webli", "sclip/hf-hub:own/multi"]
    status, out, _ = run(capsys, "download", *names, "--dry-run")
    assert status == 0 and "tokenizer timm/ViT-B-16-SigLIP: " in out and "3 to fetch" in out
    status, out, _ = run(capsys, "download", *names)
    assert status == 0 and "tokenizer roberta is here" in out and "tokenizer own/words is here" in out
    monkeypatch.setenv("OVSEG_OFFLINE", "1")
    hub.requests.clear()
    assert all(need.found for name in names for need in needs_of(name)) and len(needs_of(names[1])) == 3
    assert run(capsys, "download", *names)[0] == 0 and not hub.requests


def test_guides_by_their_names(hub, capsys, monkeypatch, tmp_path):
    """What a message of a guide names, and what a method on a guide needs, can be fetched."""
    small = ("model_index.json", "unet/config.json", "vae/config.json", "tokenizer/merges.txt")
    small += ("scheduler/scheduler_config.json", "feature_extractor/preprocessor_config.json")
    weights = ("unet/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors")
    parts = dict.fromkeys(small, b"{}") | dict.fromkeys((*weights, "text_encoder/model.safetensors"), b"w" * 1000)
    hub.repos |= {
        "stabilityai/stable-diffusion-2-1-base": parts,
        "timm/vit_base_patch8_224.dino": {"model.safetensors": b"d" * 1000},
    }
    status, out, _ = run(capsys, "download", "cliper/ViT-B-16/openai", "--dry-run")
    assert status == 0 and "guide diffusion:stabilityai/stable-diffusion-2-1-base: " in out
    status, out, _ = run(capsys, "download", "timm:vit_base_patch8_224.dino", "cliper/ViT-B-16/openai", "diffusion:")
    assert status == 0 and out.count(" is here: ") == 3
    assert (tmp_path / "ovseg/weights/hub/stabilityai/stable-diffusion-2-1-base/main/unet/config.json").is_file()
    assert needs_of("timm:vit_base_patch8_224.dino#stride=4")[0].found and needs_of(f"diffusion:{tmp_path}") == []
    status, _, error = run(capsys, "download", "timm:vit_bas_patch8_224.dino")
    assert status == 2 and "did you mean vit_base_patch8_224.dino" in error


def test_what_was_downloaded_by_a_name_is_removed_by_it(hub, capsys, tmp_path):
    for name in ("hf:own/clip", "sclip/hf:own/clip@main", "METHOD/ViT-B-16/openai", "ViT-B-16/openai", "fast"):
        asked = (
            name.replace("METHOD", "clip") if "METHOD" in name or "hf:" in name or name == "fast" else f"clip/{name}"
        )
        assert run(capsys, "download", asked)[0] == 0
        status = run(capsys, "cache", "--remove", name, "--yes")[0]
        assert status == 0 and "0.0 MB of weights; none in" in run(capsys, "cache")[1], name


def test_what_a_broken_download_left_belongs_to_its_name(hub, capsys, monkeypatch):
    hub.breaks = [500, 0, 0, 0, 0]
    assert run(capsys, "download", "fast")[0] == 2
    out = run(capsys, "cache")[1]
    assert "broke off" in out and "san-vit-b-16" in out
    status, out, _ = run(capsys, "cache", "--remove", "fast", "--yes")
    assert status == 0 and ".part: 0.0 MB, used by san-vit-b-16" in out
    assert "0.0 MB of weights; none in" in run(capsys, "cache")[1]


@pytest.mark.parametrize("name", ["", ".", "./"])
def test_a_name_that_is_empty_removes_nothing(hub, capsys, name):
    assert run(capsys, "download", "fast")[0] == 0
    status, _, error = run(capsys, "cache", "--remove", name, "--yes")
    assert status == 2 and f"error: '{name}' is the folder of all weights; expected a NAME" in error
    for other in ("..", "/", "hub/../.."):
        assert run(capsys, "cache", "--remove", other, "--yes")[0] == 2
    assert "san-vit-b-16" in run(capsys, "cache")[1]


@pytest.mark.parametrize("token", ["", "hf_of_somebody"])
@pytest.mark.parametrize(
    ("name", "repo", "other"),
    [
        ("best", REPO, "naclip/ViT-B-16/openai"),
        ("sam3", "facebook/sam3", "naclip/ViT-B-16/openai"),
        ("sclip/hf:own/clip", "own/clip", "ViT-B-16/openai"),
        ("hf-hub:own/clip", "own/clip", "ViT-B-16/openai"),
        ("clearclip/ViT-B-16/laion2b_s34b_b88k", "laion/CLIP-ViT-B-16-laion2B-s34B-b88K", "ViT-B-16/openai"),
        (
            "timm:vit_small_patch16_dinov3.lvd1689m",
            "timm/vit_small_patch16_dinov3.lvd1689m",
            "timm:vit_base_patch8_224",
        ),
    ],
)
def test_gated_models_say_three_steps_and_an_open_one(hub, capsys, monkeypatch, name, repo, other, token):
    hub.repos[repo] = {**hub.repos.get(repo, {}), "open_clip_model.safetensors": b"x", "model.safetensors": b"x"}
    hub.repos[repo] |= {
        "open_clip_config.json": b"{}",
        "config.json": b"{}",
        "san_vit_large_14.pth": b"x",
        "sam3.pt": b"x",
    }
    hub.gated[repo] = 401
    monkeypatch.setenv("HF_TOKEN", token)
    status, _, error = run(capsys, "download", name)
    assert status == 2 and f"error: {repo} is gated ({403 if token else 401}), " in error
    assert all(f" {step}. " in error for step in (1, 2, 3)) and f"; or take '{other}" in error
    assert error.endswith("', which is open\n")


def test_what_is_known_to_be_gated_says_so_without_a_network(hub, capsys, monkeypatch, photo, tmp_path):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    segment = ("segment", str(photo), "--classes", "cat", "--model", "sam3", "--output", str(tmp_path / "out"))
    for command in (("download", "sam3"), segment):
        status, _, error = run(capsys, *command)
        page = "https://huggingface.co/facebook/sam3"
        steps = (
            f"1. make an account, accept the licence at {page} and wait for consent, ",
            "2. fetch ",
            "3. put it at ",
        )
        assert status == 2 and all(step in error for step in steps)
        assert error.endswith("; or take 'naclip/ViT-B-16/openai', which is open\n")


def test_the_cache_is_cleared_or_weights_are_removed(hub, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["cache", "--clear", "--remove", "fast", "--yes"])
    assert "not allowed with argument" in capsys.readouterr().err
