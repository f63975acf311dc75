"""A file of `ovseg export` is a model like any other: the same results, words, notes and refusals."""

from __future__ import annotations

import io
import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import ovseg
from ovseg.cli import main
from ovseg.contract import CLASS_SCORES
from ovseg.data.preprocessing import SizeRule
from ovseg.errors import ConfigError, InputError, VocabularyError, WeightsError
from ovseg.meta_arch.exported import card as cards
from ovseg.meta_arch.exported.card import FixedSize
from ovseg.vocabulary import Vocabulary
from tests.meta_arch.models import picture

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "run_onnx.py"
WORDS = "cat|kitten|lion, sofa, lamp, river|brook"


def photo(high: int, wide: int, seed: int = 0) -> np.ndarray:
    return np.ascontiguousarray(picture(high, wide, seed).permute(1, 2, 0).numpy())


@pytest.fixture(scope="module")
def segmenter(san: Path) -> Any:
    return ovseg.load(san)


@pytest.fixture(scope="module")
def original(make: Any) -> Any:
    found = ovseg.load(make("san"), device="cpu")
    found.model.size_rule = FixedSize.of(64, 96)
    return found


@pytest.mark.parametrize("background", ["none", "wall, sky", "threshold:0.3"])
@pytest.mark.parametrize("classes", [WORDS, "cat", ", ".join(f"word{i}|name{i}" for i in range(300))])
def test_a_file_says_what_the_model_says(segmenter: Any, original: Any, classes: str, background: str) -> None:
    image = photo(70, 110)
    found = segmenter(image, classes, background, want=[CLASS_SCORES])
    expected = original(image, classes, background, want=[CLASS_SCORES])
    assert (found.labels == expected.labels).mean() > 0.999
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-3)
    np.testing.assert_allclose(found.class_scores, expected.class_scores, atol=1e-3)
    assert found.classes == expected.classes and type(found) is type(expected)
    for key in ("weights_hash", "vocabulary_hash", "background", "templates"):
        assert found.meta[key] == expected.meta[key]
    assert found.meta["settings"]["file"]["format"] == "onnx"
    assert set(expected.meta["notes"]) <= set(found.meta["notes"])


def test_a_file_does_not_ask_in_pairs(segmenter: Any) -> None:
    with pytest.raises(VocabularyError, match="asks about each class by itself, which ExportedModel cannot"):
        segmenter(photo(64, 96), "cat, sofa", "paired")


def test_a_second_question_costs_no_second_pass(segmenter: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = segmenter.encode(photo(64, 96))
    monkeypatch.setattr(segmenter.model.runtime, "see", lambda image: pytest.fail("the image was seen again"))
    first, second = encoded.answer("cat, sofa"), encoded.answer("lamp, river, bread")
    assert [len(one.classes) for one in (first, second)] == [2, 3]
    again = segmenter.answer(pickle.loads(pickle.dumps(encoded)), "cat, sofa")
    assert np.array_equal(again.labels, first.labels)


def test_why_a_pixel_has_its_label(segmenter: Any, original: Any) -> None:
    image, found = photo(64, 96), []
    for one in (segmenter, original):
        encoded, words = one.encode(image), one.words(WORDS)
        found.append(one.model.explain(encoded.encoded, 0, (64, 96), words, (30, 40)))
    torch.testing.assert_close(found[0].scores, found[1].scores, atol=1e-3, rtol=0)
    assert found[0].rows.tolist() == found[1].rows.tolist()
    with pytest.raises(InputError, match="row 64"):
        segmenter.model.explain(encoded.encoded, 0, (64, 96), words, (64, 40))


def test_words_in_the_file_need_no_text_tower(san: Path, original: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    own = ovseg.load(san)
    monkeypatch.setattr(own.model, "_find", lambda: pytest.fail("the text tower was looked for"))
    found = own(photo(64, 96))
    assert [entry.name for entry in found.classes] == ["cat", "sofa", "window"]
    assert any("as san.onnx holds them" in note for note in found.meta["notes"])
    assert len(found.meta["notes"]) == len(set(found.meta["notes"]))
    assert (found.labels == original(photo(64, 96), "cat|kitten, sofa, window").labels).mean() > 0.999


def test_another_text_tower_is_refused(san: Path, monkeypatch: pytest.MonkeyPatch, tiny_clip: Path) -> None:
    own = ovseg.load(san)
    monkeypatch.setattr(own.model, "_find", lambda: ovseg.load(f"clip/{tiny_clip}", device="cpu").model.clip)
    with pytest.raises(WeightsError, match="has another here"):
        own(photo(64, 96), "lamp, river")


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "LA"])
def test_images_of_all_kinds(segmenter: Any, mode: str) -> None:
    file = io.BytesIO()
    Image.fromarray(photo(50, 60)).convert("L" if mode in ("L", "LA") else "RGB").convert(mode).save(file, "PNG")
    file.seek(0)
    assert segmenter(file, "cat, sofa").labels.shape == (50, 60)
    assert segmenter(photo(900, 9), "cat, sofa").labels.shape == (900, 9)


def test_what_a_file_refuses(segmenter: Any, san: Path) -> None:
    path = san
    for options, match in (
        ({"dtype": "fp16"}, "is fp32 for good"),
        ({"packed": True}, "leave packed out"),
        ({"compiled": True}, "leave compile out"),
        ({"protocol": "voc21"}, "leave it out"),
        ({"overrides": {"MODEL": {"PROTOCOL": {"WINDOW": 0}}}}, "MODEL.PROTOCOL is fixed"),
        ({"overrides": {"SEED": 1}}, "SEED is fixed"),
    ):
        with pytest.raises(ConfigError, match=match):
            ovseg.load(path, **options)
    with pytest.raises(ConfigError, match="gives no panoptic"):
        segmenter(photo(64, 96), "cat, sofa", want=["panoptic"])
    with pytest.raises(InputError, match="takes 96 x 64"):
        segmenter.model.encode([picture(64, 64)])
    with pytest.raises(InputError, match=r"expected \(3, h, w\)"):
        segmenter.model.encode([torch.zeros(64, 96)])
    with pytest.raises(ConfigError, match="AutoCLIP"):
        own = ovseg.load(path, overrides={"MODEL": {"TEXT": {"AUTOCLIP": 0.85}}})
        own(photo(64, 96), "lamp, river", templates="vild14")


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("empty.onnx", b"", "none of `ovseg export`"),
        ("text.onnx", b"not a model at all" * 50, "is no ONNX file"),
        ("text.pt2", b"not a model at all" * 50, "is no .pt2 file"),
        ("no.onnx", None, "does not exist"),
    ],
)
def test_what_is_no_file_of_ours(tmp_path: Path, san: Path, name: str, content: bytes | None, match: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=match):
        ovseg.load(tmp_path / name)


def test_a_file_that_ends_too_early(tmp_path: Path, san: Path) -> None:
    whole = san.read_bytes()
    for share in (0.1, 0.5, 0.9, 0.999):
        (tmp_path / "cut.onnx").write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(WeightsError, match=r"ends too early|none of `ovseg export`"):
            ovseg.load(tmp_path / "cut.onnx")


def test_a_foreign_or_newer_file(tmp_path: Path, san: Path) -> None:
    import onnx

    model = onnx.load(san)
    card = json.loads(model.metadata_props[0].value)
    for value, match in (("{", "cannot be read"), (json.dumps({**card, "version": 99}), "this version reads 1")):
        onnx.helper.set_model_props(model, {cards.KEY: value})
        onnx.save(model, tmp_path / "other.onnx")
        with pytest.raises(WeightsError, match=match):
            ovseg.load(tmp_path / "other.onnx")


def test_the_commands_take_a_file(tmp_path: Path, san: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data"
    for name in ("images", "labels"):
        (data / name).mkdir(parents=True)
    for index in range(2):
        Image.fromarray(photo(40, 48, index)).save(data / f"images/{index}.png")
        Image.fromarray((photo(40, 48, index)[..., 0] > 99).astype(np.uint8)).save(data / f"labels/{index}.png")
    (data / "classes.txt").write_text("cat|kitten\nsofa\n")
    model = ["--model", str(san)]
    assert main(["eval", "--dataset", str(data), *model, "--output", str(tmp_path / "eval")]) == 0
    assert "2 of 2 images evaluated" in "".join(capsys.readouterr())
    assert json.loads((tmp_path / "eval/result.json").read_text())["model"]["settings"]["file"]["format"] == "onnx"
    label = ["label", str(data / "images"), *model, "--classes", "cat, sofa", "--output", str(tmp_path / "labels")]
    assert main(label) == 0 and "2 of 2 images labelled" in "".join(capsys.readouterr())
    assert main(label) == 0 and "2 of them before" in "".join(capsys.readouterr())
    assert main(["models", "--details", str(san)]) == 0
    assert "in san.onnx" in capsys.readouterr().out
    for words, match in (
        (["doctor", "--dtype", str(san), str(data / "images"), "--classes", "cat"], "is fp32 for good"),
        (
            ["eval", "--dataset", str(data), *model, "--protocol", "common", "--output", str(tmp_path / "no")],
            "leave it",
        ),
    ):
        assert main(words) == 2
        errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1 and match in errors[0]


def test_the_standalone_example_needs_neither_torch_nor_ovseg(tmp_path: Path, san: Path, segmenter: Any) -> None:
    assert len(EXAMPLE.read_text(encoding="utf-8").splitlines()) <= 60
    Image.fromarray(photo(70, 110)).save(tmp_path / "photo.png")
    words = segmenter.words(WORDS, "wall, sky")
    names = [entry.name for entry in words.vocabulary]
    given = {"text_embeddings": words.embeddings.numpy(), "query_to_class": words.query_to_class.numpy()}
    np.savez(tmp_path / "words.npz", **given, names=names)
    blocked = "import sys; sys.modules.update(dict.fromkeys(('torch', 'ovseg', 'onnx'))); import runpy; "
    for more, classes, background in (((), None, None), (("words.npz",), WORDS, "wall, sky")):
        arguments = ["run_onnx.py", str(san), "photo.png", "labels.png", *more]
        code = f"{blocked}sys.argv = {arguments!r}; runpy.run_path({str(EXAMPLE)!r}, run_name='__main__')"
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        expected = segmenter(tmp_path / "photo.png", classes, background)
        found = np.asarray(Image.open(tmp_path / "labels.png")).astype(int)
        assert (np.where(found == 255, -1, found) == expected.labels).mean() > 0.99
        shown = [entry.name for i, entry in enumerate(expected.classes) if (found == i).any()]
        assert shown and all(f"{name}: " in done.stdout for name in shown)


def test_one_size_for_all() -> None:
    rule = FixedSize.of(32, 48)
    assert rule.size(10, 900) == (32, 48) and isinstance(rule, SizeRule)
    assert rule(photo(20, 20)).shape == (3, 32, 48)


def test_words_are_packed_without_loss(segmenter: Any) -> None:
    words = segmenter.words(
        Vocabulary.parse([{"name": "cat", "synonyms": ["a, b"], "id": 7}, {"name": "sofa", "id": 9}]), "words:wall, sky"
    )
    back = cards.unpack_words(json.loads(json.dumps(cards.pack_words(words))), words.embedded_by)
    assert torch.equal(back.embeddings, words.embeddings) and torch.equal(back.query_to_class, words.query_to_class)
    assert (back.vocabulary, back.background, back.templates) == (words.vocabulary, words.background, words.templates)
    assert [entry.id for entry in back.vocabulary] == [7, 9]
