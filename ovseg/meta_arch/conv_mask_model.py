"""What FC-CLIP and MAFT+ share: a CLIP with levels, most often convolutional, a pixel and a masked decoder on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from torch import Tensor, nn

from ovseg.checkpoint.loading import Official, Weights
from ovseg.clip import ClipSource, Tower, load_tower
from ovseg.clip.conv_clip import STRIDE
from ovseg.clip.tokens import LEVELS
from ovseg.clip.vit_levels import ViTPyramid
from ovseg.contract import INSTANCES, PANOPTIC, Answer, Words
from ovseg.data.preprocessing import SizeRule
from ovseg.labelling.known import seen_columns
from ovseg.labelling.mask_resize import MaskResize, plan_resize
from ovseg.labelling.objects import MaskRule, object_results, semantic_results
from ovseg.losses.criterion import SetCriterion
from ovseg.losses.matcher import Prediction, Target
from ovseg.losses.points import Draw, uniform_points
from ovseg.meta_arch.mask_model import MaskModel, read_targets
from ovseg.meta_arch.section import Section
from ovseg.meta_arch.trained_model import size_rule
from ovseg.proposals.classifier import LARGEST_SCALE, class_logits, class_scale
from ovseg.proposals.ensemble import CLIP_ALONE, Ensemble
from ovseg.proposals.masked_decoder import MaskedDecoder, Proposals
from ovseg.proposals.pixel_decoder import PixelDecoder
from ovseg.system.device import give_back
from ovseg.system.values import short_hash
from ovseg.vocabulary import TextOptions, Vocabulary


class Proposed(NamedTuple):
    """What a model of this kind keeps of an image.

    Attributes:
        embeddings: Of the masks, for the trained classifier, (Q, D).
        masks: Their logits (Q, h, w).
        pooled: What CLIP sees inside of each, (Q, D), not of unit length.
        looks: What else a model names masks by; see its `looks`.
        padded: Height and width of the network's input, the image in its upper left corner.
    """

    embeddings: Tensor
    masks: Tensor
    pooled: Tensor
    looks: Any
    padded: tuple[int, int]


def read_words(usual: str, *, trained_vocabulary: str = "") -> frozenset[str] | None:
    """Read the words of a training; None if they are not known.

    Args:
        usual: What stands for them where nothing else is said: the words of the config.
        trained_vocabulary: A preset, a file, or a list.
    """
    words = trained_vocabulary or usual
    return frozenset(Vocabulary.parse(words).queries) if words else None


class ConvMaskModel(MaskModel):
    """Proposes masks on the levels of a convolutional CLIP and names them; how, a model of this kind says itself.

    Attributes:
        official: How the authors of the model store it.
        clip: The CLIP, frozen unless a model says otherwise.
        pixel_decoder, decoder: The head.
        void: Embedding of "no object", which stands behind the texts.
        rule: What is made of the masks.
        criterion: The losses of training.
        ensemble: How the trained classifier and that of CLIP are mixed.
        trained_names: The words that the head was trained on; a class is seen if it has one of them, to the letter.
            None until they are known: then no class is seen, and training makes them those that it is given.
    """

    head: ClassVar[tuple[str, ...]] = ("pixel_decoder.", "decoder.", "void.")
    official: ClassVar[Official]
    made_of: ClassVar[Mapping[str, Callable[..., Any]]] = {
        "pixel_decoder": PixelDecoder,
        "decoder": MaskedDecoder,
        "rule": MaskRule,
        "criterion": SetCriterion,
        "trained_names": read_words,
    }
    unrecorded: ClassVar[tuple[str, ...]] = ("criterion", "trained_names")
    size_divisibility = STRIDE

    def __init__(
        self,
        clip: Tower,
        pixel_decoder: PixelDecoder,
        decoder: MaskedDecoder,
        size_rule: SizeRule,
        rule: MaskRule,
        criterion: SetCriterion,
        templates: str,
        background: str,
        text: TextOptions | None = None,
        options: Mapping[str, Any] | None = None,
        ensemble: Ensemble = CLIP_ALONE,
        trained_names: frozenset[str] | None = None,
    ) -> None:
        """Put the parts together."""
        super().__init__(clip, templates, background, text, options)
        self.not_compiled = clip.not_compiled if isinstance(clip, ViTPyramid) else ""
        self.pixel_decoder, self.decoder = pixel_decoder, decoder
        self.void = nn.Embedding(1, clip.embed_dim)
        self.size_rule, self.rule, self.criterion = size_rule, rule, criterion
        self.ensemble, self.trained_names = ensemble, trained_names

    @classmethod
    def parts(cls, cfg: CfgNode, weights: Weights | None) -> dict[str, Any]:
        """Build the parts that a config names; see `MaskModel.parts`."""
        section = Section(cls, cfg)
        clip = section.make("clip", cfg, cls.official.holds_clip(weights))
        return {
            "clip": clip,
            "pixel_decoder": section.make("pixel_decoder", clip.channels),
            "decoder": section.make("decoder", clip.embed_dim),
            "rule": section.make("rule", cfg.TEST.DETECTIONS_PER_IMAGE),
            "criterion": section.make("criterion"),
            "ensemble": section.make("ensemble"),
            "trained_names": section.make("trained_names", cfg.MODEL.TEXT.VOCABULARY),
            "size_rule": size_rule(cfg, STRIDE),
            **cls.settings_of(cfg, section, weights),
        }

    @property
    def gives(self) -> frozenset[str]:
        """What can be wanted of the model; its rule says which objects."""
        objects = {PANOPTIC: self.rule.panoptic, INSTANCES: self.rule.instances}
        return super().gives | {name for name, given in objects.items() if given}

    @property
    def settings(self) -> dict[str, Any]:
        """What makes results besides the weights and the words, as JSON values; recorded in every result."""
        names = self.trained_names or frozenset()
        return {
            **super().settings,
            "rule": asdict(self.rule),
            "ensemble": asdict(self.ensemble),
            "trained_names": {"count": len(names), "hash": short_hash("\n".join(sorted(names)))},
        }

    def start_training(self, words: Words) -> None:
        """Learn the names of a training, where none are known yet."""
        if self.trained_names is None:
            self.trained_names = frozenset(words.vocabulary.queries)

    def network(self, images: Tensor) -> tuple[dict[str, Tensor], Proposals]:
        """Return the levels of CLIP and the proposals of the last layer; see `WordedModel.network`."""
        give_back(images.device)
        with self.clip.autocast():
            levels = self.clip.levels(images)
        levels.pop("stem", None)  # no head looks at it, and it is as large as the largest that they do look at
        give_back(images.device)
        if self.clip.precision != torch.float32:
            levels = {name: level.float() for name, level in levels.items()}
        return levels, self.propose(levels)[-1]

    def see(self, images: Tensor) -> list[Proposed]:
        """Propose masks, and embed what CLIP sees inside of each; see `WordedModel.see`."""
        batch = self.padded(list(self.normalise(images)))
        size = (batch.shape[2], batch.shape[3])
        levels, proposals = self.run_network(batch)
        dense, masks = levels["dense"], proposals.masks
        features = self.joint_features(dense)
        pooled, looks = self.pooled(dense, masks, features), self.looks(dense, masks, features)
        parts = zip(proposals.embeddings, masks, pooled, looks, strict=True)
        return [Proposed(*one, size) for one in parts]

    def joint_features(self, dense: Tensor) -> Tensor | None:
        """Return CLIP's features (B, C, h, w) in the joint space, (B, D, h, w); None where nothing looks at them."""
        return None

    def pooled(self, dense: Tensor, mask_logits: Tensor, features: Tensor | None) -> Tensor:
        """Return what CLIP sees of masks.

        Args:
            dense: Its features (B, C, h, w).
            mask_logits: (B, Q, H, W).
            features: Of `joint_features`.

        Returns:
            (B, Q, D), not of unit length.
        """
        return self.clip.pool(dense, mask_logits)

    def looks(self, dense: Tensor, mask_logits: Tensor, features: Tensor | None) -> Sequence[Any]:
        """Return for each image what else its masks are named by, None for nothing; arguments are those of `pooled`."""
        return [None] * len(mask_logits)

    def label(
        self, seen: Proposed, network_size: tuple[int, int], size: tuple[int, int], words: Words, want: frozenset[str]
    ) -> Answer:
        """Name the masks; see `WordedModel.label`."""
        shares, resize = self.shares(seen, words), self.resize(seen, network_size, size)
        answer = semantic_results(shares, seen.masks, resize, words, want)
        return replace(answer, **object_results(shares, seen.masks, resize, self.rule, words, want))

    def shares(self, seen: Proposed, words: Words) -> Tensor:
        """Name the masks by all classifiers of the model; see `MaskModel.shares`."""
        trained = self.trained_logits(seen.embeddings[None], words)
        return self.class_scores(seen, trained, words)[0].softmax(-1)

    def cosines(self, seen: Proposed, words: Words) -> Tensor:
        """Compare what CLIP sees inside of each mask with every text; see `MaskModel.cosines`."""
        return F.normalize(seen.pooled, dim=-1) @ words.embeddings.to(seen.pooled).mT

    def mask_embeddings(self, seen: Proposed) -> Tensor:
        """Return what both classifiers see of each mask, each to the same share; see `MaskModel.mask_embeddings`."""
        return F.normalize(seen.embeddings, dim=-1) + F.normalize(seen.pooled, dim=-1)

    def resize(self, seen: Proposed, network_size: tuple[int, int], size: tuple[int, int]) -> MaskResize:
        """Resize maps of classes, unless the model gives anything but labels, as in the originals."""
        sizes = ((seen.masks.shape[1], seen.masks.shape[2]), seen.padded, network_size, size)
        return plan_resize(*sizes, sigmoid_first=not self.rule.objects)

    def propose(self, levels: dict[str, Tensor], every: bool = False) -> list[Proposals]:
        """Run the head on the levels of the CLIP; with ``every`` get those of all layers, the final one last."""
        mask_features, scales = self.pixel_decoder(levels)
        return self.decoder(scales, mask_features, every)

    def rows(self, words: Words) -> Tensor:
        """Return the texts and, behind them, "no object" (T + 1, D), all of unit length."""
        return self.rows_before(words, self.void)

    @staticmethod
    def rows_before(words: Words, void: nn.Embedding) -> Tensor:
        """Return the texts and, behind them, an embedding of "no object" (T + 1, D), all of unit length."""
        last = F.normalize(void.weight, dim=-1)
        return torch.cat([words.embeddings.to(last), last])

    def trained_logits(self, embeddings: Tensor, words: Words) -> Tensor:
        """Return the logits (B, Q, K + 1) of the trained classifier for embeddings (B, Q, D), "no object" last."""
        scale = class_scale(self.decoder.log_scale)
        return class_logits(embeddings, self.rows(words), scale, words.columns, void=True)

    def texts(self, features: Tensor, rows: Tensor) -> Tensor:
        """Return the texts by which CLIP names the masks of images.

        Args:
            features: Of `image_features` (B, D, h, w).
            rows: Of `rows` (T + 1, D).

        Returns:
            (T + 1, D), or (B, T + 1, D) where every image has its own.
        """
        return rows

    def clip_logits(self, pooled: Tensor, texts: Tensor, words: Words) -> Tensor:
        """Compare what CLIP sees of masks (B, Q, D) with `texts`; returns (B, Q, K + 1), "no object" last."""
        scale = min(self.clip.logit_scale, LARGEST_SCALE)
        return class_logits(pooled, texts, scale, words.columns, void=True)

    def mixed(self, trained: Tensor, own: Tensor, words: Words, valid: Tensor | None = None) -> Tensor:
        """Mix the trained classifier and that of CLIP; see `Ensemble.scores`."""
        if self.ensemble.clip_alone:
            return self.ensemble.scores(trained, own, None)
        seen = seen_columns(words, self.trained_names or frozenset()).to(own.device)
        return self.ensemble.scores(trained, own, seen, valid)

    def class_scores(self, seen: Proposed, trained: Tensor, words: Words) -> Tensor:
        """Return what the masks of an image show.

        Args:
            seen: The image.
            trained: What `trained_logits` (1, Q, K + 1) says of it.
            words: What to call it.

        Returns:
            Logarithms of probabilities (1, Q, K + 1), "no object" last.
        """
        raise NotImplementedError

    def losses(
        self, batched_inputs: Sequence[dict[str, Any]], words: Words, draw: Draw = uniform_points
    ) -> dict[str, Tensor]:
        """Return the weighted losses of a batch; ``draw`` gives the random points."""
        images = self.training_batch(batched_inputs)
        return self.head_losses(images, read_targets(batched_inputs, images), words, draw)

    def head_losses(self, images: Tensor, wanted: Sequence[Target], words: Words, draw: Draw) -> dict[str, Tensor]:
        """Return the weighted losses of a padded batch (B, 3, H, W); the rest is as in `losses`."""
        return self.criterion(self.stages(self.clip.levels(images), words), wanted, draw)

    def stages(self, levels: dict[str, Tensor], words: Words) -> list[Prediction]:
        """Return what every layer of the head predicts on the levels of the CLIP, the final one last."""
        found = self.propose(levels, every=True)
        return [Prediction(self.trained_logits(one.embeddings, words), one.masks) for one in found]


def conv_clip(cfg: CfgNode, empty: bool = False) -> Tower:
    """Read the CLIP with levels that a config names; ``empty`` as in `ovseg.clip.load_tower`."""
    return load_tower(ClipSource.of(cfg.MODEL.CLIP), {LEVELS}, cfg.MODEL.META_ARCHITECTURE, empty)
