from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import timm
import torch

from ovseg.clip import Context
from ovseg.clip.normalise import normalise
from ovseg.errors import ConfigError, DownloadError, UnknownNameError, WeightsError
from ovseg.guides import build_guide
from ovseg.guides.timm import TimmGuide, build_backbone
from tests.hub_double import HubDouble

FACETS = ("token", "query", "key", "value", "query+key")


def context(height, width, batch=2):
    images = torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(0))
    return Context((1, 1), (images - 0.5) / 0.25, None, (0.5,) * 3, (0.25,) * 3)


@pytest.fixture(scope="module")
def backbone():
    torch.manual_seed(0)
    return timm.create_model("test_vit", pretrained=False, num_classes=0, dynamic_img_size=True).eval()


@pytest.fixture(scope="module")
def weights(backbone, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "test_vit.pt"
    torch.save({**backbone.state_dict(), "head.weight": torch.zeros(3, 64), "head.bias": torch.zeros(3)}, path)
    return path


@pytest.mark.parametrize("facet", FACETS)
def test_shape_and_independence_of_the_batch(weights, facet):
    guide = build_guide(f"timm:test_vit@{weights}", facet)
    found = guide(context(64, 96))
    assert found.shape == (2, 64, 4, 6) and found.isfinite().all()
    torch.testing.assert_close(found[:1], guide(context(64, 96, 1)), atol=1e-5, rtol=1e-4)
    assert guide.name == f"timm:test_vit@{weights}" and not any(p.requires_grad for p in guide.parameters())


def test_tokens_are_those_of_timm(backbone, weights):
    given = context(64, 96)
    images = normalise(given.rgb, backbone.pretrained_cfg["mean"], backbone.pretrained_cfg["std"])
    wanted = backbone.forward_intermediates(images, indices=1, norm=True, intermediates_only=True)[-1]
    torch.testing.assert_close(build_guide(f"timm:test_vit@{weights}")(given), wanted)


def test_facets_add_up_and_are_projections(backbone, weights):
    found = {facet: build_guide(f"timm:test_vit@{weights}", facet)(context(64, 64)) for facet in FACETS}
    torch.testing.assert_close(found["query"] + found["key"], found["query+key"])
    seen = []
    backbone.blocks[-1].attn.qkv.register_forward_hook(lambda module, inputs, output: seen.append(output))
    backbone(normalise(context(64, 64).rgb, backbone.pretrained_cfg["mean"], backbone.pretrained_cfg["std"]))
    packed = torch.cat([found[facet].flatten(2).mT for facet in ("query", "key", "value")], -1)
    torch.testing.assert_close(packed, seen[0][:, backbone.num_prefix_tokens :])


def test_threads_read_their_own_images(weights):
    guide = build_guide(f"timm:test_vit@{weights}", "key")
    given = [Context((1, 1), torch.randn(1, 3, 64, 64), None, (0.5,) * 3, (0.25,) * 3) for _ in range(16)]
    expected = [guide(one) for one in given]
    with ThreadPoolExecutor(8) as pool:
        for found, wanted in zip(pool.map(guide, given), expected, strict=True):
            torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize(("size", "grid"), [((70, 101), (4, 6)), ((16, 40), (1, 2)), ((9, 200), (1, 12))])
def test_any_size(weights, size, grid):
    assert build_guide(f"timm:test_vit@{weights}")(context(*size)).shape[2:] == grid


def test_stride(weights):
    fine = build_guide(f"timm:test_vit@{weights}#stride=4", "key")(context(64, 96, 1))
    assert fine.shape == (1, 64, 13, 21)
    same = build_guide(f"timm:test_vit@{weights}#stride=16", "key")(context(64, 96, 1))
    torch.testing.assert_close(same, build_guide(f"timm:test_vit@{weights}", "key")(context(64, 96, 1)))


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "eva02_tiny_patch14_224"])
def test_other_families(name, tmp_path):
    torch.save(timm.create_model(name, pretrained=False, num_classes=0).state_dict(), tmp_path / "weights.pt")
    guide = build_guide(f"timm:{name}@{tmp_path / 'weights.pt'}", "query+key")
    assert guide(context(56, 80, 1)).shape == (1, 192, *((4, 6) if "eva" in name else (4, 5)))


def test_half_precision(weights):
    guide = build_guide(f"timm:test_vit@{weights}")
    full = guide(context(64, 64))
    half = guide.to(torch.bfloat16)(context(64, 64))
    assert half.dtype == torch.bfloat16
    assert torch.cosine_similarity(full, half.float(), dim=1).min() > 0.98


def test_weights_of_a_tag_come_from_the_hub_once(tmp_path, monkeypatch):
    from safetensors.torch import save

    with torch.random.fork_rng():
        own = timm.create_model("test_vit", pretrained=False).state_dict()  # with its classifier, as on the hub
    with HubDouble({"timm/test_vit.r160_in1k": {"model.safetensors": save(own)}}) as hub:
        hub.use(monkeypatch, tmp_path)
        backbone = build_backbone("test_vit.r160_in1k")
        hub.requests.clear()
        again = build_backbone("test_vit.r160_in1k")
        assert not hub.requests
    for key, value in backbone.state_dict().items():
        assert torch.equal(value, own[key]) and torch.equal(value, again.state_dict()[key])


def test_weights_that_cannot_be_had_are_one_line():
    with pytest.raises(
        DownloadError, match=r"vit_base_patch8_224\.dino/model\.safetensors is not on this machine and O"
    ) as caught:
        build_guide("timm:vit_base_patch8_224.dino")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("timm:vit_base_patch8_224.dyno", UnknownNameError, "did you mean vit_base_patch8_224.dino"),
        ("timm:test_vit@nowhere.pt", WeightsError, "nowhere.pt does not exist"),
        ("timm:vit_tiny_patch16_224@{weights}", WeightsError, "does not fit timm:vit_tiny_patch16_224"),
        ("timm:test_vit@{weights}#stride=99", ConfigError, "guide stride is 99; expected 1 to 16"),
        ("timm:test_vit@{weights}#step=2", ConfigError, "guide option '#step=2' is unknown"),
        ("timm:resnet18@{weights}", ConfigError, "expected a plain vision transformer"),
    ],
)
def test_mistakes(weights, name, error, message):
    with pytest.raises(error, match=message) as caught:
        build_guide(name.format(weights=weights))
    assert "\n" not in str(caught.value)


def test_a_transformer_of_another_kind():
    swin = timm.create_model("swin_tiny_patch4_window7_224", pretrained=False, num_classes=0)
    with pytest.raises(ConfigError, match="guide is a SwinTransformer of timm; expected a plain vision transformer"):
        TimmGuide(swin)
