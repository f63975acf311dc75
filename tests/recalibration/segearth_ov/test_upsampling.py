from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import ovseg
from ovseg.clip import ViTClip
from ovseg.clip.open_clip_internals import build_model
from ovseg.config import config_root
from ovseg.contract import CLASS_SCORES, LABELS
from ovseg.data.preprocessing import SizeRule
from ovseg.errors import ConfigError, WeightsError
from ovseg.labelling.protocol import Protocol
from ovseg.labelling.scores import ScoreRule
from ovseg.meta_arch.training_free import TrainingFree
from ovseg.ops import late_scores
from ovseg.recalibration import build_recalibration
from ovseg.recalibration.segearth_ov.upsamplers import Kernels, Upsampler, load_upsampler, pad
from ovseg.zoo import model_config
from ovseg.zoo.names import list_protocols
from ovseg.zoo.needs import needs_of
from tests.meta_arch.tester import Largest
from tests.words import make_words

DIM = 24


@pytest.fixture(scope="module")
def clip():
    config = {
        "embed_dim": DIM,
        "vision_cfg": {"image_size": 64, "patch_size": 16, "layers": 2, "width": 32, "head_width": 8},
        "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 32, "heads": 4, "layers": 1},
    }
    torch.manual_seed(3)
    return ViTClip.from_config(config, build_model(config, "test").state_dict(), "test")


def upsampler(channels=DIM, radius=2, shared=True):
    torch.manual_seed(1)
    found = Upsampler(channels, radius, 8, shared)
    for parameter in found.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return found.eval().requires_grad_(False)


def by_unfolding(step: Kernels, features, image):
    """One step written from the page, on all channels."""
    weights = step(image)
    source = F.interpolate(features, image.shape[2:], mode="bicubic")
    around = F.unfold(pad(source, step.radius), 2 * step.radius + 1).unflatten(1, (features.shape[1], -1))
    return (around * weights.flatten(2)[:, None]).sum(2).unflatten(2, image.shape[2:])


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("size", [(64, 64), (48, 80), (16, 32)])
def test_scores_are_those_of_upsampled_features(clip, size, shared):
    """Which nobody makes: words are upsampled in their place, and lengths come of fewer channels."""
    own = upsampler(shared=shared)
    method = build_recalibration("segearth_ov", upsampler=own, global_weight=-0.4)
    images, rows = torch.randn(2, 3, *size), F.normalize(torch.randn(5, DIM), dim=-1)
    dense = method.encode(clip, images)
    features = dense.features
    for index, step in enumerate(own.steps):
        grid = [side << (index + 1) for side in dense.grid]
        features = by_unfolding(step, features, F.adaptive_avg_pool2d(images, grid))
    features = features + 0.1 * own.fixup_proj(features)
    wanted = torch.einsum("td,bdhw->bthw", rows, F.normalize(features, dim=1))
    wanted = wanted - 0.4 * (F.normalize(dense.cls, dim=-1) @ rows.T)[..., None, None]
    found = method.patch_scores(dense, make_words(rows))
    assert found.shape == (2, 5, *size)
    torch.testing.assert_close(found, wanted, atol=2e-5, rtol=1e-4)


def test_no_features_of_all_pixels_are_kept(clip):
    method = build_recalibration("segearth_ov", upsampler=upsampler())
    dense = method.encode(clip, torch.randn(1, 3, 64, 64))
    assert dense.features.shape == (1, DIM, 4, 4)
    kept = [value for one in dense.context.own.values() for value in vars(one).values()]
    assert [tuple(value.shape) for value in kept] == [(1, 1, 64, 64)]


def test_photographs_of_any_shape_are_labelled(clip):
    model = TrainingFree(
        clip=clip,
        recalibration=build_recalibration("segearth_ov", upsampler=upsampler()),
        size_rule=SizeRule(64, 64, minimum=16),
        protocol=Protocol(32, 16, "even", "twice"),
        rule=ScoreRule(50.0),
        templates="none",
        background="none",
    ).eval()
    words = model.words(ovseg.Vocabulary.parse(["roof", "road", "water"]))
    for size in ((64, 40), (16, 64), (33, 64)):  # a strip of one patch is too small to mirror
        image = 255 * torch.rand(3, *size)
        answer = model.answer(model.encode([image]), 0, (50, 70), words, LABELS | {CLASS_SCORES})
        assert answer.labels.shape == (50, 70) and answer.class_scores.isfinite().all()
        torch.testing.assert_close(answer.class_scores.sum(0), torch.ones(50, 70))
        told = [note for note in answer.notes if "patches are too small for the upsampler to mirror" in note]
        assert len(told) == (size[0] == 16)


def test_many_words_are_sharpened_a_few_at_a_time(clip, monkeypatch):
    """Nobody holds the scores of all of them at the size of pixels, nor the kernels of several windows."""
    model = TrainingFree(
        clip=clip,
        recalibration=build_recalibration("segearth_ov", upsampler=upsampler(radius=1)),
        size_rule=SizeRule(64, 96, minimum=16),
        protocol=Protocol(32, 16, "even", "twice"),
        rule=ScoreRule(50.0),
        templates="none",
        background="none",
    ).eval()
    image, words = 255 * torch.rand(3, 48, 58), model.words(ovseg.Vocabulary.parse([f"thing {i}" for i in range(30)]))
    with Largest() as largest:
        encoded = model.encode([image])
    windows = len(encoded.images[0].plan)
    assert windows == 6 and largest.numbers < 3 * 32 * 32 * (DIM + 1)
    whole = model.answer(encoded, 0, (70, 99), words, LABELS | {CLASS_SCORES})
    assert isinstance(model.patch_scores(encoded.images[0], words), torch.Tensor)
    monkeypatch.setattr(late_scores, "AT_ONCE", 7 * 32 * 32 * windows)
    monkeypatch.setattr("ovseg.labelling.scores._CHUNK", 2**15)
    few = model.answer(encoded, 0, (70, 99), words, LABELS | {CLASS_SCORES})
    assert (few.labels == whole.labels).float().mean() > 0.999
    torch.testing.assert_close(few.class_scores, whole.class_scores, atol=1e-5, rtol=1e-4)
    with Largest() as largest:
        model.answer(encoded, 0, (70, 99), words)
    assert largest.numbers < 8 * 32 * 32 * windows


def test_files_of_both_kinds(tmp_path):
    for shared in (True, False):
        own = upsampler(radius=3, shared=shared)
        state = {f"upsampler.{key}": value for key, value in own.state_dict().items()}
        torch.save({"state_dict": state, "epoch": 3}, tmp_path / "lightning.ckpt")
        found = load_upsampler(tmp_path / "lightning.ckpt")
        assert (found.shared, found.channels, found.steps[0].radius) == (shared, DIM, 3)
        assert all(torch.equal(value, own.state_dict()[key]) for key, value in found.state_dict().items())
        method = build_recalibration("segearth_ov", upsampler=str(tmp_path / "lightning.ckpt"))
        assert method.options["upsampler"] == str(tmp_path / "lightning.ckpt")
        assert method.why_not_exported() == "in SegEarth_OV scores are upsampled along the image (upsampler)"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.clear(), "is no upsampler; expected up"),
        (lambda state: state.pop("upsampler.up.range_temp"), "does not fit the upsampler of SegEarth-OV.*up1"),
        (lambda state: state.update({"upsampler.more": torch.zeros(1)}), "has unexpected more"),
        (
            lambda state: state.update({"upsampler.up.fixup_proj.3.weight": torch.zeros(16, 16, 1, 1)}),
            "has kernels of 16 pixels; expected an odd square",
        ),
    ],
)
def test_foreign_files(tmp_path, change, message):
    state = {f"upsampler.{key}": value for key, value in upsampler().state_dict().items()}
    change(state)
    torch.save({"state_dict": state or {"other": torch.zeros(1)}}, tmp_path / "file.ckpt")
    with pytest.raises(WeightsError, match=message):
        load_upsampler(tmp_path / "file.ckpt")


def test_no_file():
    with pytest.raises(WeightsError, match=r"no upsampler at 'nowhere.ckpt'; take a file of simfeatup_dev/weights"):
        build_recalibration("segearth_ov", upsampler="nowhere.ckpt")


def test_a_tower_that_it_was_not_made_for_is_refused_before_any_image(clip, tiny_clip):
    def build(tower, channels):
        return TrainingFree(
            clip=tower,
            recalibration=build_recalibration("segearth_ov", upsampler=upsampler(channels)),
            size_rule=SizeRule(64, 64),
            protocol=Protocol(0, 0, "none"),
            rule=ScoreRule(50.0),
            templates="none",
            background="none",
        )

    with pytest.raises(ConfigError, match="is for patches of 16 pixels and 512 channels, and test has 16 and 24;"):
        build(clip, 512)
    method = build_recalibration("segearth_ov", upsampler=upsampler(512))
    assert method.remarks(clip) == ()
    with pytest.raises(ConfigError, match="is for patches of 16 pixels and 512 channels"):
        method.encode(clip, torch.zeros(1, 3, 64, 64))  # nobody needs a model to be told
    other = ovseg.load(f"clip/{tiny_clip}", "cpu").model.clip
    with pytest.raises(ConfigError, match=r"is for patches of 16 pixels and 32 channels, and .* has 8 and 32;"):
        build(other, 32)


def test_what_it_needs_is_known_by_name():
    clip_of, own = needs_of("segearth_ov/ViT-B-16/openai")
    assert clip_of.what == "CLIP ViT-B-16/openai" and own.what == "upsampler xclip_jbu_one_million_aid.ckpt"
    assert "fetch it" in own.by_hand and needs_of("segearth_ov/mini") == []


def test_a_background_is_no_class_in_any_of_the_authors_data_sets():
    """Whether they count it first, last or among others; Potsdam's and Vaihingen's clutter is a class."""
    path = config_root() / "training_free/segearth_ov.yaml"
    for name in list_protocols(path):
        cfg = model_config("segearth_ov/ViT-B-16/openai", protocol=name).MODEL
        classes = ovseg.Vocabulary.parse(cfg.TEXT.VOCABULARY)
        clutter = name in ("potsdam", "vaihingen")
        assert cfg.TEXT.BACKGROUND == ("none" if clutter else "words:background")
        assert cfg.PROTOCOL.THRESHOLD_LABEL == (5 if clutter else -1)
        assert "background" not in [entry.names[0] for entry in classes]
    assert len(list_protocols(path)) == 16
