"""FC-CLIP on a plain ViT beyond what all models are held to: both classifiers, autocast in training, its config."""

from __future__ import annotations

import pytest
import torch

from ovseg import zoo
from ovseg.errors import ConfigError
from ovseg.segmenter import Segmenter
from tests.meta_arch import models
from tests.meta_arch.models import picture, shipped, training_picture, words
from tests.meta_arch.tester import ask

LAST_BLOCK = {"NAME": "ClearCLIP", "OPTIONS": {"MODEL_TYPE": "MaskCLIP", "LAST_N_LAYERS": 1}}
SEEN = "cat,sofa|couch"


def build(folder, recalibration=LAST_BLOCK, **changes):
    return models.build("fcclip_vit", folder, recalibration=recalibration, TRAINED_VOCABULARY=SEEN, **changes)


@pytest.fixture
def model(tiny_clip):
    return build(tiny_clip)


def test_the_share_of_clip_decides_by_the_features_inside_of_masks(tiny_clip):
    model = build(tiny_clip, ALPHA=1.0, BETA=1.0, VALID_MASKS_ONLY=False)
    asked = model.words(words("cat", "sofa|couch", "quark"))
    (seen,) = model.encode([picture(64, 64)]).images
    with torch.inference_mode():
        trained = model.trained_logits(seen.embeddings[None], asked)
        scores = model.class_scores(seen, trained, asked)[0, :, :-1].softmax(-1)
    cosines = torch.nn.functional.normalize(seen.pooled, dim=-1) @ asked.embeddings.T * model.clip.logit_scale
    columns = torch.stack([cosines[:, 0], cosines[:, 1:3].amax(1), cosines[:, 3]], dim=1)
    torch.testing.assert_close(scores, columns.softmax(-1), atol=1e-4, rtol=1e-3)


def test_losses_under_autocast_are_those_without(model):
    told = model.train().with_words(model.words(words("cat", "sofa|couch", "quark")))
    batch = [training_picture(0), training_picture(1)]

    def loss(enabled):
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            total = torch.stack(list(told(batch).values())).sum()
        total.backward()
        return float(total.detach())

    assert loss(True) == pytest.approx(loss(False), rel=0.05)


def test_options_that_the_method_does_not_have_are_refused(tiny_clip):
    with pytest.raises(ConfigError, match="unknown option 'model_type'"):
        build(tiny_clip, recalibration={"NAME": "CLIP", "OPTIONS": {"MODEL_TYPE": "x"}})


def test_a_method_that_is_no_graph_says_so(tiny_clip):
    model = models.build("fcclip", tiny_clip, VIT=True, recalibration={"NAME": "Zero_Guidance"})
    assert ask(model, [picture(64, 64)], model.words(words("cat", "quark")))[0].scores.isfinite().all()
    with pytest.raises(ConfigError, match="FCCLIP is not compiled: in Zero_Guidance segments come from a clustering"):
        model.compile_network()


def test_the_shipped_config_fits_the_embedded_clip():
    segmenter = Segmenter(zoo.build(zoo.resolve(shipped("fcclip_vit")), untrained=True), "fcclip", "cpu")
    trained = sum(p.numel() for p in segmenter.model.parameters() if p.requires_grad)
    assert trained * 2 < 4e6  # bytes in half precision
    result = segmenter(picture(96, 96), ["cat", "lemon"])
    assert result.labels.shape == (96, 96) and result.panoptic is not None
    assert result.meta["settings"]["recalibration"] == "ClearCLIP"


def test_a_vit_must_be_asked_for(tiny_clip, tiny_convnext):
    with pytest.raises(ConfigError, match="use a ConvNeXt or ResNet"):
        build(tiny_clip, VIT=False)
    with pytest.raises(ConfigError, match="expected blocks of plain attention"):
        build(tiny_convnext)
