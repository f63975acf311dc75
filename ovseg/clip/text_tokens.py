"""The tokens of texts: how many a text has, what a text tower reads of it, and windows of a text that is too long.

The only file that touches the tokenizers of open_clip.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ovseg.clip import text_pieces
from ovseg.clip.hf.package import import_transformers, local_files
from ovseg.clip.open_clip_internals import import_open_clip
from ovseg.errors import ConfigError, WeightsError

OVERLAP = 7  # tokens of the context less the step between windows, as in ClipMD (arXiv 2303.13340)


class TextTokens:
    """The tokenizer that a text configuration asks for.

    Attributes:
        limit: Tokens (n) that the text tower reads of a text, those around it included.
        room: How many of them are the text's own.
    """

    def __init__(self, text_cfg: dict[str, Any]) -> None:
        """Build the tokenizer; one of Hugging Face reads its files.

        Raises:
            EnvironmentProblem: It is one of Hugging Face, and transformers is not installed.
            WeightsError: Its files are not here and cannot be fetched.
        """
        from open_clip import tokenizer

        import_open_clip()
        self.limit: int = text_cfg.get("context_length", 77)
        options = text_cfg.get("tokenizer_kwargs") or {}
        self._hub = bool(text_cfg.get("hf_tokenizer_name"))
        if self._hub:
            import_transformers(f"the tokenizer {text_cfg['hf_tokenizer_name']}")
            folder = local_files(text_cfg["hf_tokenizer_name"])
            options = {"tokenizer_mode": text_cfg.get("tokenizer_mode"), **options}
            self._own: Any = _of_hub(folder, context_length=self.limit, **options)
        else:
            self._own = tokenizer.SimpleTokenizer(context_length=self.limit, **options)
        self._before, self._behind, self._last = self._around()
        self.room = self.limit - len(self._before) - len(self._behind) - len(self._last)

    def __call__(self, texts: list[str]) -> Tensor:
        """Return the tokens (N, n) int64 of texts; what is too long is cut."""
        rows: Tensor = self._own(list(texts))
        return rows

    def count(self, text: str) -> int:
        """Return how many tokens a text has, those around it included."""
        return len(self._contents(text)) + self.limit - self.room

    def read(self, text: str) -> str:
        """Return what the text tower reads of a text, as the tokenizer spells it."""
        return self._text(self._contents(text)[: self.room])

    def pieces(self, text: str) -> text_pieces.Pieces:
        """Return the part of a text that each of its tokens stands for; see `ovseg.clip.text_pieces`."""
        if self._hub:
            return text_pieces.of_hub(self._own.tokenizer, self._own.clean_fn(text))
        return text_pieces.of_bytes(self._own, self._contents(text))

    def windows(self, text: str) -> Tensor:
        """Return the windows (W, n) int64 of a text; one that fits is a single window, the same as of a call.

        Windows begin n - 7 tokens apart. Each holds as many tokens of the text as there is room for, between the tokens
        that stand around every text, so that the tower pools each as it pools a text. Behind the last full one the rest
        from its place on is one more, where a token is left.

        Raises:
            ConfigError: The context is too short for windows, or the tokenizer lays texts out in a way of its own.
        """
        ids = self._contents(text)
        if len(ids) <= self.room:
            return self([text])
        step = self.limit - OVERLAP
        if step < 1 or self.room < step:
            raise ConfigError(f"a context of {self.limit} tokens is too short for long_text; leave it out")
        if not torch.equal(self._row(self._contents("a")), self(["a"])[0]):
            raise ConfigError("long_text does not know how the tokenizer of this model lays texts out; leave it out")
        full = (len(ids) - self.room) // step + 1
        parts = [ids[place * step : place * step + self.room] for place in range(full)]
        rest = ids[full * step :]
        return torch.stack([self._row(part) for part in [*parts, *([rest] if rest else [])]])

    def _contents(self, text: str) -> list[int]:
        """Return the tokens of a text without those around it."""
        if not self._hub:
            found: list[int] = self._own.encode(text)
            return found
        return list(self._own.tokenizer(self._own.clean_fn(text), add_special_tokens=False)["input_ids"])

    def _around(self) -> tuple[list[int], list[int], list[int]]:
        """Return what stands before a text, directly behind it, and at the end of the context."""
        if not self._hub:
            return [self._own.sot_token_id], [self._own.eot_token_id], []
        hub = self._own.tokenizer
        if self._own.tokenizer_mode == "clips":
            return [hub.bos_token_id], [hub.eos_token_id], [hub.cls_token_id]
        whole, own = list(hub(self._own.clean_fn("a"))["input_ids"]), self._contents("a")
        start = next(i for i in range(len(whole)) if whole[i : i + len(own)] == own)
        return whole[:start], whole[start + len(own) :], []

    def _row(self, ids: list[int]) -> Tensor:
        """Lay tokens of a text out as the tokenizer does: (n,) int64."""
        padding = (self._own.tokenizer.pad_token_id or 0) if self._hub else 0
        row = [*self._before, *ids, *self._behind]
        row += [padding] * (self.limit - len(row) - len(self._last)) + self._last
        if self._hub and self._own.strip_sep_token:
            row = [0 if token == self._own.tokenizer.sep_token_id else token for token in row]
        return torch.tensor(row)

    def _text(self, ids: list[int]) -> str:
        decoder = self._own.tokenizer if self._hub else self._own
        return " ".join(str(decoder.decode(ids)).split())


def _of_hub(folder: str, **options: Any) -> Any:
    """Build the tokenizer of a folder; no code of it runs.

    Raises:
        WeightsError: It cannot be read, or has no token to fill up with.
    """
    from open_clip import tokenizer

    try:
        found = tokenizer.HFTokenizer(folder, **{**options, "local_files_only": True, "trust_remote_code": False})
    except Exception as error:  # whatever transformers, tokenizers and sentencepiece raise on foreign files
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise WeightsError(f"the tokenizer in {folder} cannot be read ({reason}); get its files anew") from error
    if found.tokenizer.pad_token is None:
        raise WeightsError(f"the tokenizer in {folder} has no pad_token; expected one in tokenizer_config.json")
    return found
