"""Every method on the depths, patch sizes and variants of open_clip's ViTs, narrowed so that it takes no time."""

from __future__ import annotations

import copy

import pytest
import torch

from ovseg.clip import ViTClip
from ovseg.clip.open_clip_internals import build_model, import_open_clip
from ovseg.errors import ConfigError
from ovseg.recalibration import build_recalibration, list_recalibrations
from tests.words import make_words

RUN = ["ViT-B-32", "ViT-B-16", "ViT-L-14", "ViT-L-14-336", "ViT-H-14"]
REFUSED = {
    "swin_base_patch4_window7_224": "SwinTransformer; expected blocks of plain attention",
    "MobileCLIP2-S0": "FastVit; expected blocks of plain attention",
    "RN50": "ResNet tower; expected a vision transformer",
}


def narrow(arch: str) -> ViTClip:
    """Build an architecture with its depth and patch size but few channels."""
    config = copy.deepcopy(import_open_clip().get_model_config(arch))
    config["embed_dim"] = 16
    config["vision_cfg"] |= {"width": 32, "head_width": 8, "mlp_ratio": 2}
    config["text_cfg"] |= {"width": 16, "heads": 2, "layers": 1, "vocab_size": 8, "context_length": 4}
    torch.manual_seed(0)
    return ViTClip.from_config(config, build_model(config, arch).state_dict(), arch)


@pytest.fixture(scope="module", params=RUN)
def clip(request) -> ViTClip:
    return narrow(request.param)


@pytest.mark.parametrize("name", list_recalibrations())
def test_every_method_runs(clip, name):
    method = build_recalibration(name)
    side = 5 * clip.patch_size
    images = torch.randn(1, 3, side, side + 2 * clip.patch_size)
    regions = (torch.arange(images.shape[3]) * 3 // images.shape[3]).expand(1, side, -1)
    queries = make_words(torch.nn.functional.normalize(torch.randn(4, 16), dim=1), torch.tensor([0, 0, 1, 2]))
    with torch.inference_mode():
        dense = method.encode(clip, images, regions if method.uses_regions else None)
        scores = method.patch_scores(dense, queries)
    assert scores.shape[:2] == (1, 4) and scores.isfinite().all()


@pytest.mark.parametrize(("arch", "reason"), REFUSED.items())
def test_others_are_refused_in_one_sentence(arch, reason):
    with pytest.raises(ConfigError, match=reason) as error:
        ViTClip.load(arch, "none")
    assert "\n" not in str(error.value)
