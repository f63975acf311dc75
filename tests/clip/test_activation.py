"""With which GELU a weights file runs: as it says itself, as the user says, or as is assumed and said."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from ovseg.clip import ViTClip
from ovseg.clip.activation import twin_of
from ovseg.clip.open_clip_internals import build_model
from ovseg.errors import ConfigError
from ovseg.segmenter import Segmenter
from ovseg.zoo import build, load, resolve

TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "patch_size": 16, "layers": 2, "width": 32, "head_width": 16},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
QUICK, EXACT = "Tiny-quickgelu", "Tiny"
IMAGE = torch.linspace(-1, 1, 3 * 32 * 32).view(1, 3, 32, 32)


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    """Weights large enough for both kinds of GELU to differ visibly."""
    torch.manual_seed(0)
    return {key: value.clone() for key, value in build_model(TINY, "tiny").state_dict().items()}


@pytest.fixture(autouse=True)
def arches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three architectures that open_clip knows for the length of a test; ``Alone`` has no twin."""
    monkeypatch.setattr("open_clip.factory._MODEL_CONFIG_PATHS", [])
    monkeypatch.setattr("open_clip.factory._MODEL_CONFIGS", dict(open_clip.factory._MODEL_CONFIGS))
    folder = tmp_path / "arches"
    folder.mkdir()
    for name, quick in ((EXACT, {}), (QUICK, {"quick_gelu": True}), ("Alone", {})):
        (folder / f"{name}.json").write_text(json.dumps({**TINY, **quick}))
    open_clip.add_model_config(folder)


def features(clip: ViTClip) -> Tensor:
    return clip.dense(IMAGE).features


def load_silently(*arguments: Any, **options: Any) -> ViTClip:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        return ViTClip.load(*arguments, **options)


def kinds(path: Path) -> tuple[Tensor, Tensor]:
    """Features with exact and with quick GELU."""
    exact, quick = (features(load_silently(EXACT, path, {"quick_gelu": one})) for one in (False, True))
    assert (exact - quick).abs().max() > 1e-4
    return exact, quick


def test_a_file_that_says_nothing_is_a_warning_that_names_both(tmp_path, state):
    torch.save(state, tmp_path / "ft.pt")
    exact, quick = kinds(tmp_path / "ft.pt")
    with pytest.warns(
        UserWarning, match="ft.pt runs with exact GELU, as Tiny has it; .*: name Tiny-quickgelu"
    ) as caught:
        clip = ViTClip.load(EXACT, tmp_path / "ft.pt")
    assert len(caught) == 1 and "\n" not in str(caught[0].message) and "MODEL.CLIP.ACTIVATION" in str(caught[0].message)
    assert torch.equal(features(clip), exact) and clip.activation == "gelu"
    assert clip.notes == (
        "ft.pt runs with exact GELU, as Tiny has it; it does not say itself with which it was trained",
    )
    named = load_silently(QUICK, tmp_path / "ft.pt")
    assert torch.equal(features(named), quick) and named.activation == "quick_gelu"
    assert named.notes[0].startswith("ft.pt runs with QuickGELU, as Tiny-quickgelu has it")
    assert load_silently("Alone", tmp_path / "ft.pt").notes == ()


def test_equal_choices_are_equal_models(tmp_path, state):
    torch.save(state, tmp_path / "ft.pt")
    with pytest.warns(UserWarning):
        assumed = ViTClip.load(EXACT, tmp_path / "ft.pt")
    assert load_silently(EXACT, tmp_path / "ft.pt", {"quick_gelu": False}).weights_hash == assumed.weights_hash
    assert load_silently(QUICK, tmp_path / "ft.pt", {"quick_gelu": False}).weights_hash == assumed.weights_hash
    quick = load_silently(QUICK, tmp_path / "ft.pt")
    assert load_silently(EXACT, tmp_path / "ft.pt", {"quick_gelu": True}).weights_hash == quick.weights_hash


def write(folder: Path, how: str, quick: bool, state: dict[str, Tensor]) -> Path:
    """Write weights that say in one of the known ways with which GELU they were trained."""
    word, arch, path = ("quick_gelu" if quick else "gelu"), (QUICK if quick else EXACT), folder / "ft.pt"
    if how.startswith("metadata"):
        key = how.partition(" ")[2]
        value = {"quick_gelu": str(quick), "hidden_act": word, "model_name": arch}[key]
        save_file(state, folder / "ft.safetensors", {"format": "pt", key: value})
        return folder / "ft.safetensors"
    if how == "training":
        run = f"2024_01_01-10_00_00-model_{arch}-lr_0.0005-b_64-j_4-p_amp"
        torch.save({"epoch": 3, "name": run, "state_dict": {f"module.{k}": v for k, v in state.items()}}, path)
        return path
    if how == "params":
        path = folder / "checkpoints" / "epoch_3.pt"
        path.parent.mkdir()
        (folder / "params.txt").write_text(f"batch_size: 64\nforce_quick_gelu: {quick}\nmodel: Tiny\npretrained: \n")
    elif how == "open_clip_config":
        config = {"model_cfg": {**TINY, **({"quick_gelu": True} if quick else {})}}
        (folder / "open_clip_config.json").write_text(json.dumps(config))
    else:
        config = {"model_type": "clip", "vision_config": {"hidden_act": word}, "text_config": {"hidden_act": word}}
        (folder / "config.json").write_text(json.dumps(config))
    torch.save(state, path)
    return path


HOW = (
    "metadata quick_gelu",
    "metadata hidden_act",
    "metadata model_name",
    "training",
    "params",
    "open_clip_config",
    "hf",
)


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("quick", [True, False])
def test_what_a_file_says_is_used_and_said(tmp_path, state, how, quick):
    path = write(tmp_path, how, quick, state)
    wanted, word = kinds(path)[quick], ("QuickGELU" if quick else "exact GELU")
    fitting, other = (QUICK, EXACT) if quick else (EXACT, QUICK)
    clip = load_silently(fitting, path)
    assert torch.equal(features(clip), wanted) and clip.notes[0].startswith(f"{path.name} runs with {word}, as ")
    with pytest.warns(
        UserWarning, match=rf"{path.name} runs with {word}, as .* says; {other} has .*, {fitting} is the one"
    ):
        turned = ViTClip.load(other, path)
    assert torch.equal(features(turned), wanted) and turned.weights_hash == clip.weights_hash
    forced = load_silently(other, path, {"quick_gelu": not quick})
    assert not torch.equal(features(forced), wanted)


def test_a_folder_whose_config_leaves_it_open(tmp_path, state):
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": TINY}))
    save_file(state, tmp_path / "open_clip_model.safetensors", {"quick_gelu": "true"})
    _, quick = kinds(tmp_path / "open_clip_model.safetensors")
    with pytest.warns(
        UserWarning, match="runs with QuickGELU, as its 'quick_gelu' says; the model of open_clip_config"
    ):
        clip = ViTClip.from_folder(tmp_path)
    assert torch.equal(features(clip), quick)
    for own in (False, True):  # a config that says it is followed
        (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": {**TINY, "quick_gelu": own}}))
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            assert ViTClip.from_folder(tmp_path).activation == ("quick_gelu" if own else "gelu")


def test_a_model_by_name_records_its_activation(tmp_path, state):
    torch.save(state, tmp_path / "ft.pt")
    with pytest.warns(UserWarning, match="name Tiny-quickgelu"):
        segmenter = load(f"sclip/Tiny/{tmp_path / 'ft.pt'}", device="cpu")
    result = segmenter(torch.zeros(40, 40, 3, dtype=torch.uint8).numpy(), ["cat", "dog"])
    assert result.meta["settings"]["activation"] == "gelu"
    assert any("does not say itself" in note for note in result.meta["notes"])
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        chosen = load(
            f"sclip/Tiny/{tmp_path / 'ft.pt'}", "cpu", overrides={"MODEL": {"CLIP": {"ACTIVATION": "quick_gelu"}}}
        )
        twin = load(f"sclip/{QUICK}/{tmp_path / 'ft.pt'}", "cpu")
    assert isinstance(chosen, Segmenter) and chosen.model.settings["activation"] == "quick_gelu"
    assert chosen.model.weights_hash == twin.model.weights_hash
    with pytest.raises(ConfigError, match=r"MODEL\.CLIP\.ACTIVATION is 'relu'"):
        build(resolve(f"sclip/Tiny/{tmp_path / 'ft.pt'}", overrides={"MODEL": {"CLIP": {"ACTIVATION": "relu"}}}))
    with pytest.raises(ConfigError, match=r"ACTIVATION is 'gelu' beside a folder; set quick_gelu in the model_cfg"):
        build(resolve("sclip/mini", overrides={"MODEL": {"CLIP": {"ACTIVATION": "gelu"}}}))


def test_a_clip_inside_a_checkpoint():
    with pytest.warns(
        UserWarning, match="the CLIP of the checkpoint runs with exact GELU, as Tiny has it; .*Tiny-quick"
    ):
        assert ViTClip.empty(EXACT).activation == "gelu"
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert ViTClip.empty(QUICK).activation == ViTClip.empty(EXACT, quick_gelu=True).activation == "quick_gelu"
        assert ViTClip.empty(EXACT, quick_gelu=False).notes == ()


def test_twins():
    assert [
        twin_of(name) for name in (EXACT, QUICK, "Alone", "ViT-B-16", "ViT-L-14-336-quickgelu", "convnext_base")
    ] == [
        QUICK,
        EXACT,
        "",
        "ViT-B-16-quickgelu",
        "ViT-L-14-336",
        "",
    ]
