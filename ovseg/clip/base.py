"""What all CLIPs of open_clip share, whatever their image tower is: weights, texts, and how inputs are normalised."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import Self

from ovseg.checkpoint.hashing import hash_tensors
from ovseg.clip import loading
from ovseg.clip.activation import name_of
from ovseg.clip.open_clip_internals import OPENAI_MEAN, OPENAI_STD, vision_config
from ovseg.clip.sources import ClipSource
from ovseg.clip.text_passes import Pass, passes
from ovseg.clip.text_pieces import Pieces
from ovseg.clip.text_tokens import TextTokens
from ovseg.clip.tower import Tower
from ovseg.errors import ConfigError
from ovseg.ops.linear_layers import fast_products
from ovseg.system.progress import report

_TEXT = threading.RLock()  # held by whoever runs or moves a text tower; of the process, for a model is also pickled


class BaseClip(Tower):
    """Image and text towers of an open_clip model, frozen; build one by `load`, `from_folder` or `from_config`.

    ``weights_hash`` is the start, 16 digits, of the SHA-256 of all weights, of the config that gives them meaning and
    of the files of a tokenizer that they bring.
    Threads may share one.

    Attributes:
        image_parts: How the names of weights start that embed no text.
    """

    image_parts: ClassVar[tuple[str, ...]] = ("visual.", "logit_")

    def __init__(
        self,
        model: Any,
        model_cfg: Mapping[str, Any],
        name: str,
        mean: tuple[float, float, float] = OPENAI_MEAN,
        std: tuple[float, float, float] = OPENAI_STD,
        tokenizer: Mapping[str, str] | None = None,
    ) -> None:
        """Freeze a built and loaded open_clip model.

        Args:
            model: Built and loaded.
            model_cfg: Its config.
            name: What to call it.
            mean: Of each channel of its images, see `ovseg.clip.tokens.TokenTower`.
            std: Likewise.
            tokenizer: Hashes of the files of its own tokenizer, by their names.

        Raises:
            ConfigError: The image tower is not of this kind.
        """
        tower = self.tower_of(model)
        super().__init__()
        self.tower = tower
        self.model = model.eval().requires_grad_(False)
        self.model_cfg = dict(model_cfg)
        self.name = name
        self.mean, self.std = mean, std
        self.embed_dim = int(model_cfg["embed_dim"])
        self.text_cfg: dict[str, Any] = dict(model_cfg["text_cfg"])
        self.tokenizer = dict(tokenizer or {})
        self._tokens: TextTokens | None = None
        self.refresh()

    @staticmethod
    def tower_of(model: Any) -> Any:
        """Adapt the image tower of a model.

        Raises:
            ConfigError: It is not of this kind.
        """
        raise NotImplementedError

    @classmethod
    def load(
        cls,
        arch: str,
        pretrained: str | Path,
        overrides: Mapping[str, Any] | None = None,
        resize_position: bool = False,
    ) -> Self:
        """Load a CLIP by the names of open_clip, or from a local file.

        Args:
            arch: Such as ``"ViT-B-16"``; see ``open_clip.list_models()``.
            pretrained: A tag (``"openai"``, ``"laion2b_s34b_b88k"``) or the path of a file, of the index of shards, or
                of a folder with them, in any layout that `ovseg.checkpoint.clip_files` recognises. A file runs with the
                activation that it says it was trained with; where it says none, with that of the architecture, and a
                warning where there is another with ``-quickgelu`` behind its name. `notes` records it.
            overrides: Changes to open_clip's model config, nested as there. ``quick_gelu`` among them says which
                activation it is, also against the file, for those originals that run OpenAI weights with exact GELU.
            resize_position: Fit position embeddings of another size by interpolation, as open_clip does; else they are
                an error that names both sizes.

        Raises:
            UnknownNameError: No such architecture or tag.
            WeightsError: The file is missing, corrupt or foreign, does not fit, or holds NaN; or the weights of a tag
                need QuickGELU.
            ConfigError: The image tower is not of this kind.
        """
        return loading.load(cls, arch, pretrained, overrides, resize_position)

    @classmethod
    def from_folder(cls, folder: str | Path, resize_position: bool = False) -> Self:
        """Load a folder with a config and weights, as open_clip or transformers (a CLIPModel) saves them.

        ``mini`` is the embedded one; ``hf:OWNER/NAME`` and ``hf-hub:OWNER/NAME`` are repositories of the hub, see
        `ovseg.clip.folders`.

        Raises:
            WeightsError: The folder, its config or its weights are missing, corrupt or do not fit.
        """
        return loading.from_folder(cls, folder, resize_position)

    @classmethod
    def read(cls, source: ClipSource, empty: bool = False) -> Self:
        """Build the CLIP of a source, with its weights or yet without; see `ovseg.clip.towers.Reader`.

        Raises:
            OvsegError: As `load`, `from_folder` and `empty`.
        """
        if source.folder:
            return cls.from_folder(source.folder, source.resize_position)
        if empty:
            return cls.empty(source.arch, source.quick_gelu)
        return cls.load(source.arch, source.pretrained, source.overrides, source.resize_position)

    @classmethod
    def from_config(
        cls,
        model_cfg: Mapping[str, Any],
        state_dict: Mapping[str, Tensor],
        name: str = "custom",
        preprocess_cfg: Mapping[str, Any] | None = None,
    ) -> Self:
        """Build a CLIP from an open_clip model config and its weights.

        Raises:
            ConfigError: The config cannot be built.
            WeightsError: Weights are missing, unexpected, mis-shaped or not finite.
        """
        return loading.from_config(cls, model_cfg, state_dict, name, preprocess_cfg)

    @classmethod
    def empty(cls, arch: str, quick_gelu: bool | None = None) -> Self:
        """Build a CLIP whose weights are still to be assigned, by a checkpoint that holds them; call `refresh` then.

        Args:
            arch: See `load`.
            quick_gelu: Whether it has QuickGELU; None is as the architecture has it, with a warning as in `load`.

        Raises:
            UnknownNameError: No such architecture.
            ConfigError: The image tower is not of this kind.
        """
        return loading.empty(cls, arch, quick_gelu)

    @staticmethod
    def check_config(model_cfg: dict[str, Any], name: str) -> None:
        """Refuse the open_clip model configs that this kind of CLIP cannot run.

        Raises:
            ConfigError: A part is missing, or the image tower is of another kind.
        """
        vision_config(model_cfg, name)

    @property
    def activation(self) -> str:
        """Activation of its feed-forward networks: ``gelu`` or ``quick_gelu``."""
        return name_of(self.model_cfg)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.logit_scale.device

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the weights."""
        return self.model.logit_scale.dtype

    def refresh(self) -> None:
        """Read scale and hash from the weights; call it when weights were loaded over those it was built with."""
        on_meta = self.device.type == "meta"  # there are no values yet
        self.logit_scale = 1.0 if on_meta else float(self.model.logit_scale.float().exp())
        bias = getattr(self.model, "logit_bias", None)
        self.logit_bias = 0.0 if bias is None or on_meta else float(bias)
        # The same weights mean something else under another activation, which the configuration says.
        config = json.dumps(self.meaning, sort_keys=True, default=str)
        self.weights_hash = "" if on_meta else hash_tensors(self.model.state_dict().items(), config)
        self._text_hash = ""

    def text_hash(self) -> str:
        """Return what tells weights apart by what they make of texts.

        Where the image tower is tuned, that is a hash of all but its weights, so that texts need not be embedded anew
        whenever images are seen in another way; else `weights_hash`, which is there already.
        """
        if not any(own.requires_grad for key, own in self.model.named_parameters() if key.startswith(self.image_parts)):
            return self.weights_hash
        if not self._text_hash:
            own = [
                (key, value) for key, value in self.model.state_dict().items() if not key.startswith(self.image_parts)
            ]
            self._text_hash = hash_tensors(own, f"texts {json.dumps(self.meaning, sort_keys=True, default=str)}")
        return self._text_hash

    @property
    def meaning(self) -> Mapping[str, Any]:
        """What gives the weights their meaning, and is in their hash."""
        return {**self.model_cfg, "tokenizer": self.tokenizer} if self.tokenizer else self.model_cfg

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode, whatever the model around it does."""
        return super().train(False)

    def move_text(self, device: torch.device) -> None:
        """Bring the weights of the text tower to a device; all others stay where they are.

        Words are embedded once, so that tower need not lie on an accelerator beside images; `text` fetches it back.
        It waits for threads that embed texts.
        """
        with _TEXT:
            for key, weight in list(self.model.named_parameters()):
                if key.startswith(self.image_parts) or weight.device == device:
                    continue
                if weight.requires_grad:
                    weight.data = weight.data.to(device)  # the same object, which an optimizer may know
                    continue
                owner, _, name = key.rpartition(".")
                setattr(self.model.get_submodule(owner), name, nn.Parameter(weight.to(device), requires_grad=False))

    @torch.no_grad()
    def text(self, texts: list[str]) -> Tensor:
        """Embed texts: (N, D), not of unit length, in the dtype and on the device of the model.

        Threads take turns, pass by pass; how far it has come is told to `ovseg.system.progress`.

        Raises:
            ConfigError: The tokenizer knows more tokens than the text tower.
        """
        if not texts:
            return torch.empty(0, self.embed_dim, dtype=self.dtype, device=self.device)
        with _TEXT:
            tokens = self.text_tokens(texts)
        return self._embed(tokens)

    def learn_texts(self, tokens: Tensor) -> Tensor:
        """Embed the tokens (N, n) int64 of texts as `text` does, but so that a text tower can be tuned by the rows."""
        places, rows = [], []
        for part, run in self.text_passes(tokens.cpu()):
            with _TEXT:
                self.move_text(self.device)
                rows.append(run())
            places.append(part)
        order = torch.cat(places).argsort().to(self.device)
        return torch.cat(rows)[order]

    @torch.no_grad()
    def long_text(self, texts: list[str]) -> Tensor:
        """Embed texts of any length: (N, D); those that fit as `text` does, others as the mean of their windows.

        See `ovseg.clip.text_tokens.TextTokens.windows`; after ClipMD (arXiv 2303.13340), which gives only the first
        window the token at the start and only the last the one at the end.

        Raises:
            ConfigError: As `text`, or the context is too short for windows.
        """
        with _TEXT:
            windows = [self.text_tokens.windows(text) for text in texts]
        if not windows:
            return self.text([])
        rows = self._embed(torch.cat(windows))
        return torch.stack([own.mean(0) for own in rows.split([len(own) for own in windows])])

    @property
    def text_tokens(self) -> TextTokens:
        """The tokens of texts."""
        with _TEXT:
            if self._tokens is None:
                self._tokens = TextTokens(self.text_cfg)
        return self._tokens

    @property
    def text_limit(self) -> int:
        """How many tokens the text tower reads of a text, those around it included."""
        return self.text_tokens.limit

    def count_tokens(self, texts: list[str]) -> list[int]:
        """Return how many tokens each text has, those around it included."""
        return [self.text_tokens.count(text) for text in texts]

    def read_of(self, texts: list[str]) -> list[str]:
        """Return what the text tower reads of each text, as the tokenizer spells it."""
        return [self.text_tokens.read(text) for text in texts]

    def pieces_of(self, texts: list[str]) -> list[Pieces]:
        """Return for each text the part of it that each token stands for; see `ovseg.clip.text_pieces`."""
        return [self.text_tokens.pieces(text) for text in texts]

    def text_passes(self, tokens: Tensor) -> Iterator[Pass]:
        """Plan how tokens (N, n) int64 on the CPU go through the text tower; see `ovseg.clip.text_passes.passes`."""
        return passes(self.model, tokens)

    def _embed(self, tokens: Tensor) -> Tensor:
        """Embed tokens (N, n)."""
        vocabulary = self.text_cfg.get("vocab_size", 49408)
        if not self.text_cfg.get("hf_model_name") and int(tokens.max()) >= vocabulary:
            raise ConfigError(
                f"the text tower of {self.name} has {vocabulary} tokens but the tokenizer gives {int(tokens.max())}; "
                "expected its own tokenizer: vocab_size 49408, another hf_tokenizer_name in text_cfg, or files of it"
            )
        rows = torch.empty(len(tokens), self.embed_dim, dtype=self.dtype, device=self.device)
        done = 0
        for places, run in self.text_passes(tokens):
            with _TEXT, fast_products(self.device):
                self.move_text(self.device)
                rows[places.to(rows.device)] = run()
            done += len(places)
            report("texts", done, len(tokens))
        return rows
