"""SAN: a side adapter proposes masks and leads the last blocks of a frozen CLIP to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor, nn

from ovseg.checkpoint.loading import Weights
from ovseg.clip import ClipSource, Tower, load_tower
from ovseg.clip.tokens import ATTENTION, CLASS_TOKEN, POSITIONS, STREAM
from ovseg.contract import Answer, Words
from ovseg.data.preprocessing import SizeRule
from ovseg.errors import ConfigError, one_of
from ovseg.labelling.objects import semantic_results
from ovseg.losses.criterion import SetCriterion
from ovseg.losses.matcher import Prediction
from ovseg.losses.points import Draw, uniform_points
from ovseg.meta_arch.mask_model import MaskModel, read_targets
from ovseg.meta_arch.san.recognition import pool_bias, run_patches, run_tail
from ovseg.meta_arch.san.side_adapter import SideAdapter
from ovseg.meta_arch.san.weights import official
from ovseg.meta_arch.section import Section
from ovseg.meta_arch.trained_model import size_rule
from ovseg.proposals.classifier import class_logits
from ovseg.vocabulary import TextOptions

NEEDS = frozenset({STREAM, ATTENTION, CLASS_TOKEN, POSITIONS})
SLS_TOKENS = ("cls_token", "learnable_token", "pos_embedding")


class Proposed(NamedTuple):
    """What SAN keeps of an image.

    Attributes:
        embeddings: Of the masks, (Q, D) float32, not of unit length.
        masks: Their logits (Q, h, w) float32.
        padded: Height and width of the network's input, the image in its upper left corner.
    """

    embeddings: Tensor
    masks: Tensor
    padded: tuple[int, int]


@META_ARCH_REGISTRY.register()
class SAN(MaskModel):
    """Side Adapter Network (Xu et al., CVPR 2023, arXiv 2302.12242; github.com/MendelXu/SAN).

    Trained are the side adapter, the position embeddings of CLIP's image tower (`position`, unless told otherwise) and
    the row of "no object" (`void_row`).
    """

    head = ("side_adapter.", "position", "void_row", "sls_tokens")
    extra_packed = ("side_adapter",)
    made_of = {"side_adapter": SideAdapter, "criterion": SetCriterion}  # noqa: RUF012

    @configurable
    def __init__(
        self,
        clip: Tower,
        side_adapter: SideAdapter,
        criterion: SetCriterion,
        size_rule: SizeRule,
        templates: str,
        background: str,
        text: TextOptions | None = None,
        options: Mapping[str, Any] | None = None,
        weights: Weights | None = None,
        *,
        front_blocks: int = 9,
        clip_resolution: float = 0.5,
        size_divisibility: int = 32,
        bias_pooling: str = "max",
        sls_token: str = "cls_token",
        train_position: bool = True,
    ) -> None:
        """Put the parts together; a Detectron2 config is accepted in their place.

        Args:
            clip: The frozen CLIP.
            side_adapter: Proposes masks and leads CLIP.
            criterion: The losses of training.
            size_rule: How large the network sees a photograph.
            templates: Name of the template set.
            background: The background policy.
            text: How the texts of a vocabulary are engineered.
            options: See `MaskModel`.
            weights: In the layout of the released ones, or ours; None leaves the side adapter untrained.
            front_blocks: Of CLIP; the others are led by the masks.
            clip_resolution: Of the image that CLIP sees, as a share of the side adapter's.
            size_divisibility: Batches are padded to multiples of so many pixels.
            bias_pooling: How biases come to the grid of CLIP: ``max``, ``avg``, ``bilinear`` or ``bicubic``.
            sls_token: What the tokens of the masks start as: ``cls_token``, ``learnable_token`` or ``pos_embedding``.
            train_position: Whether CLIP's position embeddings are trained; else nothing is learned through CLIP.

        Raises:
            ConfigError: An option does not fit the CLIP.
            WeightsError: The weights do not fit.
        """
        clip.check(NEEDS, "SAN")
        super().__init__(clip, templates, background, text, options)
        _check_depth(clip, front_blocks, max(side_adapter.taps))
        self.side_adapter, self.criterion, self.size_rule = side_adapter, criterion, size_rule
        self.front_blocks, self.clip_resolution = front_blocks, clip_resolution
        self.size_divisibility = size_divisibility
        self.bias_pooling, self.sls_token = bias_pooling, one_of("sls_token", sls_token, SLS_TOKENS)
        self.position = nn.Parameter(clip.position_table.detach().clone(), train_position)
        self.void_row = nn.Parameter(torch.randn(1, clip.embed_dim) * clip.embed_dim**-0.5)
        if sls_token != "cls_token":
            count = side_adapter.query_embed.shape[1]
            self.sls_tokens = nn.Parameter(torch.randn(count, 1, clip.width) * 0.02)
        self.fill(weights, official(front_blocks))

    @classmethod
    def parts(cls, cfg: CfgNode, weights: Weights | None) -> dict[str, Any]:
        """Build the parts that a config names; see `MaskModel.parts`."""
        section = Section(cls, cfg)
        layout = official(section.options["front_blocks"])
        clip = load_tower(ClipSource.of(cfg.MODEL.CLIP), NEEDS, "SAN", empty=layout.holds_clip(weights))
        return {
            "clip": clip,
            "side_adapter": section.make("side_adapter", clip.width, clip.blocks[0].heads),
            "criterion": section.make("criterion"),
            "size_rule": size_rule(cfg, section.options["patch"]),
            **cls.settings_of(cfg, section, weights),
        }

    def see(self, images: Tensor) -> list[Proposed]:
        """Propose masks; see `WordedModel.see`."""
        batch = self.padded(list(self.normalise(images)))
        size = (batch.shape[2], batch.shape[3])
        found = zip(*self.run_network(batch), strict=True)
        return [Proposed(embeddings, masks, size) for embeddings, masks in found]

    def label(
        self, seen: Proposed, network_size: tuple[int, int], size: tuple[int, int], words: Words, want: frozenset[str]
    ) -> Answer:
        """Name the masks; see `WordedModel.label`."""
        shares, resize = self.shares(seen, words), self.resize(seen, network_size, size)
        return semantic_results(shares, seen.masks, resize, words, want)

    def shares(self, seen: Proposed, words: Words) -> Tensor:
        """Name the masks; see `MaskModel.shares`."""
        logits = self.classify(seen.embeddings[None], seen.masks[None], words).class_logits[0]
        return logits.float().softmax(-1)

    def cosines(self, seen: Proposed, words: Words) -> Tensor:
        """Compare the masks with every text; see `MaskModel.cosines`."""
        return F.normalize(seen.embeddings, dim=-1) @ words.embeddings.to(seen.embeddings).mT

    def mask_embeddings(self, seen: Proposed) -> Tensor:
        """Return what CLIP sees of each mask; see `MaskModel.mask_embeddings`."""
        return seen.embeddings

    def losses(
        self, batched_inputs: Sequence[dict[str, Any]], words: Words, draw: Draw = uniform_points
    ) -> dict[str, Tensor]:
        """Return the weighted losses of a batch, by name; ``draw`` gives the random points.

        Raises:
            ConfigError: An image came without targets.
        """
        images = self.training_batch(batched_inputs)
        return self.criterion(self.predict(images, words), read_targets(batched_inputs, images), draw)

    def predict(self, images: Tensor, words: Words) -> list[Prediction]:
        """Return class logits (B, Q, C + 1) and mask logits (B, Q, h, w) of a normalised, padded batch (B, 3, H, W).

        In training those of all supervised stages, the last one last; else that alone. For C see `Words.columns`.
        """
        return [self.classify(*stage, words) for stage in self.propose(images)]

    def classify(self, embeddings: Tensor, masks: Tensor, words: Words) -> Prediction:
        """Name what `propose` found."""
        rows = torch.cat([words.embeddings.to(self.void_row), F.normalize(self.void_row, dim=-1)])
        return Prediction(class_logits(embeddings, rows, self.clip.logit_scale, words.columns, void=True), masks)

    def network(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return embeddings (B, Q, D) and mask logits (B, Q, h, w), float32; see `WordedModel.network`."""
        return self.propose(images)[-1]

    def propose(self, images: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return embeddings (B, Q, D), not of unit length, and mask logits (B, Q, h, w) of each stage; as `predict`."""
        tower, front = self.clip, self.front_blocks
        tokens, grid = tower.embed(self.shrink(images), "bicubic_by_grid", self.position)
        blocks = tower.blocks_on(grid)
        with self.clip.autocast():
            patches = run_patches(tower, tokens, blocks, front, self.side_adapter.taps)
        taps = {tap: tower.split(kept)[1].to(tokens).mT.unflatten(2, grid) for tap, kept in patches.taps.items()}
        starts = self.sls_starts(patches.tokens)
        found = []
        for stage in self.side_adapter(images, taps, all_stages=self.training):
            biases = [pool_bias(bias, grid, self.bias_pooling) for bias in stage.biases]
            with self.clip.autocast():
                led = run_tail(starts, blocks[front:], patches.seen, biases)
            found.append((tower.patches_to_joint(led.to(starts)), stage.masks))
        return found

    def shrink(self, images: Tensor) -> Tensor:
        """Resize a batch to CLIP's resolution by the nominal factor, whose inverse is the step between pixels."""
        if self.clip_resolution == 1:
            return images
        factor = self.clip_resolution
        return F.interpolate(images, scale_factor=factor, mode="bilinear", recompute_scale_factor=False)

    def sls_starts(self, tokens: Tensor) -> Tensor:
        """Return what the tokens of the masks (B, Q, C) start as, given all tokens (B, N, C) of CLIP."""
        cls = self.clip.class_and_rest(tokens)[0]
        if self.sls_token == "cls_token":
            return cls.expand(-1, self.side_adapter.query_embed.shape[1], -1)
        own = self.sls_tokens.transpose(0, 1)
        return own.expand(len(tokens), -1, -1) if self.sls_token == "learnable_token" else own + cls


def _check_depth(clip: Tower, front_blocks: int, last_tap: int) -> None:
    """Refuse blocks that a CLIP does not have."""
    if not (0 <= front_blocks < clip.depth and last_tap <= clip.depth):
        raise ConfigError(
            f"{front_blocks} front blocks and taps up to {last_tap}; expected fewer front blocks than the {clip.depth} "
            f"of {clip.name}, and no taps beyond them"
        )
