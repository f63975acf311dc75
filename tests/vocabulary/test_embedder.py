from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ovseg.errors import UnknownNameError, WeightsError
from ovseg.system.progress import listening, report
from ovseg.vocabulary import Background, TextCache, TextEmbedder, Vocabulary
from ovseg.vocabulary import embedder as embedding
from ovseg.vocabulary.embedder import PROMPTS_PER_CALL, words_of_no_class
from ovseg.vocabulary.words import WORD_LISTS


class FakeClip:
    """Gives each prompt a vector of its own, of any length, and writes down what it was asked."""

    def __init__(self, name: str = "fake", weights_hash: str = "0") -> None:
        self.name, self.weights_hash = name, weights_hash
        self.calls: list[list[str]] = []

    def text(self, texts: list[str], /) -> Tensor:
        self.calls.append(list(texts))
        return torch.stack([self.vector(text) for text in texts])

    def vector(self, text: str) -> Tensor:
        seed = int.from_bytes(hashlib.sha256((self.weights_hash + text).encode()).digest()[:4], "big")
        return torch.randn(8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 5

    @property
    def prompts(self) -> list[str]:
        return [prompt for call in self.calls for prompt in call]


def test_arithmetic_by_hand() -> None:
    class Two(FakeClip):
        def vector(self, text: str) -> Tensor:
            return torch.tensor({"a cat": [3.0, 4.0], "the cat": [0.0, 10.0]}[text])

    found = TextEmbedder(Two(), ["a {}", "the {}"]).embed(["cat"])
    # unit rows (0.6, 0.8) and (0, 1); mean (0.3, 0.9), of length sqrt(0.9)
    assert torch.allclose(found, torch.tensor([[0.3, 0.9]]) / 0.9**0.5)
    assert found.dtype == torch.float32 and found.device.type == "cpu"


@pytest.mark.parametrize("templates", ["none", "simple", "vild14", "openai80"])
def test_batches_change_nothing(templates: str) -> None:
    clip = FakeClip()
    embedder = TextEmbedder(clip, templates)
    texts = [f"thing {i}" for i in range(50)]
    together = embedder.embed(texts)
    assert max(map(len, clip.calls)) <= PROMPTS_PER_CALL
    assert len(clip.prompts) == len(set(clip.prompts)) == 50 * len(embedder.templates)
    assert torch.equal(together, torch.cat([embedder.embed([text]) for text in texts]))
    assert torch.allclose(together.norm(dim=1), torch.ones(50))
    rows = torch.stack([FakeClip().vector(t.replace("{}", "thing 7")) for t in embedder.templates])
    mean = torch.nn.functional.normalize(rows, dim=1).mean(0)
    assert torch.allclose(together[7], torch.nn.functional.normalize(mean, dim=0).float(), atol=1e-6)


def test_progress_counts_all_prompts_over_calls_and_saves(monkeypatch: pytest.MonkeyPatch) -> None:
    class Telling(FakeClip):
        def text(self, texts: list[str]) -> Tensor:
            report("texts", len(texts), len(texts))
            return super().text(texts)

    monkeypatch.setattr(embedding, "PROMPTS_PER_CALL", 6)
    monkeypatch.setattr(embedding, "TEXTS_PER_SAVE", 4)
    told = []
    with listening(lambda what, done, total: told.append((what, done, total))):
        TextEmbedder(Telling(), ["a {}", "the {}"]).embed([f"thing {i}" for i in range(6)])
    assert told == [("texts", done, 12) for done in (0, 6, 8, 12)]


def test_repeated_and_no_texts() -> None:
    clip = FakeClip()
    found = TextEmbedder(clip, "simple").embed(["cat", "dog", "cat"])
    assert torch.equal(found[0], found[2]) and len(clip.prompts) == 2
    assert TextEmbedder(clip).embed([]).shape[0] == 0


def test_second_call_asks_nothing(tmp_path: Path) -> None:
    texts = [f"thing {i}" for i in range(10)]
    first = TextEmbedder(FakeClip(), "vild14", TextCache(tmp_path)).embed(texts)
    clip = FakeClip()
    embedder = TextEmbedder(clip, "vild14", TextCache(tmp_path))
    assert torch.equal(embedder.embed(texts[::-1]), first.flip(0)) and clip.calls == []
    embedder.embed([*texts, "new"])
    assert len(clip.prompts) == 14 and all("new" in prompt for prompt in clip.prompts)


@pytest.mark.parametrize(
    ("clip", "templates"),
    [(FakeClip("other"), "simple"), (FakeClip(weights_hash="1"), "simple"), (FakeClip(), "none")],
)
def test_cache_key(tmp_path: Path, clip: FakeClip, templates: str) -> None:
    TextEmbedder(FakeClip(), "simple", TextCache(tmp_path)).embed(["cat"])
    found = TextEmbedder(clip, templates, TextCache(tmp_path)).embed(["cat"])
    assert len(clip.calls) == 1
    assert torch.equal(found, TextEmbedder(clip, templates).embed(["cat"]))


def test_cache_keeps_precisions_apart(tmp_path: Path) -> None:
    class Module(torch.nn.Module):
        name, weights_hash = "module", "0"

        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.tensor([[1.0, 2.0, 3.0]]) / 3)

        def text(self, texts: list[str], /) -> Tensor:
            return self.weight.expand(len(texts), -1)

    full = TextEmbedder(Module(), "simple", TextCache(tmp_path)).embed(["cat"])
    half = TextEmbedder(Module().half(), "simple", TextCache(tmp_path)).embed(["cat"])
    assert not torch.equal(full, half) and torch.allclose(full, half, atol=1e-3)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0])
def test_unusable_embeddings_are_an_error_and_not_kept(tmp_path: Path, value: float) -> None:
    class Broken(FakeClip):
        def vector(self, text: str) -> Tensor:
            return torch.full((8,), value) if "dog" in text else super().vector(text)

    cache = TextCache(tmp_path)
    with pytest.raises(WeightsError, match="'dog'"):
        TextEmbedder(Broken(), "simple", cache).embed(["cat", "dog"])
    assert cache.entries() == []


def test_unknown_templates() -> None:
    with pytest.raises(UnknownNameError):
        TextEmbedder(FakeClip(), "vild")


def queries(classes: str, background: Background) -> tuple[list[int], list[str], Tensor, Tensor]:
    embedder = TextEmbedder(FakeClip(), "simple")
    vocabulary = Vocabulary.parse(classes)
    found = embedder.embed_vocabulary(vocabulary, background)
    assert found.query_to_class.dtype == torch.int64
    assert len(found.embeddings) == len(found.query_to_class)
    own = embedder.embed(vocabulary.queries)
    return found.query_to_class.tolist(), found.notes, found.embeddings, own


def test_vocabulary_without_background() -> None:
    classes, notes, embeddings, own = queries("cat|kitten, sofa", Background())
    assert classes == [0, 0, 1] and notes == () and torch.equal(embeddings, own)


def test_background_words_come_last_and_map_to_no_class() -> None:
    classes, notes, embeddings, own = queries("cat|kitten, sofa", Background("words:sky, wall", words=("sky", "wall")))
    assert classes == [0, 0, 1, -1, -1] and notes == () and torch.equal(embeddings[:3], own)
    assert torch.equal(embeddings[3:], TextEmbedder(FakeClip(), "simple").embed(["sky", "wall"]))


def test_background_words_that_are_classes_are_left_out() -> None:
    classes, notes, _, _ = queries("Sky, cat", Background("words:sky, wall", words=("sky", "wall")))
    assert classes == [0, 1, -1]
    assert len(notes) == 1 and notes[0].endswith("left out: sky")


@pytest.mark.parametrize(
    ("classes", "background", "expected"),
    [
        ("cat", Background(), 36),
        ("cat|kitten", Background(), 36),  # one class in two words has no rival either
        ("sky", Background(), 35),  # the word itself is no contrast
        ("cat", Background("threshold:0.4", threshold=0.4), 36),
        ("cat", Background("words:sky", words=("sky",)), 0),  # the user's words are contrast enough
        ("sky", Background("words:sky", words=("sky",)), 35),
        ("cat, dog", Background(), 0),
    ],
)
def test_contrast_words(classes: str, background: Background, expected: int) -> None:
    found, notes, _, _ = queries(classes, background)
    told = [note for note in notes if "contrast words (words-v1)" in note]
    assert len(told) == (expected > 0) and found.count(-1) == expected + (classes == "cat" and background.words != ())
    assert not told or str(expected) in told[0]
    assert len(WORD_LISTS["words-v1"]) == 36


def test_scores_that_stand_alone_need_no_contrast_beside_a_threshold() -> None:
    vocabulary = Vocabulary.parse("cat")
    for background, expected in ((Background(), 36), (Background("threshold:0.4", threshold=0.4), 0)):
        extra, notes = words_of_no_class(vocabulary, background, alone=True)
        assert len(extra) == expected and len(notes) == (expected > 0)
