"""Every method under `torch.compile` as one graph, or with a reason; on packed weights; and in lower precision."""

from __future__ import annotations

import pytest
import torch

from ovseg.clip import ViTClip
from ovseg.clip.open_clip_internals import build_model
from ovseg.data.preprocessing import SizeRule
from ovseg.errors import ConfigError
from ovseg.labelling.protocol import Protocol
from ovseg.labelling.scores import ScoreRule
from ovseg.meta_arch.training_free import TrainingFree
from ovseg.ops.linear_layers import PackedLinear, can_pack
from ovseg.recalibration import Recalibration, build_recalibration, list_recalibrations
from ovseg.regions import REGIONS
from ovseg.system.registry import build
from ovseg.vocabulary import Vocabulary

NAMES = list_recalibrations()
OPTIONS = {"GEM": {"depth": 3}, "CLIP_Surgery": {"last_n_layers": 2}, "RedCircle": {"scales": (0.5,)}}  # few blocks
CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "layers": 3, "width": 24, "head_width": 8},
    "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


def make(**vision: object) -> ViTClip:
    torch.manual_seed(3)
    config = {**CONFIG, "vision_cfg": CONFIG["vision_cfg"] | vision}
    model = build_model(config, "test")
    for parameter in model.visual.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return ViTClip.from_config(config, model.state_dict(), "test")


@pytest.fixture(scope="module")
def clip() -> ViTClip:
    return make()


def model_of(clip: ViTClip, method: Recalibration) -> TrainingFree:
    regions = build(REGIONS, "MeanShift", {}) if method.uses_regions else None
    parts = {"size_rule": SizeRule(32, 64), "protocol": Protocol(0, 0, "none"), "rule": ScoreRule(40.0)}
    return TrainingFree(
        clip=clip, recalibration=method, templates="none", background="none", regions=regions, **parts
    ).eval()


@pytest.mark.skipif(
    torch.__version__.startswith("2.4."), reason="torch.compile of 2.4 does not trace them, and says so"
)
@pytest.mark.parametrize("name", NAMES)
def test_every_method_is_one_graph_or_says_why_not(clip, name):
    """The graph is traced for one size, and for sizes that change."""
    torch._dynamo.reset()
    method = build_recalibration(name, **OPTIONS.get(name, {}))
    model = model_of(clip, method)
    if model.not_compiled:
        with pytest.raises(ConfigError, match=f"^TrainingFree is not compiled: in {name} .*; leave compile out"):
            model.compile_network("eager")
        return
    model.compile_network("eager")
    with torch.inference_mode():
        for size in ((32, 40), (48, 32)):
            windows = torch.randn(2, 3, *size)
            found, wanted = model.run_network(windows), method.encode(clip, windows)
            torch.testing.assert_close(found.features, wanted.features, atol=1e-5, rtol=1e-4)
            assert found.context.own.keys() == wanted.context.own.keys() and found.context.tower is clip
    words = model.words(Vocabulary.parse(["cat", "sofa"]))
    answer = model.answer(model.encode([255 * torch.rand(3, 32, 40)] * 2), 1, (32, 40), words)
    assert answer.scores.isfinite().all()


@pytest.mark.skipif(not can_pack(), reason="this PyTorch has no packed layers")
@pytest.mark.parametrize("name", NAMES)
def test_packed_weights_give_what_weights_give(clip, name):
    packed, image = make(), 255 * torch.rand(3, 32, 40, generator=torch.Generator().manual_seed(1))
    maps = []
    for tower in (clip, packed):
        model = model_of(tower, build_recalibration(name, **OPTIONS.get(name, {})))
        if tower is packed:
            model.pack()
        words = model.words(Vocabulary.parse(["cat", "sofa"]))
        maps.append(model.patch_scores(model.encode([image]).images[0], words))
    torch.testing.assert_close(*maps, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", NAMES)
def test_lower_precision_of_the_blocks_gives_nearly_the_same(clip, name, dtype):
    """Whatever of a method runs blocks, it does so in their precision, and all that is compared is in full."""
    lowered, image = make(), 255 * torch.rand(3, 32, 40, generator=torch.Generator().manual_seed(1))
    maps = []
    for tower in (clip, lowered):
        model = model_of(tower, build_recalibration(name, **OPTIONS.get(name, {})))
        if tower is lowered:
            model.place(torch.device("cpu"), dtype)
        words = model.words(Vocabulary.parse(["cat", "sofa"]))
        maps.append(model.patch_scores(model.encode([image]).images[0], words))
    assert maps[1].dtype == torch.float32
    assert torch.cosine_similarity(*(scores.flatten() for scores in maps), dim=0) > 0.99


@pytest.mark.skipif(not can_pack(), reason="this PyTorch has no packed layers")
@pytest.mark.parametrize("vision", [{}, {"scale_attn": True, "scale_fc": True}])
def test_packing_reaches_all_products_of_the_blocks(vision):
    try:
        plain, packed = make(**vision), make(**vision)
    except ConfigError:
        pytest.skip("the custom block came with open_clip 3")
    images = torch.randn(1, 3, 32, 40)
    packed.pack()
    packed.pack()  # what is packed stays so
    left = [name for name, _ in packed.model.visual.transformer.named_parameters() if name.endswith("weight")]
    assert all("ln" in name.split(".")[-2] for name in left)
    assert sum(isinstance(module, PackedLinear) for module in packed.modules()) == 3 * packed.depth
    with torch.inference_mode():
        torch.testing.assert_close(packed.dense(images).features, plain.dense(images).features, atol=1e-3, rtol=1e-3)
