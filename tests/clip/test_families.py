"""Vision transformers of every family: equal to their source, on any grid, in any company."""

from __future__ import annotations

import copy
import pickle
import threading
from functools import cache
from typing import Any

import open_clip
import pytest
import torch
from torch import Tensor

from ovseg.clip import ViTClip
from ovseg.clip.hf.clip import HfClip
from ovseg.clip.open_clip_internals import build_empty, check_config
from ovseg.clip.timm_vit import RotaryBlock
from ovseg.clip.tokens import CLASS_EMBEDDING, CLASS_TOKEN, HEADS_ADD, POSITIONS
from ovseg.clip.towers import KINDS
from ovseg.clip.vit_levels import ViTPyramid
from ovseg.errors import ConfigError, UnknownNameError
from ovseg.meta_arch.san.recognition import run_patches, run_tail
from ovseg.recalibration import build_recalibration
from ovseg.recalibration.clip_decomposition.ledger import decompose
from tests.clip.narrow_hf import image_features, text_features
from tests.clip.narrow_timm import small
from tests.clip.towers import TOWERS, narrow, vit

# Those that have blocks.
FAMILIES = [name for name in TOWERS if isinstance(TOWERS[name](1), ViTClip)]
OF_OPEN_CLIP = [name for name in FAMILIES if not isinstance(TOWERS[name](1), HfClip)]
TURNED = [name for name in FAMILIES if TOWERS[name](1).tower.__class__.__name__ == "TimmTower"]
COMPILED = ["CoCa", "EVA-02", "SigLIP, SigLIP 2", "PE", "ViTamin", "AltCLIP", "SigLIP 2 NaFlex"]
LINEAR = {"ViT without a class embedding (pool_type avg)", "ViT of timm (mean of patches)"}


@cache
def tower(family: str) -> Any:
    return TOWERS[family](3)


def native(clip: Any) -> tuple[int, int]:
    """Return the height and width of the images that the source takes."""
    if isinstance(clip, HfClip):
        return clip.image_size, clip.image_size
    visual = clip.model.visual
    found: tuple[int, int] = visual.trunk.patch_embed.img_size if hasattr(visual, "trunk") else visual.image_size
    return found


def pictures(height: int, width: int, count: int = 2) -> Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(3))


def of_source(clip: Any, images: Tensor) -> Tensor:
    """Embed images by the source alone; open_clip's CoCas of the paper keep the one token that they pool to."""
    if isinstance(clip, HfClip):
        return image_features(clip.model, images)
    found: Tensor = clip.model.encode_image(images, normalize=False)
    return found.squeeze(1) if found.ndim == 3 else found


@pytest.mark.parametrize("family", FAMILIES)
def test_images_are_embedded_as_the_source_does(family):
    clip = tower(family)
    expected = of_source(clip, pictures(*native(clip)))
    assert (expected[0] - expected[1]).abs().max() > 0.1  # else any mistake would pass
    for recalibration in (None, build_recalibration("clip")):
        dense = clip.dense(pictures(*native(clip)), recalibration)
        torch.testing.assert_close(dense.cls, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_texts_are_embedded_as_the_source_does(family):
    clip = tower(family)
    texts = ["a cat", "a red chair, and a dog beside it", "Sofa!"]
    tokens = clip.text_tokens(texts)
    expected = (
        text_features(clip.model, tokens)
        if isinstance(clip, HfClip)
        else clip.model.encode_text(tokens, normalize=False)
    )
    assert (expected[0] - expected[1]).abs().max() > 0.02
    torch.testing.assert_close(clip.text(texts), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", TURNED)
def test_another_size_is_what_the_source_is_at_that_size(family):
    """Timm resizes its tables by a low-pass filter, and turns by the new grid."""
    clip, source = tower(family), copy.deepcopy(tower(family))
    size = (3 * clip.patch_size, 5 * clip.patch_size)
    source.model.visual.trunk.set_input_size(size)
    own = clip.dense(pictures(*size), build_recalibration("clip", pos_resize="bicubic_antialias"))
    assert own.grid == (3, 5)
    torch.testing.assert_close(own.cls, of_source(source, pictures(*size)), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_patch_alone_is_what_an_image_of_such_patches_is(family):
    """Whatever pools, and what follows: where all tokens are the same, the image is that token."""
    clip = tower(family)
    token = torch.randn(2, 1, clip.width, generator=torch.Generator().manual_seed(4))
    joint, embedding = clip.head(token.expand(-1, clip.prefix + 6, -1))
    for place in range(clip.prefix + 6):
        torch.testing.assert_close(joint[:, place], embedding, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(clip.patches_to_joint(token)[:, 0], embedding, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_dense_features_pool_to_the_image_where_that_is_linear(family):
    clip = tower(family)
    tokens = torch.randn(2, clip.prefix + 6, clip.width, generator=torch.Generator().manual_seed(5))
    joint, embedding = clip.head(tokens)
    pooled = joint[:, 0] if CLASS_EMBEDDING in clip.has else clip.split(joint)[1].mean(1)
    close = torch.allclose(pooled, embedding, atol=1e-5, rtol=1e-4)
    assert close == (CLASS_EMBEDDING in clip.has or family in LINEAR)


@pytest.mark.parametrize("family", FAMILIES)
def test_any_size_in_a_batch_or_alone(family):
    clip, size = tower(family), tower(family).patch_size
    method = build_recalibration("NACLIP")
    images = pictures(2 * size + 3, 5 * size + size - 1)
    dense = clip.dense(images, method)
    assert dense.grid == (2, 5) and dense.features.shape == (2, clip.embed_dim, 2, 5)
    assert dense.features.isfinite().all() and dense.features.std() > 0.05
    cut = clip.dense(images[:, :, : 2 * size, : 5 * size], method)
    torch.testing.assert_close(dense.features, cut.features)
    alone = torch.cat([clip.dense(image[None], method).features for image in images])
    torch.testing.assert_close(dense.features, alone, atol=1e-5, rtol=1e-4)
    assert clip.dense(images[:, :, :size, :size]).grid == (1, 1)


@pytest.mark.parametrize("family", FAMILIES)
def test_half_precision(family):
    clip, half = tower(family), copy.deepcopy(tower(family)).to(torch.bfloat16)
    images = pictures(3 * clip.patch_size, 4 * clip.patch_size)
    for method in (None, build_recalibration("SCLIP")):
        full, lower = clip.dense(images, method), half.dense(images, method)
        assert lower.features.dtype == torch.bfloat16
        assert torch.cosine_similarity(full.features, lower.features.float(), dim=1).min() > 0.98
        assert torch.cosine_similarity(full.cls, lower.cls.float(), dim=1).min() > 0.98


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_and_lowered_blocks(family):
    clip, images = tower(family), pictures(3 * tower(family).patch_size, 4 * tower(family).patch_size)
    expected = clip.dense(images, build_recalibration("SCLIP")).features
    for change, least in ((lambda own: own.pack(), 0.99999), (lambda own: own.lower(torch.bfloat16), 0.98)):
        own = copy.deepcopy(clip)
        change(own)
        with torch.inference_mode(), own.autocast():
            found = own.dense(images, build_recalibration("SCLIP")).features
        assert torch.cosine_similarity(found.float(), expected, dim=1).min() > least


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pickle_is_the_same_tower(family):
    clip, images = tower(family), pictures(3 * tower(family).patch_size, 4 * tower(family).patch_size)
    again = pickle.loads(pickle.dumps(clip))
    assert again.weights_hash == clip.weights_hash and again.has == clip.has
    torch.testing.assert_close(again.dense(images).features, clip.dense(images).features)


@pytest.mark.parametrize("family", FAMILIES)
def test_threads_with_other_sizes_do_not_disturb_each_other(family):
    clip, size = tower(family), tower(family).patch_size
    method = build_recalibration("SCLIP")
    asked = [pictures(rows * size, columns * size) for rows, columns in ((2, 6), (6, 2), (3, 4), (4, 3))]
    expected = [clip.dense(images, method).features for images in asked]
    wrong: list[int] = []

    def work(index: int) -> None:
        for _ in range(4):
            wrong.extend([index] * (not torch.equal(clip.dense(asked[index], method).features, expected[index])))

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(asked))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("family", COMPILED)
def test_dense_features_compile_as_one_graph(family):
    clip, method = tower(family), build_recalibration("NACLIP")
    images = pictures(3 * clip.patch_size, 4 * clip.patch_size)
    torch.compiler.reset()
    compiled = torch.compile(lambda given: clip.dense(given, method).features, fullgraph=True, backend="eager")
    with torch.inference_mode():
        torch.testing.assert_close(compiled(images), clip.dense(images, method).features)


@pytest.mark.parametrize("family", OF_OPEN_CLIP)
def test_empty_towers_take_weights(family):
    """A tower whose weights a checkpoint brings has all that no checkpoint holds."""
    clip, images = tower(family), pictures(3 * tower(family).patch_size, 4 * tower(family).patch_size)
    model = build_empty(clip.model_cfg, family, check_config)
    model.load_state_dict(clip.model.state_dict(), assign=True)
    again = ViTClip(model, clip.model_cfg, clip.name).to("cpu")
    assert again.weights_hash == clip.weights_hash and again.logit_bias == clip.logit_bias
    torch.testing.assert_close(again.dense(images).features, clip.dense(images).features)
    torch.testing.assert_close(again.text(["a cat"]), clip.text(["a cat"]))


def test_blocks_that_turn_by_places_ask_for_a_grid():
    clip = tower("EVA-02")
    tokens, grid = clip.embed(pictures(48, 64), "bicubic")
    with pytest.raises(RuntimeError, match="blocks_on"):
        clip.blocks[0].qkv(tokens)
    block = clip.blocks_on(grid)[0]
    assert isinstance(block, RotaryBlock)
    plain, turned = block.placeless.qkv(tokens), block.qkv(tokens)
    torch.testing.assert_close(turned[0][:, :, :1], plain[0][:, :, :1])
    torch.testing.assert_close(turned[0].norm(dim=-1), plain[0].norm(dim=-1))
    assert (turned[0] - plain[0])[:, :, 2:].abs().amax((1, 3)).min() > 1e-3
    torch.testing.assert_close(turned[2], plain[2])


def test_registers_and_places_that_are_only_turned():
    """No CLIP of open_clip has them yet; timm's vision transformers do."""
    name = small("vit_medium_patch16_rope_reg1_gap_256")
    clip = narrow("EVA02-B-16", {"timm_model_name": name, "timm_pool": "avg"})
    assert clip.prefix == 1 and not {CLASS_TOKEN, POSITIONS} & clip.has
    images = pictures(*native(clip))
    torch.testing.assert_close(clip.dense(images).cls, of_source(clip, images), atol=1e-4, rtol=1e-4)
    with pytest.raises(ConfigError, match=r"needs a table of position embeddings, which .* has not; use one that"):
        _ = clip.position_table
    with pytest.raises(ConfigError, match="FALIP needs a class token"):
        clip.dense(images, build_recalibration("FALIP"))


def test_images_that_are_no_squares():
    clip = vit("ViT-B-32", patch_size=8, image_size=[64, 32])(2)
    images = pictures(64, 32)
    torch.testing.assert_close(clip.dense(images).cls, of_source(clip, images), atol=1e-4, rtol=1e-4)
    name = small("vit_base_patch16_siglip_224", img_size=(32, 64))
    clip = narrow("ViT-B-16-SigLIP2", {"timm_model_name": name}, embed_dim=32)
    torch.testing.assert_close(
        clip.dense(pictures(32, 64)).cls, of_source(clip, pictures(32, 64)), atol=1e-4, rtol=1e-4
    )
    assert clip.dense(pictures(32, 64)).grid == (2, 4)


def test_the_scale_and_bias_of_a_sigmoid():
    clip = tower("SigLIP, SigLIP 2")
    assert clip.logit_scale == pytest.approx(float(clip.model.logit_scale.exp()), rel=1e-6)
    assert clip.logit_bias == pytest.approx(float(clip.model.logit_bias)) and clip.logit_bias < -9
    assert tower("EVA-02").logit_bias == 0


@pytest.mark.parametrize(
    ("vision", "message"),
    [
        ({"pool_type": "none"}, "does not pool .* so it has no embedding of an image; expected pool_type 'tok' or"),
        ({"patch_size": [16, 8]}, r"has patches of .* pixels; expected squares"),
        ({"scaled_cosine_attn": True}, "cosine-scaled attention"),
    ],
)
def test_towers_of_open_clip_that_are_refused(vision, message):
    with pytest.raises(ConfigError, match=message) as error:
        vit("ViT-B-32", **{"patch_size": 16, **vision})(1)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arch", "vision", "message"),
    [
        ("swin_base_patch4_window7_224", {}, "the image tower is timm's SwinTransformer; expected blocks of plain"),
        ("vit_relpos_medium_patch16_cls_224", {}, "the image tower is timm's VisionTransformerRelPos; expected"),
        ("MobileCLIP2-S0", {}, "the image tower is timm's FastVit; expected"),  # see `FastViTClip`
        (
            "EVA02-B-16",
            {"timm_model_name": "vit_small_patch16_dinov3"},
            "rotary positions of timm's RotaryEmbeddingDinoV3",
        ),
        ("EVA02-B-16", {"timm_model_name": "vit_base_patch16_siglip_224"}, "Token pooling needs the class token"),
        ("ViT-B-16-SigLIP", {"timm_model_name": "vit_7b_patch16_dinov3", "timm_pool": ""}, "rotary positions"),
        ("ViT-B-16-SigLIP", {"timm_pool": "rot_attn"}, "has no embedding|AssertionError"),
        ("ViT-B-16-SigLIP", {"timm_pool": ""}, "does not pool, so it has no embedding of an image"),
    ],
)
def test_towers_of_timm_that_are_refused(arch, vision, message):
    config = open_clip.get_model_config(arch)
    config["vision_cfg"] |= vision
    with pytest.raises(ConfigError, match=f"{arch}.*{message}") as error:
        ViTClip.check_config(config, arch)
    assert "\n" not in str(error.value)


def test_an_unknown_model_of_timm_is_told_what_comes_near():
    config = open_clip.get_model_config("EVA02-B-16")
    config["vision_cfg"]["timm_model_name"] = "eva02_base_patch16_clip_242"
    with pytest.raises(UnknownNameError, match="did you mean eva02_base_patch16_clip_224"):
        ViTClip.check_config(config, "EVA02-B-16")


def test_every_architecture_of_open_clip_has_a_tower_or_a_sentence():
    """No weights are made: what cannot run is known before anything is fetched."""
    refused = {}
    for arch in open_clip.list_models():
        config = open_clip.get_model_config(arch)
        kind: Any = next(kind for kind in KINDS if kind.fits(config))
        try:
            kind.reader.check_config(config, arch)
        except ConfigError as error:
            refused[arch] = str(error)
            assert str(error).startswith(arch) and "\n" not in str(error) and "; expected " in str(error)
    assert set(refused) == {"swin_base_patch4_window7_224", "vit_relpos_medium_patch16_cls_224"}


@pytest.mark.parametrize("family", ["EVA-02", "PE", "MobileCLIP-B"])
def test_tokens_of_no_place_are_led_as_class_tokens(family):
    """A copy of the class token that sees all patches stays one, whatever is turned by places (SAN)."""
    clip = tower(family)
    tokens, grid = clip.embed(pictures(3 * clip.patch_size, 4 * clip.patch_size), "bicubic")
    blocks = clip.blocks_on(grid)
    patches = run_patches(clip, tokens, blocks, front=1, taps=(len(blocks),))
    starts = clip.class_and_rest(patches.tokens)[0].expand(-1, 2, -1)
    led = run_tail(starts, blocks[1:], patches.seen, [torch.zeros(1, 1, 1, 1)])
    expected = clip.class_and_rest(patches.taps[len(blocks)])[0].expand(-1, 2, -1)
    torch.testing.assert_close(led, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", [name for name in FAMILIES if {CLASS_EMBEDDING, HEADS_ADD} <= tower(name).has])
def test_embeddings_come_apart_into_what_was_written(family):
    clip = tower(family)
    images = pictures(*native(clip))
    parts, expected = decompose(clip, images), of_source(clip, images)
    whole = parts.tokens.sum(1) + parts.mlps.sum(1)
    torch.testing.assert_close(whole, torch.nn.functional.normalize(expected, dim=-1), atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(parts.heads.sum((1, 2)), parts.tokens.sum(1), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("family", ["EVA-02", "SigLIP, SigLIP 2", "ViTamin"])
def test_levels_for_heads(family):
    clip = tower(family)
    pyramid = ViTPyramid.from_config(clip.model_cfg, clip.model.state_dict()).recalibrated(
        build_recalibration("NACLIP")
    )
    levels = pyramid.levels(pictures(64, 96))
    assert {name: level.shape[1] for name, level in levels.items()} == pyramid.channels
    assert levels["dense"].shape[2:] == (4, 6) and all(level.isfinite().all() for level in levels.values())
