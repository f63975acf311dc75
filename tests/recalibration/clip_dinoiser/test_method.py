"""CLIP-DINOiser beyond its goldens: heads of any width and block, guides on other grids, the background, files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import ovseg
from ovseg.clip import ViTClip
from ovseg.clip.open_clip_internals import build_model
from ovseg.contract import Words
from ovseg.errors import ConfigError, WeightsError
from ovseg.guides import Guide
from ovseg.recalibration import build_recalibration
from ovseg.recalibration.clip_dinoiser.found import load_found
from ovseg.recalibration.clip_dinoiser.heads import LightHeads, load_heads
from ovseg.recalibration.clip_dinoiser.method import Inner, Objects
from tests.words import make_words

ROOT = Path(__file__).resolve().parents[3]
OFFICIAL = {  # names and shapes of the file that the authors released
    "obj_proj.weight": (256, 768, 3, 3),
    "obj_proj.bias": (256,),
    "bkg_decoder.weight": (1, 768, 1, 1),
    "bkg_decoder.bias": (1,),
}


def make_clip(depth: int, patch: int = 8) -> ViTClip:
    config = {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 4 * patch, "patch_size": patch, "layers": depth, "width": 32, "head_width": 8},
        "text_cfg": {"context_length": 8, "vocab_size": 8, "width": 8, "heads": 1, "layers": 1},
    }
    torch.manual_seed(5)
    model = build_model(config, "test")
    for parameter in model.visual.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return ViTClip.from_config(config, model.state_dict(), "test")


@pytest.fixture(scope="module")
def clip() -> ViTClip:
    return make_clip(4)


def queries(count: int = 3, classes: list[int] | None = None) -> Words:
    texts = torch.nn.functional.normalize(torch.randn(count, 24, generator=torch.Generator().manual_seed(1)), dim=1)
    return make_words(texts, torch.tensor(classes or list(range(count))))


def heads(channels: int = 32, kernel: int = 3) -> LightHeads:
    torch.manual_seed(2)
    return LightHeads(channels, 6, kernel)


@pytest.mark.parametrize("size", [(32, 32), (17, 41)])
@pytest.mark.parametrize("options", [{}, {"feats_idx": 0.5}, {"feats_idx": 0}, {"feats_idx": "final"}])
@torch.no_grad()
def test_heads_at_any_size_and_block(clip, options, size):
    method = build_recalibration("clip_dinoiser", weights=heads(24 if "final" in options.values() else 32), **options)
    images = torch.randn(3, 3, *size)
    scores = method.patch_scores(clip.dense(images, method), queries())
    assert scores.shape == (3, 3, size[0] // 8, size[1] // 8)
    torch.testing.assert_close(scores.sum(1), torch.ones_like(scores[:, 0]))
    alone = torch.cat([method.patch_scores(clip.dense(image[None], method), queries()) for image in images])
    torch.testing.assert_close(scores, alone, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_other_depths_read_the_third_last_block():
    for depth in (3, 6):
        clip, method = make_clip(depth), build_recalibration("clip_dinoiser", weights=heads())
        images = torch.randn(1, 3, 32, 32)
        found = clip.dense(images, method).context.kept(Inner).features
        caught = []
        module = clip.model.visual.transformer.resblocks[-3].ln_2
        handle = module.register_forward_hook(lambda module, inputs, output, caught=caught: caught.append(output))
        clip.dense(images)
        handle.remove()
        torch.testing.assert_close(found, caught[0][:, 1:].mT.unflatten(-1, (4, 4)))


@torch.no_grad()
def test_half_precision(clip):
    images, own = torch.randn(1, 3, 32, 40), heads()
    method = build_recalibration("clip_dinoiser", weights=own)
    full = clip.dense(images, method).features
    try:
        half = clip.to(torch.bfloat16).dense(images, method.to(torch.bfloat16)).features
    finally:
        clip.float()
    assert half.dtype == torch.bfloat16
    assert torch.cosine_similarity(full, half.float(), dim=1).min() > 0.98


class Halves(Guide):
    """Left and right belong together, on a grid that is not that of the patches."""

    def forward(self, context):
        left = (torch.arange(6) < 3).float().expand(len(context.images), 5, 6)
        return torch.stack([left, 1 - left], dim=1)


@torch.no_grad()
def test_a_guide_pools_what_it_correlates_on_its_own_grid(clip):
    method = build_recalibration("clip_dinoiser", guide=Halves())
    dense = clip.dense(torch.randn(2, 3, 32, 32), method)
    assert dense.grid == (5, 6) and dense.features.shape == (2, 24, 5, 6)
    for half in (dense.features[..., :3], dense.features[..., 3:]):
        torch.testing.assert_close(half, half[..., :1, :1].expand_as(half))
    assert (dense.features[..., 0] - dense.features[..., 5]).abs().max() > 1e-2
    assert method.options["judge_name"] == "Halves"


@torch.no_grad()
def test_without_a_threshold_negative_correlations_count(clip):
    images = torch.randn(1, 3, 32, 32)
    found = [
        clip.dense(images, build_recalibration("clip_dinoiser", weights=heads(), gamma=g)) for g in (None, -1, 0.0)
    ]
    torch.testing.assert_close(found[0].features, found[1].features)
    assert (found[0].features - found[2].features).abs().max() > 1e-3


@pytest.mark.parametrize(("found_class", "column"), [(0, [0]), (2, [3]), (-1, [1, 2])])
@torch.no_grad()
def test_background_rule(clip, found_class, column):
    own, texts = heads(), queries(4, [0, -1, -1, 2])
    options = {"weights": own, "delta": 0.9}
    plain = build_recalibration("clip_dinoiser", **options)
    ruled = build_recalibration("clip_dinoiser", **options, found_class=found_class)
    dense = clip.dense(3 * torch.randn(1, 3, 64, 64), ruled)
    before, after = (method.patch_scores(dense, texts)[0] for method in (plain, ruled))
    logits = dense.context.kept(Objects).logits[0, 0]
    empty = (before.amax(0) < 0.9) & (logits.sigmoid() <= 0.5)
    assert 0 < empty.sum() < empty.numel()
    for query in range(4):
        expected = before[query].masked_fill(empty, 1.0) if query in column else before[query]
        torch.testing.assert_close(after[query], expected)


@torch.no_grad()
def test_mistakes_of_options(clip):
    images = torch.randn(1, 3, 32, 32)
    with pytest.raises(ConfigError, match=r"found_class is 0 but nothing tells objects; give weights"):
        build_recalibration("clip_dinoiser", found_class=0)
    with pytest.raises(ConfigError, match="feats_idx is 'fianl'; expected one of final"):
        build_recalibration("clip_dinoiser", feats_idx="fianl")
    with pytest.raises(ConfigError, match=r"number of blocks from feats_idx -1 on is 1; expected at least 2"):
        clip.dense(images, build_recalibration("clip_dinoiser", weights=heads(), feats_idx=-1))
    with pytest.raises(ConfigError, match="layer -9 names no block of 4"):
        clip.dense(images, build_recalibration("clip_dinoiser", weights=heads(), feats_idx=-9))
    with pytest.raises(WeightsError, match=r"heads read 768 channels but this CLIP gives 32; train heads with tools/"):
        clip.dense(images, build_recalibration("clip_dinoiser", weights=heads(768)))
    method = build_recalibration("clip_dinoiser", weights=heads(), found_class=7)
    with pytest.raises(ConfigError, match="found_class is 7 but no word is of that class"):
        method.patch_scores(clip.dense(images, method), queries())


def test_the_released_layout_is_read_whole(tmp_path: Path):
    state = {key: torch.randn(shape) for key, shape in OFFICIAL.items()}
    torch.save({"epoch": 99, "model_state_dict": state}, tmp_path / "last.pt")
    own = load_heads(tmp_path / "last.pt")
    assert {key: tuple(value.shape) for key, value in own.state_dict().items()} == OFFICIAL
    assert all(torch.equal(value, state[key]) for key, value in own.state_dict().items())
    assert not own.training and not any(parameter.requires_grad for parameter in own.parameters())


def test_kernel_and_widths_are_read_from_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    save_file({key: value.half() for key, value in heads(16, 5).state_dict().items()}, tmp_path / "own.safetensors")
    own = load_heads(tmp_path / "own.safetensors")
    assert own.obj_proj.kernel_size == (5, 5) and own(torch.randn(1, 16, 3, 7))[0].shape == (1, 6, 3, 7)
    monkeypatch.setattr("ovseg.recalibration.clip_dinoiser.heads.PACKAGE", tmp_path)
    assert load_heads("own.safetensors").name == "own.safetensors"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"obj_proj.weight": None}, r"heads.safetensors lacks it; expected obj_proj.weight \(dim, channels, k, k\)"),
        ({"obj_proj.weight": torch.zeros(6, 32, 2, 2)}, r"has shape \(6, 32, 2, 2\); expected .* k odd"),
        ({"bkg_decoder.bias": None}, "misses bkg_decoder.bias"),
        ({"decode_head.proj": torch.zeros(2)}, "has unexpected decode_head.proj"),
        ({"bkg_decoder.weight": torch.zeros(1, 31, 1, 1)}, "mis-shaped bkg_decoder.weight"),
    ],
)
def test_files_that_are_no_heads(tmp_path: Path, change, message):
    state = {key: value for key, value in {**heads().state_dict(), **change}.items() if value is not None}
    save_file(state, tmp_path / "heads.safetensors")
    with pytest.raises(WeightsError, match=message) as caught:
        build_recalibration("clip_dinoiser", weights=str(tmp_path / "heads.safetensors"))
    assert "\n" not in str(caught.value)


def test_no_file():
    with pytest.raises(WeightsError, match=r"no heads of CLIP-DINOiser at 'checkpoints/last.pt'; train heads with"):
        build_recalibration("clip_dinoiser", weights="checkpoints/last.pt")


def test_heads_of_the_embedded_clip():
    segmenter = ovseg.load("clip_dinoiser/mini", "cpu")
    options = segmenter.model.settings["options"]
    assert options["judge_name"] == "assets/mini/clip_dinoiser.safetensors"
    result = segmenter(ROOT / "examples/picnic.jpg", "pizza, watermelon, grass")
    assert {segment.name for segment in result.segments} == {"pizza", "watermelon", "grass"}
    assert 0 < result.scores.min() and result.scores.max() <= 1


def test_head_of_found(tmp_path: Path):
    state = torch.nn.Conv2d(5, 1, 1).state_dict()
    torch.save({"decoder": state}, tmp_path / "found.pt")
    assert torch.equal(load_found(tmp_path / "found.pt").weight, state["weight"])
    torch.save({"decoder": {"bias": state["bias"]}}, tmp_path / "found.pt")
    with pytest.raises(WeightsError, match=r"found.pt is no head of FOUND; expected 'decoder' with weight"):
        load_found(tmp_path / "found.pt")
    with pytest.raises(WeightsError, match="does not exist"):
        load_found(tmp_path / "nothing.pt")
