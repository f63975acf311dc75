"""A frozen CLIP that gives dense features, with its last blocks handed to a recalibration."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ovseg.clip.features import Context, DenseFeatures, Need, Recalibrator
from ovseg.clip.open_clip_internals import Block, VisualTower, build_tokenizer
from ovseg.clip.position import RULES
from ovseg.errors import ConfigError, InputError

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)


class FrozenClip(nn.Module):
    """Frozen image and text towers of an open_clip model; build one by `load`, `from_folder` or `from_config`.

    Attributes:
        name: Such as ``"ViT-B-16/openai"``.
        weights_hash: First 16 hex digits of the SHA-256 of all weights and of the config that gives them meaning.
        patch_size, embed_dim, depth, image_size: Of the image tower; sizes in pixels, the image size that of training.
        mean, std: Per channel of RGB images in 0..1, with which inputs are normalised.
        logit_scale: Factor (not its logarithm) that CLIP was trained with between cosines and logits.
    """

    def __init__(
        self,
        model: Any,
        model_cfg: Mapping[str, Any],
        name: str,
        mean: tuple[float, float, float] = OPENAI_MEAN,
        std: tuple[float, float, float] = OPENAI_STD,
    ) -> None:
        """Freeze a built and loaded open_clip model.

        Raises:
            ConfigError: The image tower is not a plain vision transformer.
        """
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        self.name = name
        self.mean, self.std = mean, std
        self.tower = VisualTower(self.model.visual)
        self.text_cfg: dict[str, Any] = dict(model_cfg["text_cfg"])
        self.logit_scale = float(self.model.logit_scale.float().exp())
        self.weights_hash = _hash(model, model_cfg)
        self._tokenizer: Callable[[list[str]], Tensor] | None = None

    @classmethod
    def load(cls, arch: str, pretrained: str | Path, overrides: Mapping[str, Any] | None = None) -> FrozenClip:
        """Load a CLIP by the names of open_clip, or from a local file.

        Args:
            arch: Such as ``"ViT-B-16"``; see ``open_clip.list_models()``.
            pretrained: A tag (``"openai"``, ``"laion2b_s34b_b88k"``) or the path of a file in open_clip, OpenAI
                (TorchScript archive or state dict) or safetensors layout.
            overrides: Changes to open_clip's model config, nested as there. ``{"quick_gelu": False}`` also silences the
                check of the activation, for those originals that run OpenAI weights with exact GELU.

        Raises:
            UnknownNameError: No such architecture or tag.
            WeightsError: The file is missing, corrupt or foreign, does not fit, or needs QuickGELU.
            ConfigError: The image tower is not a plain vision transformer.
        """
        from ovseg.clip import loading

        return loading.load(arch, pretrained, overrides)

    @classmethod
    def from_folder(cls, folder: str | Path) -> FrozenClip:
        """Load a folder with ``open_clip_config.json`` and ``open_clip_model.safetensors``.

        Raises:
            WeightsError: The folder, its config or its weights are missing, corrupt or do not fit.
        """
        from ovseg.clip import loading

        return loading.from_folder(folder)

    @classmethod
    def from_config(
        cls,
        model_cfg: Mapping[str, Any],
        state_dict: Mapping[str, Tensor],
        name: str = "custom",
        preprocess_cfg: Mapping[str, Any] | None = None,
    ) -> FrozenClip:
        """Build a CLIP from an open_clip model config and its weights.

        Raises:
            ConfigError: The config cannot be built.
            WeightsError: Weights are missing, unexpected or mis-shaped.
        """
        from ovseg.clip import loading

        return loading.from_config(model_cfg, state_dict, name, preprocess_cfg)

    @property
    def patch_size(self) -> int:
        """Side of a patch in pixels."""
        return self.tower.patch_size

    @property
    def embed_dim(self) -> int:
        """Dimension of the joint space."""
        return self.tower.embed_dim

    @property
    def image_size(self) -> int:
        """Side of the images CLIP was trained with, in pixels."""
        return self.tower.image_size

    @property
    def blocks(self) -> list[Block]:
        """The blocks of the image tower."""
        return self.tower.blocks

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self.tower.blocks)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.logit_scale.device

    def train(self, mode: bool = True) -> FrozenClip:
        """Stay in evaluation mode, whatever the model around it does."""
        return super().train(False)

    def dense(
        self,
        images: Tensor,
        recalibration: Recalibrator | None = None,
        need: Need | None = None,
        regions: Tensor | None = None,
    ) -> DenseFeatures:
        """Return dense features; every block runs once.

        Args:
            images: Normalised images (B, 3, H, W) of any size of at least one patch; sides are floored to patches.
            recalibration: Takes over the last blocks, as many as it says; without one CLIP runs as it is.
            need: What to record besides what the recalibration itself needs.
            regions: Region ids (B, H, W) of the pixels, for recalibrations that use them.

        Raises:
            InputError: The images have another shape, or are smaller than a patch.
            ConfigError: More blocks are handed over or asked for than there are.
        """
        self._check_images(images)
        wanted = (need or Need()) | (recalibration.needs_of(self.depth) if recalibration else Need())
        rule = recalibration.pos_resize if recalibration else RULES[0]
        own = self.depth - self.handed_over(recalibration)
        hidden, attention = self._indices(wanted.hidden, own), self._indices(wanted.attention, own)
        tokens, grid = self.tower.embed(images, rule)
        context = Context(grid, images, self.tower, self.mean, self.std, regions)
        for index, block in enumerate(self.blocks[:own]):
            if index in attention:
                tokens, context.attention[index] = block.with_attention(tokens)
            else:
                tokens = block(tokens)
            if index in hidden:
                context.hidden[index] = tokens
        if recalibration is not None:
            return recalibration.joint(recalibration.run(tokens, self.blocks[own:], context), context)
        joint, cls = self.tower.head(tokens)
        return DenseFeatures(joint[:, 1:].mT.unflatten(-1, grid), cls, grid, context)

    @torch.no_grad()
    def text(self, texts: list[str]) -> Tensor:
        """Embed texts: (N, D), not of unit length, in the dtype and on the device of the model.

        Raises:
            ConfigError: The tokenizer knows more tokens than the text tower.
        """
        if not texts:
            return torch.empty(0, self.embed_dim, dtype=self.tower.dtype, device=self.device)
        if self._tokenizer is None:
            self._tokenizer = build_tokenizer(self.text_cfg)
        tokens = self._tokenizer(list(texts))
        vocabulary = self.text_cfg.get("vocab_size", 49408)
        if not self.text_cfg.get("hf_model_name") and int(tokens.max()) >= vocabulary:
            raise ConfigError(
                f"the text tower of {self.name} has {vocabulary} tokens but the tokenizer gives {int(tokens.max())}; "
                "expected vocab_size 49408 or another hf_tokenizer_name in text_cfg"
            )
        return self.model.encode_text(tokens.to(self.device))

    def _check_images(self, images: Tensor) -> None:
        shape = tuple(images.shape)
        if images.ndim != 4 or shape[1] != 3 or not images.is_floating_point():
            raise InputError(f"got images of shape {shape} and {images.dtype}; expected floating point (B, 3, H, W)")
        if min(shape[2:]) < self.patch_size:
            raise InputError(
                f"got {shape[3]} x {shape[2]} pixels; expected images of at least {self.patch_size} a side"
            )

    def handed_over(self, recalibration: Recalibrator | None) -> int:
        """Return how many of the last blocks a recalibration takes over.

        Raises:
            ConfigError: More than there are, or it asks for an unknown position-embedding rule.
        """
        if recalibration is None:
            return 0
        if recalibration.pos_resize not in RULES:
            raise ConfigError(f"pos_resize '{recalibration.pos_resize}' is unknown; expected one of {', '.join(RULES)}")
        wanted = recalibration.blocks_of(self.depth)
        if not 1 <= wanted <= self.depth:
            raise ConfigError(
                f"{recalibration.name} changes the last {wanted} blocks but {self.name} "
                f"has {self.depth}; choose a smaller depth or a deeper CLIP"
            )
        return wanted

    def _indices(self, asked: tuple[int, ...], own: int) -> set[int]:
        found = {index + self.depth if index < 0 else index for index in asked}
        wrong = sorted(index for index in found if not 0 <= index < own)
        if wrong:
            raise ConfigError(f"block {wrong[0]} cannot be recorded; expected 0 to {own - 1} of {self.depth}")
        return found


def _hash(model: nn.Module, model_cfg: Mapping[str, Any]) -> str:
    """Hash weights and configuration: the same weights mean something else under another activation."""
    digest = hashlib.sha256(json.dumps(model_cfg, sort_keys=True, default=str).encode())
    for key, tensor in sorted(model.state_dict().items()):
        digest.update(f"{key}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]
