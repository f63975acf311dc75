"""FC-CLIP on a plain ViT, tiny and random: results, both classifiers, training, and the shipped config."""

from __future__ import annotations

import pytest
import torch
from detectron2.structures import Instances

import ovseg
from ovseg.config import config_root, load_config
from ovseg.errors import ConfigError
from ovseg.meta_arch.fcclip.model import FCCLIP
from ovseg.vocabulary import Vocabulary

CONFIG = config_root() / "fcclip/fcclip_mini_scenes.yaml"
HEAD = {
    "QUERIES": 6,
    "DIM": 32,
    "ENCODER_LAYERS": 1,
    "ENCODER_FFN": 32,
    "DECODER_FFN": 32,
    "POINTS": 64,
    "INSTANCES": True,
    "TRAINED_VOCABULARY": "cat,sofa|couch",
}


def settings(folder, recalibration=None, **changes):
    method = recalibration or {"NAME": "ClearCLIP", "OPTIONS": {"MODEL_TYPE": "MaskCLIP", "LAST_N_LAYERS": 1}}
    return {
        "MODEL": {
            "DEVICE": "cpu",
            "CLIP": {"FOLDER": str(folder)},
            "RECALIBRATION": method,
            "PROTOCOL": {"SHORT_SIDE": 64, "LONG_SIDE": 128},
            "FCCLIP": {**HEAD, **changes},
        }
    }


def build(folder, **changes):
    torch.manual_seed(3)
    model = FCCLIP(load_config(CONFIG, settings(folder, **changes))).eval()
    model.set_vocabulary(Vocabulary.parse(["cat", "sofa|couch", "quark"]))
    return model


@pytest.fixture
def model(tiny_clip):
    return build(tiny_clip)


def photo(height=70, width=90, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {"image": torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)}


def training_photo(seed=0, count=2):
    masks = torch.zeros(count, 64, 64, dtype=torch.bool)
    for i in range(count):
        masks[i, 20 * i : 20 * i + 20, 8:50] = True
    return {**photo(64, 64, seed), "instances": Instances((64, 64), gt_classes=torch.arange(count), gt_masks=masks)}


def test_labels_segments_and_objects_at_the_size_that_was_asked_for(model):
    found = model([photo() | {"height": 100, "width": 120}])[0]
    assert found["labels"].shape == (100, 120) and set(found["labels"].unique().tolist()) <= {0, 1, 2}
    assert found["sem_seg"].shape == (3, 100, 120)
    assert found["panoptic_seg"][0].shape == found["instances"].pred_masks.shape[1:] == (100, 120)


def test_the_words_of_the_training_are_seen(model):
    assert model.seen.tolist() == [True, True, False]


def test_the_share_of_clip_decides_by_the_features_inside_of_masks(model, tiny_clip):
    alone = build(tiny_clip, ALPHA=1.0, BETA=1.0, VALID_MASKS_ONLY=False)
    levels = alone.clip.levels(alone.batch([photo(64, 64)]).images)
    proposals = alone.propose(levels)[-1]
    scores = alone.class_scores(levels, proposals, alone.trained_logits(proposals))[..., :-1].softmax(-1)
    pooled = torch.nn.functional.normalize(alone.clip.pool(levels["dense"], proposals.masks), dim=-1)
    names = alone.queries.embeddings
    columns = (pooled @ names.T * alone.clip.logit_scale)[..., [0, 1, 3]]
    columns[..., 1] = torch.maximum(columns[..., 1], (pooled @ names[2] * alone.clip.logit_scale))
    torch.testing.assert_close(scores, columns.softmax(-1), atol=1e-4, rtol=1e-3)


def test_losses_under_autocast_are_those_without(model):
    model.train()
    batch = [training_photo(0), training_photo(1)]

    def loss(enabled):
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            total = torch.stack(list(model(batch).values())).sum()
        total.backward()
        return float(total)

    assert loss(True) == pytest.approx(loss(False), rel=0.05)


def test_training_lowers_the_loss_and_leaves_clip_alone(model):
    before = model.clip.weights_hash
    model.train()
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trainable and all(name.startswith(model.head) for name in trainable)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-3)
    batch, totals = [training_photo(0), training_photo(1, 1), training_photo(2, 0)], []
    torch.manual_seed(0)
    for _ in range(25):
        total = sum(model(batch).values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(total.item())
    assert not [name for name in trainable if model.get_parameter(name).grad is None]
    assert sum(totals[-5:]) < 0.8 * sum(totals[:5])
    model.clip.refresh()
    assert model.clip.weights_hash == before


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(model, dtype):
    wanted = model([photo(64, 64)])[0]["sem_seg"]
    found = model.to(dtype)([photo(64, 64)])[0]["sem_seg"]
    assert found.isfinite().all()
    assert torch.nn.functional.cosine_similarity(found.flatten(), wanted.flatten(), dim=0) > 0.95


def test_options_that_the_method_does_not_have_are_refused(tiny_clip):
    with pytest.raises(ConfigError, match="unknown option 'model_type'"):
        build(tiny_clip, recalibration={"NAME": "CLIP", "OPTIONS": {"MODEL_TYPE": "x"}})


def test_the_shipped_config_fits_the_embedded_clip():
    segmenter = ovseg.load(str(CONFIG), device="cpu")
    trained = sum(p.numel() for p in segmenter.model.parameters() if p.requires_grad)
    assert trained * 2 < 4e6  # bytes in half precision
    result = segmenter(photo(96, 96)["image"], ["cat", "lemon"])
    assert result.labels.shape == (96, 96) and result.panoptic is not None
    assert result.meta["settings"]["recalibration"] == "ClearCLIP"


def test_a_vit_must_be_asked_for(tiny_clip, tiny_convnext):
    with pytest.raises(ConfigError, match="expected a ConvNeXt or ResNet"):
        build(tiny_clip, VIT=False)
    with pytest.raises(ConfigError, match="expected a vision transformer"):
        build(tiny_convnext)
