"""The door: any source is read by the kind that fits it, or refused with what would fit."""

from __future__ import annotations

import pytest
import torch

from ovseg.clip import ClipSource, ViTClip, load_tower
from ovseg.clip.conv_clip import ConvClip
from ovseg.clip.tokens import CLASS_EMBEDDING, LEVELS, STREAM
from ovseg.clip.towers import KINDS
from ovseg.errors import ConfigError, UnknownNameError, WeightsError
from tests.clip.towers import TOWERS


@pytest.mark.parametrize("family", TOWERS)
def test_every_family_says_what_it_is(family):
    tower = TOWERS[family](2)
    kind = next(kind for kind in KINDS if kind.fits(tower.model_cfg))
    assert tower.has and tower.has <= kind.may_have
    assert kind.has_of is None or kind.has_of(tower.model_cfg, family) == tower.has
    assert tower.recipe and "\n" not in tower.recipe
    assert torch.isfinite(tower.text(["a cat"])).all() and tower.text(["a cat"]).shape == (1, tower.embed_dim)


def test_a_folder_is_read_by_the_kind_that_fits(tiny_clip, tiny_convnext, tiny_resnet):
    found = [load_tower(ClipSource(folder=str(folder))) for folder in (tiny_clip, tiny_convnext, tiny_resnet)]
    assert [type(tower) for tower in found] == [ViTClip, ConvClip, ConvClip]


def test_what_a_tower_lacks_is_said_before_its_weights_are_read(tiny_resnet):
    message = r"SCLIP needs tokens .*, which .* \(a ConvNeXt or ResNet\) has not; use a vision transformer such as"
    with pytest.raises(ConfigError, match=message):
        load_tower(ClipSource(folder=str(tiny_resnet)), {STREAM}, "SCLIP")
    with pytest.raises(ConfigError, match=r"FCCLIP needs levels .* which ViT-B-16/none"):
        load_tower(ClipSource("ViT-B-16", "none"), {LEVELS}, "FCCLIP")


def test_what_a_tower_of_a_config_has_is_known_without_weights():
    """Of a kind that may have it, some towers have not: nothing is fetched to find that out."""
    for arch, tag in (("ViT-B-16-SigLIP2", "webli"), ("PE-Core-B-16", "meta"), ("ViT-L-14-CLIPA", "datacomp1b")):
        with pytest.raises(ConfigError, match=f"^FALIP needs a class token that becomes .* which {arch}/{tag}"):
            load_tower(ClipSource(arch, tag), {CLASS_EMBEDDING}, "FALIP")
    with pytest.raises(
        ConfigError, match=r"^swin_base_patch4_window7_224/none: the image tower is timm.s SwinTransformer"
    ):
        load_tower(ClipSource("swin_base_patch4_window7_224", "none"))


def test_a_source_says_one_thing():
    node = {
        "ARCH": "ViT-B-16",
        "PRETRAINED": "openai",
        "FOLDER": "",
        "ACTIVATION": "gelu",
        "RESIZE_POSITION": False,
        "MEMBERS": [],
    }
    assert ClipSource.of(node) == ClipSource("ViT-B-16", "openai", quick_gelu=False)
    with pytest.raises(ConfigError, match="ACTIVATION is 'gelu' beside a folder"):
        ClipSource.of({**node, "FOLDER": "x"})
    with pytest.raises(UnknownNameError, match="did you mean ViT-B-16"):
        load_tower(ClipSource("ViT-B-61", "openai"))
    with pytest.raises(UnknownNameError, match=r"unknown CLIP architecture 'openai'.*; hf:OWNER/NAME is a repository"):
        load_tower(ClipSource("openai", "clip-vit-base-patch16"))
    with pytest.raises(ConfigError, match=r"MODEL.CLIP.ACTIVATION is 'relu'; expected one of gelu, quick_gelu$"):
        ClipSource.of({**node, "ACTIVATION": "relu"})
    with pytest.raises(WeightsError, match="does not exist"):
        load_tower(ClipSource(folder="nowhere"))
