"""What a text tower reads of a text, and windows of texts that are too long for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from open_clip.tokenizer import SimpleTokenizer

from ovseg.clip.text_tokens import TextTokens
from ovseg.clip.vit_clip import ViTClip
from ovseg.errors import ConfigError

START, END = 49406, 49407
WORDS = "a photo of an old red chair with straw seat near the blue window of my house in town".split()
OWN = SimpleTokenizer()


def tokens_of(length: int) -> TextTokens:
    return TextTokens({"context_length": length})


def sentence(count: int) -> str:
    """A text of as many tokens."""
    text = " ".join(WORDS[i % len(WORDS)] for i in range(count))
    assert len(OWN.encode(text)) == count
    return text


@pytest.mark.parametrize("length", [24, 64, 77])
def test_windows_by_hand(length: int) -> None:
    """After the sheet: n wide, n - 7 apart, the rest from (n - 7) times their number on; each between start and end."""
    tokens, room, step = tokens_of(length), length - 2, length - 7
    assert (tokens.limit, tokens.room) == (length, room)
    for count in (room + 1, room + step - 1, room + step, room + step + 1, 3 * length):
        ids = OWN.encode(sentence(count))
        full = 1
        while full * step + room <= count:
            full += 1
        parts = [ids[i * step : i * step + room] for i in range(full)] + [ids[full * step :]]
        expected = [[START, *part, END] + [0] * (room - len(part)) for part in parts if part]
        assert tokens.windows(sentence(count)).tolist() == expected
    assert all(len(part) == room for part in parts[:-1])


@given(st.integers(1, 400), st.sampled_from([24, 64, 77]))
def test_no_token_is_lost(count: int, length: int) -> None:
    tokens = tokens_of(length)
    rows = tokens.windows(sentence(count))
    assert rows.shape[1] == length and rows.dtype == torch.int64
    parts = [row[1 : row.index(END)] for row in rows.tolist()]
    found = parts[0]
    for place, part in enumerate(parts[1:], 1):
        kept = found[: place * (length - 7)]
        assert found[len(kept) :] == part[: len(found) - len(kept)]  # what overlaps is the same
        found = kept + part
    assert found == OWN.encode(sentence(count))
    assert (len(parts) == 1) == (count <= length - 2)
    if len(parts) == 1:
        assert torch.equal(rows, tokens([sentence(count)]))


def test_what_is_counted_and_read() -> None:
    tokens = tokens_of(24)
    assert tokens.count("a cat") == 4 and tokens.read("A  cat") == "a cat"
    text = sentence(40)
    assert tokens.count(text) == 42 and tokens.read(text) == " ".join(text.split()[:22])
    assert torch.equal(tokens([tokens.read(text)]), tokens([text]))


def test_a_context_too_short_for_windows() -> None:
    with pytest.raises(ConfigError, match="a context of 7 tokens is too short for long_text"):
        tokens_of(7).windows(sentence(40))


def test_the_mean_of_raw_rows(tiny_clip: Path) -> None:
    clip = ViTClip.from_folder(tiny_clip)
    long, limit = sentence(3 * clip.text_limit), clip.text_limit
    found = clip.long_text(["a cat", long])
    assert torch.allclose(found[0], clip.text(["a cat"])[0], atol=1e-6)
    with torch.no_grad():
        rows = clip.model.encode_text(clip.text_tokens.windows(long))
    assert len(rows) > 2 and torch.allclose(found[1], rows.mean(0), atol=1e-6)
    assert not torch.allclose(found[1], clip.text([long])[0], atol=1e-3)
    assert clip.count_tokens([long]) == [3 * limit + 2] and clip.long_text([]).shape == (0, clip.embed_dim)


class Hub:
    """A tokenizer as Hugging Face's: a number for each word, with tokens around the text; 1 pads."""

    pad_token, pad_token_id, sep_token_id, bos_token_id, eos_token_id, cls_token_id = "<pad>", 1, 3, 2, 3, 4

    def __init__(self, before: list[int], behind: list[int]) -> None:
        self.before, self.behind, self.words = before, behind, {"": 9}

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        ids = [self.words.setdefault(word, len(self.words) + 9) for word in text.split()]
        return {"input_ids": [*self.before, *ids, *self.behind] if add_special_tokens else ids}

    def decode(self, ids: list[int]) -> str:
        return " ".join(word for number in ids for word, own in self.words.items() if own == number)


class HubTokenizer:
    """Lays out as open_clip's HFTokenizer does."""

    def __init__(self, hub: Hub, length: int, mode: str = "", strip: bool = False) -> None:
        self.tokenizer, self.context_length, self.tokenizer_mode, self.strip_sep_token = hub, length, mode, strip

    def clean_fn(self, text: str) -> str:
        return " ".join(text.split())

    def __call__(self, texts: list[str]) -> torch.Tensor:
        return torch.tensor([self.row(self.clean_fn(text)) for text in texts])

    def row(self, text: str) -> list[int]:
        hub, length = self.tokenizer, self.context_length
        ids = hub(text, add_special_tokens=False)["input_ids"]
        if self.tokenizer_mode == "clips":
            ids = [2, *ids[: length - 3], 3]
            return ids + [1] * (length - 1 - len(ids)) + [4]
        ids = [*hub.before, *ids[: length - len(hub.before) - len(hub.behind)], *hub.behind]
        ids = ids + [1] * (length - len(ids))
        return [0 if self.strip_sep_token and token == 3 else token for token in ids]


@pytest.mark.parametrize(
    ("before", "behind", "mode", "strip", "room"),
    [([], [5], "", False, 23), ([2], [3], "", True, 22), ([2], [3], "clips", False, 21)],
    ids=["siglip", "bert", "clips"],
)
def test_tokenizers_of_the_hub(
    before: list[int],
    behind: list[int],
    mode: str,
    strip: bool,
    room: int,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    hub = Hub(before, behind)
    made: Any = lambda name, context_length, tokenizer_mode, **_: HubTokenizer(  # noqa: E731
        hub, context_length, tokenizer_mode, strip
    )
    monkeypatch.setattr("open_clip.tokenizer.HFTokenizer", made)
    tokens = TextTokens({"context_length": 24, "hf_tokenizer_name": str(tmp_path), "tokenizer_mode": mode})
    assert tokens.room == room
    assert tokens.count(sentence(10)) == 10 + 24 - room and tokens.read(sentence(40)) == sentence(room)
    assert torch.equal(tokens.windows(sentence(room)), tokens([sentence(room)]))
    rows = tokens.windows(sentence(room + 1))
    assert torch.equal(rows[0], tokens([sentence(room)])[0]) and len(rows) == 2
    assert torch.equal(rows[1], tokens([" ".join(sentence(room + 1).split()[17:])])[0])


def test_a_tokenizer_of_another_layout_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Turned(HubTokenizer):
        def row(self, text: str) -> list[int]:
            return super().row(text)[::-1]

    monkeypatch.setattr("open_clip.tokenizer.HFTokenizer", lambda *_, **__: Turned(Hub([], [5]), 24))
    tokens = TextTokens({"context_length": 24, "hf_tokenizer_name": str(tmp_path)})
    with pytest.raises(ConfigError, match="does not know how the tokenizer"):
        tokens.windows(sentence(40))
