"""Words in another language, from the name of a model to labels; and texts by towers whose files the hub has."""

from __future__ import annotations

import pytest
import torch

from ovseg.clip.open_clip_internals import build_model
from ovseg.clip.towers import KINDS
from ovseg.errors import EnvironmentProblem, VocabularyError, WeightsError
from ovseg.recalibration import build_recalibration
from ovseg.zoo import load
from tests.clip.narrow_hf import model_of, save, save_text_tower
from tests.clip.towers import TOWERS, narrow
from tests.hub_double import HubDouble

JAPANESE = "猫, 犬, 空"
NOT_HERE = "馬と牛, 道, 空"


@pytest.fixture(scope="module", params=["altclip", "siglip", "siglip2", "chinese_clip"])
def folder(request, tmp_path_factory):
    return save(tmp_path_factory.mktemp("hf") / "words", *model_of(request.param))


@pytest.mark.parametrize("method", ["clearclip", "maskclip"])
def test_a_vocabulary_in_another_language(folder, pixels, method):
    model = load(f"{method}/{folder}", device="cpu")
    result = model(pixels, JAPANESE)
    assert result.classes.names == ["猫", "犬", "空"]
    assert result.labels.shape == pixels.shape[:2] and set(result.labels.flatten()) <= {-1, 0, 1, 2}
    assert not [note for note in result.meta["notes"] if "hardly learnt" in note]
    texts = model.model.clip.text(["猫", "犬", "空"])
    assert torch.pdist(torch.nn.functional.normalize(texts, dim=1)).min() > 0.01
    (note,) = (note for note in model(pixels, NOT_HERE).meta["notes"] if "hardly learnt" in note)
    assert note.startswith("words has hardly learnt 1 of 3 texts") and "'馬と牛'" in note


def test_words_of_which_nothing_is_left_are_refused(pixels, tmp_path):
    model = load(f"clearclip/{save(tmp_path / 'words', *model_of('chinese_clip'))}", device="cpu")
    with pytest.raises(VocabularyError, match=r"^'馬' and '牛' become the same text: .* reads '\[UNK\]'"):
        model(pixels, "猫, 馬, 牛")


def test_a_model_that_has_not_learnt_the_language_says_so(pixels):
    (note,) = (note for note in load("mini", device="cpu")(pixels, JAPANESE).meta["notes"] if "hardly" in note)
    assert "3 of 3 texts" in note and "multilingual model such as" in note
    notes = load("mini", device="cpu")(pixels, "cat, crème brûlée, zucchini").meta["notes"]
    assert not [note for note in notes if "hardly" in note]


@pytest.mark.parametrize(("arch", "name"), [("xlm-roberta-base-ViT-B-32", "xlm-roberta"), ("mt5-base-ViT-B-32", "mt5")])
def test_a_text_tower_of_the_hub(arch, name, tmp_path, monkeypatch):
    """Its config and tokenizer come the one way that all files come; the second time nothing is asked."""
    files = {path.name: path.read_bytes() for path in save_text_tower(tmp_path / name, name).iterdir()}
    vision = {"width": 32, "head_width": 8, "layers": 2, "image_size": 64, "patch_size": 16}
    texts = {"hf_model_name": "owner/words", "hf_tokenizer_name": "owner/words"}
    with HubDouble({"owner/words": {**files, "model.safetensors": b"no weights of its own are taken"}}) as hub:
        hub.use(monkeypatch, tmp_path / "cache")
        clip = narrow(arch, vision, texts)
        rows = clip.text(["猫", "a cat and a dog", "Straße"])
        assert {request.path.rsplit("/", 1)[-1] for request in hub.requests} >= {"config.json", "tokenizer.json"}
        assert not [request for request in hub.requests if request.path.endswith(".safetensors")]
        hub.requests.clear()
        again = narrow(arch, vision, texts)
        torch.testing.assert_close(again.text(["猫", "a cat and a dog", "Straße"]), rows)
        assert not hub.requests
    tokens = clip.text_tokens(["猫", "a cat and a dog", "Straße"])
    torch.testing.assert_close(rows, clip.model.encode_text(tokens), atol=1e-5, rtol=1e-4)
    assert clip.dense(torch.randn(1, 3, 64, 96), build_recalibration("SCLIP")).grid == (4, 6)


def test_a_text_tower_that_is_nowhere_is_one_line(monkeypatch, tmp_path):
    config = {"hf_model_name": "xlm-roberta-base", "hf_tokenizer_name": "xlm-roberta-base"}
    with pytest.raises(WeightsError, match=r"^xlm-roberta-base is not on this machine") as error:
        narrow("xlm-roberta-base-ViT-B-32", {"layers": 1}, config)
    assert "\n" not in str(error.value)
    with pytest.raises(WeightsError, match="the folder /nowhere, which should hold a tokenizer, does not exist"):
        narrow("xlm-roberta-base-ViT-B-32", {"layers": 1}, {**config, "hf_model_name": "/nowhere"})


def test_text_towers_without_transformers_say_what_to_install(monkeypatch):
    clip = TOWERS["ViT with texts by XLM-R"](1)

    def missing(who):
        raise EnvironmentProblem(f"{who} needs transformers; run `pip install 'ovseg[hf]'`")

    monkeypatch.setattr("ovseg.clip.open_clip_internals.import_transformers", missing)
    monkeypatch.setattr("ovseg.clip.text_tokens.import_transformers", missing)
    kind = next(kind for kind in KINDS if kind.fits(clip.model_cfg))
    with pytest.raises(EnvironmentProblem, match=r"^the text tower of small needs transformers; run"):
        build_model(dict(clip.model_cfg), "small", kind.reader.check_config)
    with pytest.raises(EnvironmentProblem, match=r"^the tokenizer .* needs transformers; run `pip install 'ovseg"):
        clip.text(["a cat"])
