"""CLIPSeg: maps of prompts by a light decoder on a frozen CLIP; every prompt is a question of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor

from ovseg.aggregation.checks import all_at_least
from ovseg.checkpoint.loading import Weights
from ovseg.checkpoint.strict import translate
from ovseg.clip import ClipSource, Tower, load_tower
from ovseg.clip.architectures import architecture
from ovseg.clip.normalise import normalise
from ovseg.clip.tokens import DENSE, STREAM
from ovseg.contract import Words
from ovseg.data.preprocessing import SizeRule
from ovseg.errors import ConfigError, one_of
from ovseg.labelling.row_maps import RowMaps
from ovseg.labelling.sliding import resize
from ovseg.losses.class_maps import ClassMapCriterion
from ovseg.losses.matcher import Target
from ovseg.meta_arch.clipseg.decoder import Decoder, PromptMaps
from ovseg.meta_arch.clipseg.prompting import visual_prompt
from ovseg.meta_arch.clipseg.weights import OFFICIAL, UNUSED, from_transformers, official_name
from ovseg.meta_arch.cost_model import NAMES, CostModel
from ovseg.meta_arch.mask_model import read_targets
from ovseg.meta_arch.section import Section
from ovseg.meta_arch.trained_model import size_rule
from ovseg.system.device import to_device
from ovseg.vocabulary.examples import Example

NEEDS = frozenset({DENSE, STREAM})
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
NORMALISATIONS = ("imagenet", "clip")


class View(NamedTuple):
    """What the decoder reads of an image.

    Attributes:
        tokens: (S, N, D), see `Decoder.look`.
    """

    tokens: Tensor


@META_ARCH_REGISTRY.register()
class CLIPSeg(CostModel):
    """CLIPSeg (Lüddecke and Ecker, CVPR 2022, arXiv 2112.10003; github.com/timojl/clipseg). Trained is the decoder."""

    head = ("decoder.",)
    raw_texts = True
    cut = ""
    made_of = {"decoder": Decoder, "criterion": ClassMapCriterion}  # noqa: RUF012

    @configurable
    def __init__(
        self,
        clip: Tower,
        decoder: Decoder,
        criterion: ClassMapCriterion,
        size_rule: SizeRule,
        weights: Weights | None = None,
        *,
        resolution: int = 352,
        normalisation: str = "imagenet",
        size_divisibility: int = 1,
        names: str = "all",
        **parts: Any,
    ) -> None:
        """Put the parts together; a Detectron2 config is accepted in their place.

        Args:
            clip: Frozen.
            decoder: Makes the maps.
            criterion: The loss of training.
            size_rule: How large the network sees a photograph.
            weights: In the authors' layout, in that of transformers, or ours; None leaves the decoder untrained.
            resolution: Side in pixels of the square to which images are squeezed.
            normalisation: By which mean and deviation images are normalised: ``imagenet``, as all released decoders
                learnt it, or ``clip``, that of the CLIP itself.
            size_divisibility: In training images are padded to multiples of so many pixels before.
            names: Which names of a class count: ``all``, the best one, or the ``first`` alone.
            parts: Those of `TrainedModel`.

        Raises:
            ConfigError: An option does not fit the CLIP.
            WeightsError: The weights do not fit.
        """
        clip.check(NEEDS, "CLIPSeg")
        super().__init__(clip, **parts)
        if resolution < clip.patch_size or resolution % clip.patch_size:
            raise ConfigError(f"resolution is {resolution}; expected a multiple of the patches of {clip.patch_size}")
        if decoder.layers[0] < 0 or decoder.layers[-1] >= clip.depth:
            raise ConfigError(f"layers are {list(decoder.layers)}; expected blocks from 0 to {clip.depth - 1}")
        all_at_least(1, size_divisibility=size_divisibility)
        self.decoder, self.criterion, self.size_rule = decoder, criterion, size_rule
        self.resolution, self.size_divisibility = (resolution, resolution), size_divisibility
        self.names = one_of("names", names, NAMES)
        own = one_of("normalisation", normalisation, NORMALISATIONS) == "clip"
        self.mean, self.std = (clip.mean, clip.std) if own else (IMAGENET_MEAN, IMAGENET_STD)
        clip.requires_grad_(False)
        self.fill(weights, OFFICIAL)

    @classmethod
    def parts(cls, cfg: CfgNode, weights: Weights | None) -> dict[str, Any]:
        """Build the parts that a config names; see `TrainedModel.parts`."""
        section, weights = Section(cls, cfg), from_transformers(weights)
        clip = load_tower(ClipSource.of(cfg.MODEL.CLIP), NEEDS, "CLIPSeg", empty=OFFICIAL.holds_clip(weights))
        return {
            "clip": clip,
            "decoder": section.make("decoder", clip.width, clip.embed_dim, clip.patch_size, clip.prefix),
            "criterion": section.make("criterion"),
            "size_rule": size_rule(cfg, clip.patch_size, "CLIPSeg"),
            **cls.settings_of(cfg, section, weights),
        }

    @classmethod
    def check_head(cls, cfg: CfgNode, weights: Weights) -> None:
        """Check that weights fit a config, be they a decoder alone; of its CLIP only the architecture is needed.

        Raises:
            WeightsError: They do not fit.
        """
        found = from_transformers(weights)
        if OFFICIAL.holds_clip(found):
            cls(**cls.parts(cfg, found))
            return
        source = ClipSource.of(cfg.MODEL.CLIP)
        sizes = architecture(source.arch)
        vision = sizes["vision_cfg"]
        own = Section(cls, cfg).make("decoder", vision["width"], sizes["embed_dim"], vision["patch_size"], 1)
        state = {key: value for key, value in weights.state.items() if key not in UNUSED}
        translate(
            {f"decoder.{k}": v for k, v in own.state_dict().items()}, state, official_name, weights.source, "CLIPSeg"
        )

    @property
    def settings(self) -> dict[str, Any]:
        """What makes results besides the weights and the words, as JSON values; recorded in every result."""
        return {**super().settings, "normalisation": [list(self.mean), list(self.std)]}

    @property
    def scores_stand_alone(self) -> bool:
        """The map of a prompt does not depend on the others; see `WordedModel.scores_stand_alone`."""
        return True

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches of what CLIP sees."""
        side = self.resolution[0] // self.clip.patch_size
        return side, side

    def normalise(self, image: Tensor) -> Tensor:
        """Normalise images (..., 3, h, w) RGB in 0..255 as the decoder has learnt it."""
        mean, std = ([255 * x for x in values] for values in (self.mean, self.std))
        return normalise(to_device(image, self.clip.device).float(), mean, std).to(self.clip.dtype)

    def see(self, images: Tensor) -> list[View]:
        """Encode images, each as a whole and squeezed to a square; see `WordedModel.see`."""
        return [View(own) for own in self.run_network(self.views(self.normalise(images)))]

    def views(self, images: Tensor) -> Tensor:
        """Return what CLIP sees (B, 3, r, r) of normalised images (B, 3, h, w)."""
        return resize(images, self.resolution)

    def network(self, images: Tensor) -> Tensor:
        """Return what the decoder reads (B, S, N, D) of normalised images (B, 3, r, r); see `WordedModel.network`."""
        return self.decoder.look(self.activations(images))

    def activations(self, images: Tensor) -> list[Tensor]:
        """Return CLIP's tokens (B, N, C) behind the blocks that the decoder reads; no later block runs."""
        found = []
        tokens, grid = self.clip.embed(images, "bicubic")
        with self.clip.autocast():
            for index, block in enumerate(self.clip.blocks_on(grid)[: self.decoder.layers[-1] + 1]):
                tokens = block(tokens)
                if index in self.decoder.layers:
                    found.append(tokens.to(images))
        return found

    def maps(self, seen: View, words: Words) -> RowMaps:
        """Read the image by every word; see `CostModel.maps`."""
        return PromptMaps(self.decoder, self.decoder.read(seen.tokens, words.embeddings.to(seen.tokens), self.grid))

    def picture_row(self, examples: Sequence[Example]) -> Tensor:
        """Return CLIP's embedding of pictures (E,), with what is not the object blurred, dimmed and cut away.

        Several are averaged.
        """
        found = []
        for one in examples:
            image = torch.from_numpy(one.pixels).permute(2, 0, 1)
            shown = visual_prompt(self.normalise(image), torch.from_numpy(one.mask), self.resolution[0])
            found.append(self.clip.dense(shown[None].to(self.clip.device)).cls[0].float())
        return torch.stack(found).mean(0)

    def losses(self, batched_inputs: Sequence[dict[str, Any]], words: Words) -> dict[str, Tensor]:
        """Return the loss of a batch, ``loss_sem_seg``: each class that an image is asked for is a binary question.

        With ``train_classes`` an image is asked for what it shows and for others that are drawn anew at every step, as
        the original draws a phrase of another image.
        """
        images = self.training_batch(batched_inputs)
        return self.compare(images, read_targets(batched_inputs, images), self.class_rows(words))

    def class_rows(self, words: Words) -> Tensor:
        """Return the rows (K, E) of all classes by their first names."""
        first: dict[int, int] = {}
        for row, name in enumerate(words.query_to_class.tolist()):
            first.setdefault(name, row)
        return words.embeddings[[first[name] for name in range(len(words.vocabulary))]]

    def compare(self, images: Tensor, targets: Sequence[Target], rows: Tensor) -> dict[str, Tensor]:
        """Return the loss of padded images (B, 3, H, W) with what they show, by rows (K, E) of all classes.

        Raises:
            ConfigError: An image shows a class that is not among the K.
        """
        seen = self.network(self.views(images))
        chosen = self.criterion.choose(lambda _: torch.rand(len(rows), device=rows.device), len(rows), targets)
        own = [rows if some is None else rows[some] for some in chosen]
        logits = [
            self.decoder.logits(self.decoder(one, prompts.to(one), self.grid))
            for one, prompts in zip(seen, own, strict=True)
        ]
        return {"loss_sem_seg": self.criterion(logits, self.criterion.questions(targets, chosen, len(rows)))}
