from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

import ovseg
from ovseg.clip.ensemble import Ensemble
from ovseg.errors import ConfigError
from ovseg.labelling.protocol import Protocol
from ovseg.recalibration import build_recalibration
from ovseg.recalibration.rf_clip import method
from ovseg.recalibration.rf_clip.following_words import groups, lean
from ovseg.recalibration.rf_clip.sink_tokens import KNOWN, denoise, known_channels, refocused, unknown_channels
from tests.conftest import write_vit_clip
from tests.meta_arch.models import build as build_model

WINDOWS = {"SHORT_SIDE": 64, "WINDOW": 48, "STRIDE": 24}


def model(folder, **options):
    recalibration = {"NAME": "RF_CLIP", "OPTIONS": options}
    return build_model("clip", folder, protocol=WINDOWS, recalibration=recalibration)


def picture(seed=0, size=(64, 88)):
    return 255 * torch.rand(3, *size, generator=torch.Generator().manual_seed(seed))


@given(st.integers(0, 2**31), st.integers(1, 4), st.integers(1, 5))
def test_only_sinks_are_smoothed_by_the_nine_around_them(seed, rows, columns):
    generator = torch.Generator().manual_seed(seed)
    patches = torch.randn(2, rows * columns, 8, generator=generator)
    patches[1, 0, 3] += 100
    found = denoise(patches, (rows, columns), (3, 5), 4.0, 0.4)
    wanted = patches.clone()
    padded = F.pad(patches.unflatten(1, (rows, columns)), (0, 0, 1, 1, 1, 1))
    for image in range(2):
        for row in range(rows):
            for column in range(columns):
                own = patches[image, row * columns + column]
                above = own - own.min()
                if (above[[3, 5]] / above.sum()).max() > 4.0 / 8:
                    around = padded[image, row : row + 3, column : column + 3].sum((0, 1)) / 9
                    wanted[image, row * columns + column] = 0.6 * own + 0.4 * around
    torch.testing.assert_close(found, wanted)
    assert not torch.equal(found[1, 0], patches[1, 0])
    assert denoise(patches, (rows, columns), (), 4.0, 0.4) is patches


def test_refocusing_keeps_the_sums_of_rows_and_what_the_class_token_is_given(tiny_clip):
    tower = ovseg.load(f"clip/{tiny_clip}", "cpu").model.clip
    weights = torch.randn(1, 2, 7, 7).softmax(-1)
    weights[..., 4] += 3
    weights = weights / weights.sum(-1, keepdim=True)
    found = refocused(weights, tower)
    torch.testing.assert_close(found.sum(-1), weights.sum(-1), atol=1e-6, rtol=0)
    assert torch.equal(found[..., :1, :], weights[..., :1, :]) and torch.equal(found[..., 0], weights[..., 0])
    torch.testing.assert_close(found[..., 1:, 4], 0.6 * weights[..., 1:, 4])


def test_groups_are_complete_linkage():
    angles = torch.tensor([0.0, 0.3, 0.6, 3.0])
    rows = torch.stack([angles.cos(), angles.sin()], 1)
    near = 1 - float(torch.tensor(0.35).cos())
    found = groups(rows, near)
    assert len(found.unique()) == 3 and found[3] not in found[:3]  # a chain is no group: its ends are too far apart
    assert groups(rows[:1], near).tolist() == [0] and len(groups(rows, 2.0).unique()) == 1


def test_one_word_of_each_group_leans_and_keeps_its_length():
    rows = F.normalize(torch.randn(1, 4, 6), dim=-1) * torch.tensor([1, 1, 2, 0.5])[:, None]
    fits, patches = torch.tensor([[0.1, 0.4, 0.4, 0.2]]), F.normalize(torch.randn(1, 9, 6), dim=-1)
    members = torch.tensor([0, 0, 1, 1])
    found = lean(rows, fits, members, patches, 0.5)
    moved = (found - rows).norm(dim=-1)[0] > 1e-4
    assert moved.tolist() == [False, True, True, False]
    torch.testing.assert_close(found.norm(dim=-1), rows.norm(dim=-1))
    seen = patches[0, (patches[0] @ rows[0, 1]).topk(2).indices].mean(0)
    wanted = F.normalize(0.5 * rows[0, 1] + 0.5 * F.normalize(seen, dim=-1), dim=-1)
    torch.testing.assert_close(found[0, 1], wanted)
    torch.testing.assert_close(lean(rows, fits, members, patches[:, :1], 0.0), rows)  # a single patch will do


def test_windows_know_the_whole_image(tiny_clip):
    shown = model(tiny_clip, SINK_CHANNELS=[1, 4], GLOBAL_WEIGHT=0.5)
    words = shown.words(ovseg.Vocabulary.parse(["cat", "sofa", "tree"]))
    image = picture()
    (seen,) = shown.encode([image]).images
    (dense,) = seen.parts[0]
    assert len(seen.plan) > 1
    whole = shown.recalibration.encode(shown.clip, shown.normalise(image[None])).cls
    fits = shown.recalibration.fits(dense, words.embeddings[None])
    torch.testing.assert_close(fits[:1], F.normalize(whole, dim=-1) @ words.embeddings.T, atol=1e-5, rtol=1e-4)
    own = model(tiny_clip, SINK_CHANNELS=[1, 4], GLOBAL_WEIGHT=0.5, GLOBAL_OF="window")
    (alone,) = own.encode([image]).images
    assert (own.patch_scores(alone, words) - shown.patch_scores(seen, words)).abs().max() > 1e-3
    own.protocol = shown.protocol = Protocol(window=0, stride=0, padding="none")
    both = [one.patch_scores(one.encode([image]).images[0], words) for one in (own, shown)]
    assert torch.equal(*both)  # one window is the whole image


def test_images_of_a_batch_keep_to_their_own_whole(tiny_clip):
    shown = model(tiny_clip, SINK_CHANNELS=[1, 4], GLOBAL_WEIGHT=0.5)
    words = shown.words(ovseg.Vocabulary.parse(["cat", "sofa", "tree"]))
    images = [picture(seed) for seed in range(5)]
    for image, seen in zip(images, shown.encode(images).images, strict=True):
        alone = shown.patch_scores(shown.encode([image]).images[0], words)
        torch.testing.assert_close(shown.patch_scores(seen, words), alone, atol=1e-5, rtol=1e-4)


def test_whole_images_are_looked_at_in_passes_of_no_more_than_windows_are(tiny_clip, monkeypatch):
    shown, sizes = model(tiny_clip, SINK_CHANNELS=[1, 4]), []
    look = shown.recalibration.overview
    monkeypatch.setattr(shown.recalibration, "overview", lambda clip, part: sizes.append(len(part)) or look(clip, part))
    images = [picture(seed) for seed in range(9)]
    together = shown.encode(images).images
    assert sum(sizes) == 9 and max(sizes) * 64 * 88 <= 16 * 48 * 48
    words = shown.words(ovseg.Vocabulary.parse(["cat", "sofa", "tree"]))
    alone = shown.encode(images[-1:]).images[0]
    torch.testing.assert_close(
        shown.patch_scores(together[-1], words), shown.patch_scores(alone, words), atol=1e-5, rtol=1e-4
    )


@pytest.mark.parametrize("members", [1, 2])
def test_words_are_grouped_once_whatever_the_images(tiny_clip, tmp_path, monkeypatch, members):
    name = str(tiny_clip) if members == 1 else f"clip:{tiny_clip}+{write_vit_clip(tmp_path / 'deeper', 3, seed=9)}"
    changes = {"PROTOCOL": {**WINDOWS, "PAMR_STEPS": 0}, "RECALIBRATION": {"OPTIONS": {"SINK_CHANNELS": [1]}}}
    shown = ovseg.load(f"rf_clip/{name}", "cpu", overrides={"MODEL": changes}).model
    grouped = []
    monkeypatch.setattr(method, "groups", lambda rows, far: grouped.append(rows) or groups(rows, far))
    words = shown.words(ovseg.Vocabulary.parse([f"word {i}" for i in range(30)]))
    encoded = shown.encode([picture(0, (144, 168)), picture(1)])
    assert len(encoded.images[0].parts) > 1
    found = [shown.answer(encoded, index, (50, 60), words).labels for index in range(2)]
    assert len(grouped) == members
    fresh = [shown.answer(encoded, index, (50, 60), replace(words)).labels for index in range(2)]
    assert len(grouped) > 2 * members and all(map(torch.equal, found, fresh))


def test_members_of_an_ensemble_know_the_whole_image(tiny_clip, tmp_path):
    other = write_vit_clip(tmp_path / "deeper", 3, seed=9)
    members = f"rf_clip/clip:{tiny_clip}+{other}"
    changes = {"PROTOCOL": WINDOWS, "RECALIBRATION": {"OPTIONS": {"SINK_CHANNELS": [1], "GLOBAL_WEIGHT": 0.5}}}
    both = ovseg.load(members, "cpu", overrides={"MODEL": changes}).model
    assert isinstance(both.clip, Ensemble)
    words = both.words(ovseg.Vocabulary.parse(["cat", "sofa", "tree"]))
    (seen,) = both.encode([picture()]).images
    with_whole = both.patch_scores(seen, words)
    both.recalibration.method.global_of = "window"
    (seen,) = both.encode([picture()]).images
    assert (both.patch_scores(seen, words) - with_whole).abs().max() > 1e-3


def test_unknown_sinks_are_said_and_known_ones_are_taken(tiny_clip):
    told = model(tiny_clip).notes
    assert len(told) == 1 and told[0].startswith("RF_CLIP smooths no sink tokens: their channels are not known of ")
    assert model(tiny_clip, SINK_CHANNELS=[3]).notes == model(tiny_clip, SINK_CHANNELS=[]).notes == ()
    tower = ovseg.load(f"clip/{tiny_clip}", "cpu").model.clip
    tower.name = "ViT-B-16/openai"
    with pytest.raises(
        ConfigError, match=r"sink_channels are \(4, 162, .*expected channels of ViT-B-16/openai, 0 to 31"
    ):
        tower.check_method(build_recalibration("rf_clip"))
    for name in ("hf:openai/clip-vit-base-patch16", "hf-hub:timm/vit_base_patch16_clip_224.openai@4f1a"):
        tower.name = name
        assert known_channels(tower) == KNOWN["ViT-B-16/openai"]
    tower = SimpleNamespace(name="ViT-B-16/weights.pt", width=768)
    assert known_channels(tower) == () and "for a copy of ViT-B-16/openai [4, 162, 189," in unknown_channels(tower)
    assert max(KNOWN["ViT-B-16/openai"]) < 768 and max(KNOWN["ViT-L-14/openai"]) < 1024


@pytest.mark.parametrize(
    ("option", "value"),
    [("alpha", 1.5), ("likeness", float("nan")), ("global_weight", -0.1), ("patch_weight", 2.0), ("sigma", -1.0)],
)
def test_options_out_of_range(option, value):
    with pytest.raises(ConfigError, match=f"^{option} is {value}; expected "):
        build_recalibration("rf_clip", **{option: value})


def test_the_note_is_in_every_result(tiny_clip):
    segmenter = ovseg.load(
        f"rf_clip/{tiny_clip}", "cpu", overrides={"MODEL": {"PROTOCOL": {**WINDOWS, "PAMR_STEPS": 0}}}
    )
    result = segmenter(picture().byte(), ["cat", "sofa"])
    assert any(note.startswith("RF_CLIP smooths no sink tokens") for note in result.meta["notes"])
