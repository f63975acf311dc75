"""FC-CLIP end to end with tiny random models: results, words, ensemble, training, checkpoints, the API."""

from __future__ import annotations

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Instances
from safetensors.torch import save_file

import ovseg
from ovseg.config import config_root, load_config
from ovseg.errors import ConfigError, WeightsError
from ovseg.meta_arch.fcclip.model import Ensemble, seen_classes
from ovseg.meta_arch.fcclip.weights import official_name
from ovseg.vocabulary import Vocabulary

WORDS = ["cat", "sofa|couch", "quark"]
HEAD = {
    "QUERIES": 6,
    "DIM": 32,
    "HEADS": 4,
    "ENCODER_LAYERS": 1,
    "ENCODER_FFN": 32,
    "DECODER_LAYERS": 3,
    "DECODER_FFN": 32,
    "POINTS": 64,
}


def settings(folder, weights="", text=None, **changes):
    return {
        "MODEL": {
            "DEVICE": "cpu",
            "WEIGHTS": str(weights),
            "CLIP": {"FOLDER": str(folder)},
            "TEXT": {"TEMPLATES": "simple", **(text or {})},
            "PROTOCOL": {"SHORT_SIDE": 64, "LONG_SIDE": 128},
            "FCCLIP": {**HEAD, **changes},
        }
    }


def build(folder, weights="", words=WORDS, background=None, text=None, **changes):
    torch.manual_seed(3)
    cfg = load_config(config_root() / "fcclip/fcclip-convnext-l.yaml", settings(folder, weights, text, **changes))
    model = build_model(cfg).eval()
    model.set_vocabulary(Vocabulary.parse(words), background)
    return model


@pytest.fixture
def model(tiny_convnext):
    return build(tiny_convnext)


def photo(height=70, width=90, seed=0, **more):
    generator = torch.Generator().manual_seed(seed)
    return {"image": torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8), **more}


def training_photo(seed=0, count=2):
    entry = photo(64, 64, seed)
    masks = torch.zeros(count, 64, 64, dtype=torch.bool)
    for i in range(count):
        masks[i, 20 * i : 20 * i + 20, 8:50] = True
    instances = Instances((64, 64), gt_classes=torch.arange(count) % 3, gt_masks=masks)
    return {**entry, "instances": instances}


def test_results_of_detectron2_at_the_size_that_was_asked_for(model):
    first, second = model([photo(height=70, width=90) | {"height": 100, "width": 120}, photo(40, 50, 1)])
    assert first["labels"].shape == first["scores"].shape == (100, 120)
    assert first["labels"].dtype == torch.int32 and set(first["labels"].unique().tolist()) <= {0, 1, 2}
    assert 0 <= first["scores"].min() and first["scores"].max() <= 1
    assert first["sem_seg"].shape == (3, 100, 120)
    assert torch.equal(first["sem_seg"].argmax(0).int(), first["labels"])
    ids, infos = first["panoptic_seg"]
    assert ids.shape == (100, 120) and {info["id"] for info in infos} >= set(ids.unique().tolist()) - {0}
    assert first["instances"].pred_masks.shape[1:] == (100, 120)
    assert second["labels"].shape == (40, 50)


def test_without_full_scores_no_stack_of_maps_is_returned(model):
    model.full_scores = False
    found = model([photo()])[0]
    assert set(found) == {"labels", "scores", "panoptic_seg"}


def test_resnets_run_too(tiny_resnet):
    found = build(tiny_resnet, VALID_MASKS_ONLY=True)([photo()])[0]
    assert found["sem_seg"].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(model, dtype):
    wanted = model([photo(64, 64)])[0]["sem_seg"]
    found = model.to(dtype)([photo(64, 64)])[0]["sem_seg"]
    assert found.isfinite().all()
    assert torch.nn.functional.cosine_similarity(found.flatten(), wanted.flatten(), dim=0) > 0.95


def test_an_image_alone_is_the_same_as_in_a_batch_of_its_size(model):
    inputs = [photo(seed=i) for i in range(2)]
    for one, together in zip([model([entry])[0] for entry in inputs], model(inputs), strict=True):
        torch.testing.assert_close(one["sem_seg"], together["sem_seg"], atol=1e-4, rtol=1e-3)


def test_words_of_no_class_compete_and_a_threshold_leaves_pixels_out(model, tiny_convnext):
    model.set_vocabulary(Vocabulary.parse(WORDS), ["sky", "wall", "cup"])
    assert model.seen.tolist() == [True, True, False, True, True, True]  # those of the training
    found = model([photo()])[0]
    assert found["sem_seg"].shape[0] == 3 and set(found["labels"].unique().tolist()) <= {-1, 0, 1, 2}
    strict = build(tiny_convnext, background="threshold:1.0")([photo()])[0]
    assert (strict["labels"][strict["scores"] < 1] == -1).all()


def test_a_single_class_has_contrast_words(tiny_convnext):
    model = build(tiny_convnext, words=["quark"])
    assert len(model.seen) == len(model.columns()[1]) > 1
    assert model([photo()])[0]["sem_seg"].shape[0] == 1


def test_a_class_is_seen_by_one_name_to_the_letter():
    known = frozenset(Vocabulary.parse("coco133").queries)
    names = [("building", "edifice"), ("Sky",), ("clouds",), ("wall-brick",), ("lamp post", "bulb")]
    assert seen_classes(names, known).tolist() == [True, False, True, False, True]
    assert seen_classes((entry.names for entry in Vocabulary.parse("coco133")), known).all()


def test_the_words_of_a_training_are_seen_behind_it(tiny_convnext):
    model = build(tiny_convnext, TRAINED_VOCABULARY="")
    assert not model.seen.any()
    model.train().set_vocabulary(Vocabulary.parse(["cat", "quark"]))
    model.eval().set_vocabulary(Vocabulary.parse(WORDS))
    assert model.seen.tolist() == [True, False, True]
    told = build(tiny_convnext, TRAINED_VOCABULARY="", text={"VOCABULARY": "sofa, bed"})
    assert told.seen.tolist() == [False, True, False]


def test_seen_classes_trust_the_trained_classifier_more():
    trained, own = torch.tensor([[[2.0, 0, -9]]]), torch.tensor([[[0.0, 2, -9]]])
    masks, grid = torch.ones(1, 1, 2, 2), (1, 1)
    scores = [
        Ensemble().scores(trained, own, masks, torch.tensor(seen), grid)[0, 0] for seen in ([True] * 2, [False] * 2)
    ]
    assert scores[0].argmax() == 0 and scores[1].argmax() == 1
    assert scores[0].exp().sum().item() == pytest.approx(1, abs=1e-5)
    empty = Ensemble(valid_masks_only=True).scores(trained, own * torch.nan, -masks, torch.tensor([True] * 2), grid)
    torch.testing.assert_close(empty[0, 0].exp(), trained[0, 0].softmax(-1), atol=1e-6, rtol=1e-5)


def test_training_learns_the_head_and_nothing_else(model):
    model.train()
    assert not model.clip.training
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trainable and all(name.startswith(model.head) for name in trainable)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-3)
    batch, totals = [training_photo(0), training_photo(1, 1), training_photo(2, 0)], []
    torch.manual_seed(0)
    for _ in range(25):
        losses = model(batch)
        total = sum(losses.values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(total.item())
    assert set(losses) == {f"loss_{p}{s}" for p in ("ce", "mask", "dice") for s in ("", "_0", "_1", "_2")}
    without = [name for name in trainable if model.get_parameter(name).grad is None]
    assert not without
    assert sum(totals[-5:]) < 0.8 * sum(totals[:5])


def test_label_maps_and_bit_masks_train_as_well(model):
    model.train()
    semantic = {**photo(50, 64), "sem_seg": torch.full((50, 64), 255)}
    semantic["sem_seg"][:20] = 1
    bits = training_photo()
    bits["instances"].gt_masks = BitMasks(bits["instances"].gt_masks)
    assert sum(model([semantic, bits]).values()).isfinite()
    with pytest.raises(ConfigError, match="expected 'instances' or 'sem_seg'"):
        model([photo()])


def test_released_names_come_back(model, tiny_convnext, tmp_path):
    official = {official_name(key): value for key, value in model.state_dict().items()}
    assert {"backbone.clip_model.logit_scale", "void_embedding.weight"} < set(official)
    assert "sem_seg_head.predictor.transformer_cross_attention_layers.2.multihead_attn.in_proj_weight" in official
    torch.save({"model": {**official, "criterion.empty_weight": torch.ones(134)}, "iteration": 7}, tmp_path / "a.pth")
    again = build(tiny_convnext, tmp_path / "a.pth")
    assert again.weights_hash == model.weights_hash
    assert torch.equal(again([photo()])[0]["sem_seg"], model([photo()])[0]["sem_seg"])


def test_our_own_checkpoints_may_lack_the_clip(model, tiny_convnext, tmp_path):
    head = {key: value for key, value in model.state_dict().items() if key.startswith(model.head)}
    save_file(head, tmp_path / "head.safetensors")
    assert build(tiny_convnext, tmp_path / "head.safetensors").weights_hash == model.weights_hash
    save_file(model.state_dict(), tmp_path / "all.safetensors")
    assert build(tiny_convnext, tmp_path / "all.safetensors").weights_hash == model.weights_hash


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("void_embedding.weight"), "misses void_embedding.weight"),
        (lambda state: state.update({"sem_seg_head.extra": torch.ones(1)}), "has unexpected sem_seg_head.extra"),
        (lambda state: state.update({"void_embedding.weight": torch.ones(2, 16)}), "mis-shaped void_embedding.weight"),
    ],
)
def test_what_does_not_fit_is_named(model, tiny_convnext, tmp_path, change, message):
    state = {official_name(key): value for key, value in model.state_dict().items()}
    change(state)
    torch.save({"model": state}, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=message) as caught:
        build(tiny_convnext, tmp_path / "a.pth")
    assert "\n" not in str(caught.value)


def test_the_hash_follows_the_head(model, tiny_convnext):
    before = model.weights_hash
    model.train()
    model.void.weight.data += 1
    model.eval()
    assert model.weights_hash != before


def test_mistakes_are_one_line(tiny_convnext, tiny_clip):
    with pytest.raises(ConfigError, match=r"alpha 2\.0 and beta 0\.8; expected numbers in 0\.\.1"):
        build(tiny_convnext, ALPHA=2.0)
    with pytest.raises(ConfigError, match="AutoCLIP"):
        build(tiny_convnext, text={"AUTOCLIP": 0.5, "TEMPLATES": "vild14"})
    with pytest.raises(ConfigError, match="expected a ConvNeXt or ResNet"):
        build(tiny_clip)
    cfg = load_config(config_root() / "fcclip/fcclip-convnext-l.yaml", settings(tiny_convnext))
    with pytest.raises(ConfigError, match="no vocabulary"):
        build_model(cfg).eval()([photo()])


def test_the_api_segments_with_it(tiny_convnext, photos, tmp_path):
    config = tmp_path / "tiny.yaml"
    config.write_text(f"_BASE_: {config_root() / 'fcclip/fcclip-convnext-l.yaml'}\nVERSION: 2\n")
    segmenter = ovseg.load(str(config), device="cpu", overrides=settings(tiny_convnext))
    results = segmenter(str(photos), ["cat", "sofa|couch"])
    assert [result.labels.shape for result in results] == [(72, 96), (72, 96), (80, 60)]
    assert results[0].meta["settings"]["ensemble"] == {"alpha": 0.4, "beta": 0.8, "valid_masks_only": False}


@pytest.mark.parametrize("name", ["fcclip-convnext-l", "fcclip-rn50", "fcclip-rn101", "fcclip-rn50x64"])
def test_released_models_say_what_to_fetch(name):
    with pytest.raises(WeightsError, match=r"fetch fcclip_cocopan.*\.pth from https://drive\.google\.com/file/d/.+"):
        ovseg.load(name, device="cpu")
