"""Phrases as SAM 3 reads them: short noun phrases, raw; every token of them counts, so a row holds all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import Self

from ovseg.clip.text_pieces import Pieces
from ovseg.clip.text_tokens import TextTokens
from ovseg.contract import Words
from ovseg.errors import ConfigError
from ovseg.meta_arch.sam3.network import Sam3Network
from ovseg.system.progress import report
from ovseg.vocabulary.cache import TextCache, text_space

PHRASES_PER_PASS = 64


@dataclass(frozen=True, eq=False, kw_only=True)
class Phrases(Words):
    """Words whose rows are those of `pack`.

    Attributes:
        screen: Rows (T, D) of the same words for the CLIP that says which of them an image may show; None without one.
    """

    screen: Tensor | None = None

    def to(self, device: torch.device) -> Self:
        """Return the same on another device."""
        found = super().to(device)
        return found if self.screen is None else replace(found, screen=self.screen.to(device))


def pack(tokens: Tensor, mask: Tensor) -> Tensor:
    """Lay tokens (T, n, C), and which of them count (T, n), out as rows (T, n * (C + 1))."""
    counted = mask.to(tokens)[..., None]
    return torch.cat([tokens * counted, counted], -1).flatten(1)


def unpack(rows: Tensor, channels: int) -> tuple[Tensor, Tensor]:
    """Return what `pack` was given: tokens (T, n, C), and bool (T, n)."""
    both = rows.unflatten(1, (-1, channels + 1))
    return both[..., :-1], both[..., -1] > 0.5


def shortened(rows: Tensor, channels: int) -> Tensor:
    """Leave out the places of rows (T, n * (C + 1)) that no phrase has a token at."""
    tokens, mask = unpack(rows, channels)
    longest = int(mask.sum(1).max()) if len(rows) else 0
    return pack(tokens[:, :longest], mask[:, :longest])


class PhraseReader:
    """Reads phrases by the text tower of a network, and remembers them on disk.

    It is what `ovseg.vocabulary.lengths` and `ovseg.vocabulary.scripts` call a text tower.

    Attributes:
        name: Of the network.
        text_limit: Tokens that it reads of a phrase, those around it included.
    """

    def __init__(self, network: Sam3Network) -> None:
        """Look at the text tower of a network."""
        config = network.config.text_config
        self.network, self.name = network, network.name
        self.text_limit, self.known = int(config.max_position_embeddings), int(config.vocab_size)

    @cached_property
    def _tokens(self) -> TextTokens:
        """The tokenizer, that of CLIP."""
        return TextTokens({"context_length": self.text_limit})

    def count_tokens(self, texts: list[str]) -> list[int]:
        """Return how many tokens each text has, those around it included."""
        return [self._tokens.count(text) for text in texts]

    def read_of(self, texts: list[str]) -> list[str]:
        """Return what is read of each text, as the tokenizer spells it."""
        return [self._tokens.read(text) for text in texts]

    def pieces_of(self, texts: list[str]) -> list[Pieces]:
        """Return for each text the part of it that each token stands for."""
        return [self._tokens.pieces(text) for text in texts]

    def long_text(self, texts: list[str]) -> Tensor:
        """Refuse windows: phrases have no one row that could be averaged.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError("SAM 3 looks at every token of a phrase, so windows of a longer one have no mean; say less")

    def read(self, phrases: Sequence[str], cache: TextCache | None, templates: tuple[str, ...] = ("{}",)) -> Tensor:
        """Return the rows (T, text_limit * (C + 1)) float32 of phrases on the CPU; what is on disk is not read anew.

        Args:
            phrases: As they are.
            cache: On disk; None keeps nothing.
            templates: In what the phrases were put, for the record of the cache.

        Raises:
            ConfigError: The tokenizer knows more tokens than the text tower.
        """
        network = self.network
        space = text_space(network.name, network.weights_hash, str(network.dtype), templates)
        wanted = list(dict.fromkeys(phrases))
        rows = cache.get(space, wanted) if cache else {}
        missing = [phrase for phrase in wanted if phrase not in rows]
        for start in range(0, len(missing), PHRASES_PER_PASS):
            report("texts", start, len(missing))
            part = missing[start : start + PHRASES_PER_PASS]
            fresh = self._compute(part)
            rows.update(zip(part, fresh, strict=True))
            if cache:
                cache.put(space, part, fresh)
        return torch.stack([rows[phrase] for phrase in phrases])

    @torch.no_grad()
    def _compute(self, phrases: list[str]) -> Tensor:
        ids = self._tokens(phrases)
        if int(ids.max()) >= self.known:
            raise ConfigError(
                f"the text tower of {self.name} has {self.known} tokens but the tokenizer gives {int(ids.max())}; "
                "expected the vocabulary of CLIP, vocab_size 49408"
            )
        lengths = ids.argmax(1) + 1  # the end of a text is the largest token, and the first of those that follow
        longest = int(lengths.max())
        mask = torch.arange(self.text_limit) < lengths[:, None]
        found = self.network.read(ids[:, :longest], mask[:, :longest])
        whole = F.pad(found.cpu(), (0, 0, 0, self.text_limit - longest))
        return pack(whole, mask)
