from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from ovseg.checkpoint.loading import Weights
from ovseg.config import config_root
from ovseg.contract import CLASS_SCORES, LABELS
from ovseg.errors import ConfigError, UnknownNameError, WeightsError
from ovseg.meta_arch.talk2dino import Talk2DINO
from ovseg.meta_arch.talk2dino.alignment import ALIGNMENTS, contrast, scores
from ovseg.meta_arch.talk2dino.masks import width_of
from ovseg.meta_arch.talk2dino.projection import Projection, read_projection
from ovseg.vocabulary import TextCache, TextEmbedder
from ovseg.zoo import model_config
from ovseg.zoo.names import list_protocols
from ovseg.zoo.needs import needs_of
from tests.meta_arch.models import build, picture, words

NAMES = ("cat", "sofa", "tree")
PLAIN = {"protocol": {"WINDOW": 48, "STRIDE": 24, "PAMR_STEPS": 0}}


@pytest.fixture(scope="module")
def model(tiny_clip):
    return build("talk2dino", tiny_clip, **PLAIN)


def test_words_keep_the_lengths_that_clip_gives_them(model, tmp_path):
    cache = TextCache(tmp_path)
    raw, unit = (TextEmbedder(model.clip, ["a photo of a {}.", "{} there"], cache, raw=raw) for raw in (True, False))
    own = model.clip.text(["a photo of a cat.", "cat there"]).float().mean(0)
    for _ in range(2):  # from the tower, then from the cache, where the two do not meet
        torch.testing.assert_close(raw.embed(["cat"])[0], own)
        assert unit.embed(["cat"])[0].norm().sub(1).abs() < 1e-5
    assert own.norm().sub(1).abs() > 1e-2
    torch.testing.assert_close(model.words(words("cat"), templates="none").embeddings[:1], model.clip.text(["cat"]))


def test_scores_are_sigmoids_of_cosines_and_a_threshold_is_the_background(model):
    image, asked = picture(64, 80), model.words(words(*NAMES))
    encoded = model.encode([image])
    answer = model.answer(encoded, 0, (64, 80), asked, LABELS | {CLASS_SCORES})
    assert 0.2689 < answer.class_scores.min() and answer.class_scores.max() < 0.7311
    assert torch.equal(answer.labels, answer.class_scores.argmax(0).int())
    middle = float(answer.scores.median())
    below = model.answer(encoded, 0, (64, 80), model.words(words(*NAMES), f"threshold:{middle}"))
    assert torch.equal(below.labels, answer.labels.where(answer.scores >= middle, -1))


def test_windows_are_stretched_to_squares_for_the_backbone(model):
    (seen,) = model.encode([picture(48, 80)]).images
    (dense,) = seen.parts[0]
    assert dense.features.shape[1:] == (64, 4, 4) and len(dense.features) == len(seen.plan) == 3
    window = torch.rand(1, 3, 30, 50)
    squares = model.recalibration.squares(window)
    wanted = F.interpolate(window, (64, 64), mode="bilinear", antialias=True)
    mean, std = (
        torch.tensor(model.recalibration.backbone.pretrained_cfg[key]).view(3, 1, 1) for key in ("mean", "std")
    )
    torch.testing.assert_close(squares, (wanted - mean) / std)


def test_cleaning_couples_the_classes(tiny_clip, model):
    clean, image = build("talk2dino", tiny_clip, **PLAIN, CLEANING=0.2), picture(64, 80)
    found = {}
    for names in (NAMES, NAMES[:2]):
        for own in (model, clean):
            encoded = own.encode([image])
            answer = own.answer(encoded, 0, (64, 80), own.words(words(*names)), frozenset({CLASS_SCORES}))
            found[own is clean, len(names)] = answer.class_scores[:2]
    torch.testing.assert_close(found[False, 3], found[False, 2])
    assert (found[True, 3] - found[True, 2]).abs().max() > 1e-5
    assert (found[True, 3] - found[False, 3]).abs().max() > 1e-4
    assert clean.settings["options"]["cleaning"] == 0.2 and clean.settings != model.settings


def test_heads_of_the_authors_of_both_kinds(tiny_clip, tmp_path):
    own = Projection(32, 64)
    state = {key: torch.randn_like(value) for key, value in own.state_dict().items()}
    earlier = {key.replace("hidden_layers.0.", "linear_layer2."): value for key, value in state.items()}
    for index, form in enumerate((state, earlier)):
        torch.save(form, tmp_path / f"{index}.pth")
        filled = build("talk2dino", tiny_clip, tmp_path / f"{index}.pth")
        assert torch.equal(filled.recalibration.projection.hidden_layers[0].weight, state["hidden_layers.0.weight"])
    deeper = Projection(32, 64, hidden=3).state_dict()
    torch.save(deeper, tmp_path / "deeper.pth")
    assert len(build("talk2dino", tiny_clip, tmp_path / "deeper.pth").recalibration.projection.hidden_layers) == 3


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"weight": torch.zeros(1)}, "does not fit|holds none of"),
        ({**Projection(32, 96).state_dict()}, r"does not fit the head of Talk2DINO for 64 channels.*got \(96, 32\)"),
        ({**Projection(32, 64).state_dict(), "more": torch.zeros(2)}, "has unexpected more"),
    ],
)
def test_foreign_heads(tiny_clip, tmp_path, state, message):
    torch.save(state, tmp_path / "head.pth")
    with pytest.raises(WeightsError, match=message):
        build("talk2dino", tiny_clip, tmp_path / "head.pth")


def test_what_a_released_head_belongs_to_is_known_without_any_weights():
    cfg = model_config("talk2dino-b")
    assert width_of("vit_base_patch14_reg4_dinov2.lvd142m") == 768
    Talk2DINO.check_head(cfg, Weights(Projection(512, 768).state_dict(), "head.pth"))
    with pytest.raises(WeightsError, match=r"head\.pth goes from 512 to 1024 channels; expected 512 and 768"):
        Talk2DINO.check_head(cfg, Weights(Projection(512, 1024).state_dict(), "head.pth"))
    with pytest.raises(WeightsError, match=r"head\.pth is no head of Talk2DINO; expected linear_layer\.weight"):
        read_projection({}, "head.pth")


def test_the_section_is_complete_and_checked():
    cfg = model_config("talk2dino-v3-l")
    assert {**cfg.MODEL.Talk2DINO} == {
        "BACKBONE": "vit_large_patch16_dinov3.lvd1689m",
        "SIDE": 448,
        "CLEANING": 0.0,
        "ACTIVATION": "tanh",
    }
    with pytest.raises(ConfigError, match=r"unknown option 'clean' of MODEL\.Talk2DINO; did you mean cleaning"):
        model_config("talk2dino-b", {"MODEL": {"Talk2DINO": {"CLEAN": 0.2}}})


def test_it_needs_its_head_a_clip_and_a_backbone():
    needed = [need.what for need in needs_of("talk2dino-b")]
    assert needed == [
        "model talk2dino-b",
        "CLIP ViT-B-16/openai",
        "guide timm:vit_base_patch14_reg4_dinov2.lvd142m",
    ]


def test_a_head_of_ones_own_needs_the_same_backbone(tiny_clip, tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text(
        "_BASE_: talk2dino/talk2dino-v3-b.yaml\nVERSION: 2\n"
        "MODEL: {WEIGHTS: head.safetensors, CLIP: {ARCH: ViT-L-14}}\n"
    )
    assert [need.what for need in needs_of(str(path))] == [
        "CLIP ViT-L-14/openai",
        "guide timm:vit_base_patch16_dinov3.lvd1689m",
    ]
    with pytest.raises(UnknownNameError, match="unknown timm model 'timm:test_vit'"):  # one way to say it
        build("talk2dino", tiny_clip, BACKBONE="timm:test_vit")


def test_texts_are_not_engineered_by_rules_of_unit_vectors(tiny_clip, tmp_path):
    (tmp_path / "kinds.json").write_text('{"cat": ["lion", "tiger"]}')
    kinds = {"SUBCLASSES": str(tmp_path / "kinds.json")}
    for text in ({"AUTOCLIP": 0.5}, {"AUXILIARY": "definitions_voc20.json"}, kinds):
        with pytest.raises(ConfigError, match=f"at their own lengths, which {next(iter(text)).lower()} changes"):
            build("talk2dino", tiny_clip, text={"TEMPLATES": "openai7", **text})
    with pytest.raises(ConfigError, match="side is 60; expected a multiple of the patch of the backbone, 16"):
        build("talk2dino", tiny_clip, SIDE=60)
    with pytest.raises(ConfigError, match="activation is 'selu'; expected one of tanh, relu, sigmoid"):
        build("talk2dino", tiny_clip, ACTIVATION="selu")
    for value in (-1.0, float("nan")):
        with pytest.raises(ConfigError, match=f"cleaning is {value}; expected at least 0"):
            build("talk2dino", tiny_clip, CLEANING=value)
    with pytest.raises(ConfigError, match="alignment is 'maximum'; expected one of max_score, weighted_avg"):
        scores(torch.ones(1, 4), torch.ones(1, 2, 4), "maximum")


def test_the_own_caption_chooses_the_head_of_an_image():
    texts, heads = torch.randn(4, 6), torch.randn(4, 3, 6)
    unit, seen = F.normalize(texts, dim=-1), F.normalize(heads, dim=-1)
    every = torch.einsum("td,ihd->tih", unit, seen)
    wanted = torch.stack([every[:, i, every[i, i].argmax()] for i in range(4)], 1)
    torch.testing.assert_close(scores(texts, heads), wanted)
    torch.testing.assert_close(scores(texts, heads, "max-row_sum"), every.amax(2).T)
    torch.testing.assert_close(scores(texts, heads, "sum"), 3 * scores(texts, heads, "mean"))
    assert all(scores(texts, heads, name).shape == (4, 4) for name in ALIGNMENTS)
    own = torch.arange(4)
    both = F.cross_entropy(wanted / 0.07, own) + F.cross_entropy(wanted.T / 0.07, own)
    torch.testing.assert_close(contrast(wanted), both / 2 / 16)


def test_benchmarks_have_the_thresholds_of_the_authors():
    for name, threshold in (("talk2dino-b", 0.55), ("talk2dino-l", 0.54)):
        cfg = model_config(name, protocol="voc21")
        assert f"threshold:{threshold}" == cfg.MODEL.TEXT.BACKGROUND and cfg.MODEL.Talk2DINO.CLEANING == 0.2
        assert model_config(name, protocol="pc60").MODEL.Talk2DINO.CLEANING == 0.0
        assert model_config(name, protocol="ade150").MODEL.TEXT.BACKGROUND == "none"


def test_heads_on_dinov3_have_settings_for_cityscapes_alone():
    for name in ("talk2dino-v3-b", "talk2dino-v3-l"):
        assert list_protocols(config_root() / f"talk2dino/{name}.yaml") == ["cityscapes19"]
        assert model_config(name, protocol="cityscapes19").MODEL.TEXT.BACKGROUND == "none"
        assert model_config(name).MODEL.PROTOCOL == model_config("talk2dino-b").MODEL.PROTOCOL
