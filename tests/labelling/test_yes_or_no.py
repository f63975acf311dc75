"""Yes or no for each class by itself: pairs know nothing of each other, and who says yes to none has no class."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

import ovseg
from ovseg.cli import main
from ovseg.contract import CLASS_SCORES, LABELS
from ovseg.errors import ConfigError, VocabularyError
from ovseg.labelling.yes_or_no import probability_of_yes
from ovseg.vocabulary import parse_background
from ovseg.vocabulary.text_linear import Fit, apply_linear, read_linear, write_linear

WORDS = ["dog", "tree", "mug"]


@pytest.fixture(scope="module")
def segmenter():
    return ovseg.load("mini-clearclip", "cpu")


@pytest.fixture(scope="module")
def photo():
    generator = torch.Generator().manual_seed(3)
    coarse = torch.randint(0, 256, (1, 3, 4, 5), generator=generator).float()
    return F.interpolate(coarse, (96, 128))[0].byte().permute(1, 2, 0).numpy()


def test_of_two_the_softmax():
    yes, no = torch.randn(4, 5), torch.randn(4, 5)
    torch.testing.assert_close(probability_of_yes(yes, no, 10.0), (10 * (yes - no)).sigmoid())


def asked(segmenter, photo, words):
    image = torch.from_numpy(photo).permute(2, 0, 1)
    model = segmenter.model
    size, own = photo.shape[:2], segmenter.words(words, "paired")
    return model.answer(model.encode([image]), 0, size, own, LABELS | {CLASS_SCORES})


def test_what_is_said_of_a_class_does_not_depend_on_the_others(segmenter, photo):
    together = asked(segmenter, photo, WORDS).class_scores
    for index, word in enumerate(WORDS):
        torch.testing.assert_close(asked(segmenter, photo, [word]).class_scores[0], together[index], atol=1e-5, rtol=0)


def test_who_says_yes_to_none_has_no_class(segmenter, photo):
    found = asked(segmenter, photo, WORDS)
    best, place = found.class_scores.max(0)
    assert (found.labels == place.where(best > 0.5, -1)).float().mean() > 0.999
    torch.testing.assert_close(found.scores, best)


def test_one_pixel_says_what_the_map_says(segmenter, photo):
    image = torch.from_numpy(photo).permute(2, 0, 1)
    model, words = segmenter.model, segmenter.words(WORDS, "paired")
    encoded = model.encode([image])
    said = model.explain(encoded, 0, photo.shape[:2], words, (7, 9)).scores
    answer = model.answer(encoded, 0, photo.shape[:2], words, LABELS | {CLASS_SCORES})
    torch.testing.assert_close(said[:3].float(), answer.class_scores[:, 7, 9], atol=1e-4, rtol=0)


def test_the_counter_text(segmenter):
    words = segmenter.words(["dog|hound", "tree"], "paired:not {}")
    assert words.texts[len(words.texts) // 2 :] == tuple(f"not {text}" for text in words.texts[: len(words.texts) // 2])
    assert parse_background(parse_background("paired").policy) == parse_background("paired:object")


def test_who_cannot_be_asked_says_so(photo):
    with pytest.raises(VocabularyError, match="SAN cannot; take a model that labels by patches"):
        ovseg.load("mini", "cpu")(photo, classes=["dog"], background="paired")


def test_the_command_line(tmp_path, photo):
    from PIL import Image

    Image.fromarray(photo).save(tmp_path / "photo.png")
    arguments = ["segment", str(tmp_path / "photo.png"), "--classes", "dog", "--model", "mini-clearclip"]
    assert main([*arguments, "--background", "paired", "--device", "cpu", "--output", str(tmp_path / "out")]) == 0


def test_a_map_of_texts(tmp_path, segmenter):
    rows = segmenter.words(WORDS, "none").embeddings
    write_linear(torch.eye(rows.shape[1]), tmp_path / "same.safetensors")
    matrix = torch.eye(rows.shape[1]) + 0.1 * torch.randn(rows.shape[1], rows.shape[1])
    write_linear(matrix, tmp_path / "map.safetensors")
    assert torch.equal(read_linear(tmp_path / "map.safetensors"), matrix)
    for name, wanted in (("same", rows), ("map", apply_linear(rows, matrix))):
        overrides = {"MODEL": {"TEXT": {"LINEAR": str(tmp_path / f"{name}.safetensors")}}}
        other = ovseg.load("mini-clearclip", "cpu", overrides=overrides)
        torch.testing.assert_close(other.words(WORDS, "none").embeddings, wanted)
        assert "linear_hash" in other.model.settings["text"]


def test_maps_that_do_not_fit(tmp_path):
    def load(path, **more):
        return ovseg.load("mini-clearclip", "cpu", overrides={"MODEL": {"TEXT": {"LINEAR": str(path), **more}}})

    write_linear(torch.eye(3), tmp_path / "small.safetensors")
    save_file({"a": torch.ones(2, 3)}, tmp_path / "none.safetensors")
    with pytest.raises(VocabularyError, match="maps texts of 3 channels and this CLIP has"):
        load(tmp_path / "small.safetensors").words(WORDS, "none")
    with pytest.raises(VocabularyError, match="expected one square matrix"):
        load(tmp_path / "none.safetensors")
    with pytest.raises(VocabularyError, match="there is no map of texts"):
        load(tmp_path / "missing.safetensors")
    with pytest.raises(ConfigError, match="drop one of the two"):
        load(tmp_path / "small.safetensors", AUTOCLIP=0.5, TEMPLATES="openai80")


def test_a_fit_learns_who_belongs_together():
    generator = torch.Generator().manual_seed(0)
    texts = F.normalize(torch.randn(64, 8, generator=generator), dim=1)
    turned = torch.linalg.qr(torch.randn(8, 8, generator=generator))[0]
    images, fit = texts @ turned.mT, Fit(8, 0.02)
    before = fit.mean_loss(images, texts, None, 16)
    for _ in range(40):
        fit.epoch(images, texts, None, 16)
    assert fit.mean_loss(images, texts, None, 16) < 0.7 * before


def test_the_last_step_of_a_method_is_skipped_and_that_is_said(segmenter, photo, monkeypatch):
    assert not any("last step" in note for note in segmenter(photo, "dog, tree", "paired").meta["notes"])
    monkeypatch.setattr(type(segmenter.model.recalibration), "finish", lambda *given: pytest.fail("it was finished"))
    notes = segmenter(photo, "dog, tree", "paired").meta["notes"]
    assert any(note.endswith("the last step of ClearCLIP") for note in notes)
