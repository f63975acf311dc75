"""OVSeg: MaskFormer proposes masks; each is cut out and named by a CLIP that knows masked pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor, nn

from ovseg.checkpoint.loading import Weights
from ovseg.clip import ClipSource, Tower, load_tower
from ovseg.clip.mask_prompts import MaskPrompts
from ovseg.clip.normalise import normalise
from ovseg.clip.tokens import CLASS_EMBEDDING, STREAM
from ovseg.contract import Answer, Evidence, Words
from ovseg.data.preprocessing import SizeRule
from ovseg.labelling.evidence import of_masks
from ovseg.labelling.mask_resize import MaskResize, plan_resize
from ovseg.labelling.objects import semantic_results
from ovseg.losses.criterion import SetCriterion
from ovseg.losses.matcher import Prediction
from ovseg.meta_arch.mask_model import MaskModel, read_targets
from ovseg.meta_arch.ov_seg.fusion import Fusion
from ovseg.meta_arch.ov_seg.weights import OFFICIAL
from ovseg.meta_arch.section import Section
from ovseg.meta_arch.trained_model import size_rule
from ovseg.proposals.backbones import STRIDE, channels_of, levels_of, pyramid
from ovseg.proposals.classifier import LARGEST_SCALE, class_logits
from ovseg.proposals.crops import CropRule, crop_masks
from ovseg.proposals.maskformer import MaskFormerHead
from ovseg.system.device import to_device
from ovseg.vocabulary import TextOptions

NEEDS = frozenset({STREAM, CLASS_EMBEDDING})
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # of what proposes, not of CLIP
AT_A_TIME = 16  # masks that are at the size of the image at once
SURE = 60.0  # the logit of a pixel that belongs to a mask with hard edges


class Proposed(NamedTuple):
    """What OVSeg keeps of an image.

    Attributes:
        embeddings: Of the masks, (Q, D), not of unit length.
        masks: Their logits (Q, h, w).
        regions: What CLIP sees of what is cut out, (Q, D), zeros where a mask has no pixel.
        valid: Bool (Q,), which masks have one.
        padded: Height and width of the network's input, the image in its upper left corner.
    """

    embeddings: Tensor
    masks: Tensor
    regions: Tensor
    valid: Tensor
    padded: tuple[int, int]


@META_ARCH_REGISTRY.register()
class OVSeg(MaskModel):
    """OVSeg (Liang et al., CVPR 2023, arXiv 2210.04150; github.com/facebookresearch/ov-seg).

    Trained are the backbone and the head that propose masks, and the row of "no object" (`void_row`); CLIP and its mask
    prompts are adapted apart from them, by ``tools/train_mask_adapted.py``.
    """

    head = ("backbone.", "proposer.", "prompts.", "void_row")
    made_of = {  # noqa: RUF012
        "backbone": pyramid,
        "proposer": MaskFormerHead,
        "crop_rule": CropRule,
        "fusion": Fusion,
        "criterion": SetCriterion,
    }
    size_divisibility = STRIDE

    @configurable
    def __init__(
        self,
        clip: Tower,
        backbone: nn.Module,
        proposer: MaskFormerHead,
        crop_rule: CropRule,
        fusion: Fusion,
        criterion: SetCriterion,
        size_rule: SizeRule,
        templates: str,
        background: str,
        text: TextOptions | None = None,
        options: Mapping[str, Any] | None = None,
        weights: Weights | None = None,
        *,
        prompt_depth: int = 3,
        use_prompts: bool = True,
        prompts_file: str = "",
    ) -> None:
        """Put the parts together; a Detectron2 config is accepted in their place.

        Args:
            clip: The CLIP, a vision transformer of open_clip.
            backbone: Of `ovseg.proposals.backbones`.
            proposer: Proposes masks on its levels.
            crop_rule: How masks are cut out.
            fusion: How both classifiers are mixed.
            criterion: The losses of training.
            size_rule: How large the network sees a photograph.
            templates: Name of the template set.
            background: The background policy.
            text: How the texts of a vocabulary are engineered.
            options: See `MaskModel`.
            weights: In the layout of the released ones, or ours; None leaves the head untrained.
            prompt_depth: Depth of the mask prompts; 0 for none.
            use_prompts: Whether they are used where there are some.
            prompts_file: Takes the place of the prompts of the weights; of ``tools/train_mask_adapted.py``.

        Raises:
            ConfigError: The CLIP does not fit.
            WeightsError: The weights do not fit.
        """
        clip.check(NEEDS, "OVSeg")
        super().__init__(clip, templates, background, text, options)
        self.backbone, self.proposer = backbone, proposer
        self.prompts = MaskPrompts.for_clip(clip, prompt_depth).requires_grad_(False)
        self.void_row = nn.Parameter(torch.randn(1, clip.embed_dim) * clip.embed_dim**-0.5)
        self.crop_rule, self.fusion, self.criterion = crop_rule, fusion, criterion
        self.size_rule, self.use_prompts = size_rule, use_prompts
        self.fill(weights, OFFICIAL)
        if prompts_file:
            self.prompts = MaskPrompts.read(prompts_file, clip).requires_grad_(False)
            self.refresh_hash()

    @classmethod
    def parts(cls, cfg: CfgNode, weights: Weights | None) -> dict[str, Any]:
        """Build the parts that a config names; see `MaskModel.parts`."""
        section = Section(cls, cfg)
        clip = load_tower(ClipSource.of(cfg.MODEL.CLIP), NEEDS, "OVSeg", empty=OFFICIAL.holds_clip(weights))
        backbone = section.make("backbone")
        return {
            "clip": clip,
            "backbone": backbone,
            "proposer": section.make("proposer", channels_of(backbone), clip.embed_dim),
            "crop_rule": section.make("crop_rule"),
            "fusion": section.make("fusion"),
            "criterion": section.make("criterion"),
            "size_rule": size_rule(cfg, STRIDE),
            **cls.settings_of(cfg, section, weights),
        }

    @property
    def settings(self) -> dict[str, Any]:
        """What makes results besides the weights and the words, as JSON values; recorded in every result."""
        return {**super().settings, "crops": asdict(self.crop_rule), "fusion": asdict(self.fusion)}

    def normalise(self, image: Tensor) -> Tensor:
        """Normalise images (..., 3, h, w) RGB in 0..255 for what proposes masks."""
        return normalise(to_device(image, self.clip.device).float(), MEAN, STD).to(self.clip.dtype)

    def network(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return embeddings (B, Q, D) and mask logits (B, Q, h, w); see `WordedModel.network`."""
        found = self.proposer(levels_of(self.backbone, images))[-1]
        return found.embeddings.float(), found.masks.float()

    def see(self, images: Tensor) -> list[Proposed]:
        """Propose masks, and let CLIP look at each; see `WordedModel.see`."""
        batch = self.padded(list(self.normalise(images)))
        size = (batch.shape[2], batch.shape[3])
        found = zip(images, *self.run_network(batch), strict=True)
        return [Proposed(embeddings, masks, *self.look(image, masks, size), size) for image, embeddings, masks in found]

    def look(self, image: Tensor, masks: Tensor, padded: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Cut out masks and embed what they show.

        Args:
            image: (3, h, w) in 0..255.
            masks: Logits (Q, h', w') for the padded image.
            padded: Its height and width.

        Returns:
            Embeddings (Q, D) float32, zeros for masks without a pixel, and which have one, bool (Q,).
        """
        regions, valid = masks.new_zeros(len(masks), self.clip.embed_dim), masks.new_zeros(len(masks), dtype=torch.bool)
        if not self.fusion.clip_ensemble:
            return regions, valid
        high, wide = image.shape[1:]
        for start in range(0, len(masks), AT_A_TIME):
            some = slice(start, start + AT_A_TIME)
            whole = F.interpolate(masks[some][None], padded, mode="bilinear", align_corners=False)[0]
            crops = crop_masks(image, whole[:, :high, :wide].sigmoid(), self.clip.image_size, self.crop_rule)
            valid[some] = crops.valid
            with self.clip.autocast():
                seen = self.prompts(self.clip, crops.regions, crops.masks if self.use_prompts else None)
            regions[some] = regions[some].index_put((crops.valid,), seen.to(regions))
        return regions, valid

    def label(
        self, seen: Proposed, network_size: tuple[int, int], size: tuple[int, int], words: Words, want: frozenset[str]
    ) -> Answer:
        """Name the masks; see `WordedModel.label`."""
        scores, masks, resize = self.shares(seen, words), seen.masks, self.resize(seen, network_size, size)
        if self.fusion.best_only:
            scores, masks, resize = self.hard(scores, seen, network_size, size)
        return semantic_results(scores, masks, resize, words, want)

    def hard(
        self, scores: Tensor, seen: Proposed, network_size: tuple[int, int], size: tuple[int, int]
    ) -> tuple[Tensor, Tensor, MaskResize]:
        """Return the scores (R, C + 1) of masks that win a class, their logits with hard edges, and their resizing."""
        rows = _winners(scores)
        whole = F.interpolate(seen.masks[rows][None], seen.padded, mode="bilinear", align_corners=False)[0]
        inside = whole[:, : network_size[0], : network_size[1]].sigmoid() > self.crop_rule.threshold
        logits = torch.where(inside, SURE, -SURE)
        return scores[rows], logits, plan_resize(network_size, network_size, network_size, size, sigmoid_first=True)

    def evidence(
        self, seen: Proposed, network_size: tuple[int, int], size: tuple[int, int], words: Words, point: tuple[int, int]
    ) -> Evidence:
        """Look at the masks that have a pixel, with hard edges where only the best of a class counts."""
        if not self.fusion.best_only:
            return super().evidence(seen, network_size, size, words, point)
        shares = self.shares(seen, words)
        scores, masks, resize = self.hard(shares, seen, network_size, size)
        return of_masks(scores, self.cosines(seen, words)[_winners(shares)], masks, resize, words, point)

    def shares(self, seen: Proposed, words: Words) -> Tensor:
        """Name the masks by both classifiers; see `MaskModel.shares`."""
        trained, own = self.logits(seen.embeddings, words), self.logits(seen.regions, words)[:, :-1]
        scores = self.fusion.scores(trained, own, seen.valid)
        if not self.fusion.best_only:
            return scores
        return self.fusion.best(scores, words.column_class.to(scores.device) >= 0)

    def logits(self, embeddings: Tensor, words: Words) -> Tensor:
        """Compare embeddings (..., Q, D) with the words and "no object", which is last: (..., Q, C + 1)."""
        last = F.normalize(self.void_row, dim=-1)
        rows = torch.cat([words.embeddings.to(last), last])
        return class_logits(embeddings, rows, LARGEST_SCALE, words.columns, void=True)

    def cosines(self, seen: Proposed, words: Words) -> Tensor:
        """Compare what CLIP sees of each mask with every text; see `MaskModel.cosines`."""
        own = seen.regions if self.fusion.clip_ensemble else seen.embeddings
        return F.normalize(own, dim=-1) @ words.embeddings.to(own).mT

    def resize(self, seen: Proposed, network_size: tuple[int, int], size: tuple[int, int]) -> MaskResize:
        """Resize maps of classes, as in the original."""
        shape = (seen.masks.shape[1], seen.masks.shape[2])
        return plan_resize(shape, seen.padded, network_size, size, sigmoid_first=True)

    def losses(self, batched_inputs: Sequence[dict[str, Any]], words: Words) -> dict[str, Tensor]:
        """Return the weighted losses of a batch; CLIP's image tower has no part in them."""
        images = self.training_batch(batched_inputs)
        found = self.proposer(levels_of(self.backbone, images), every=True)
        stages = [Prediction(self.logits(one.embeddings, words), one.masks) for one in found]
        return self.criterion(stages, read_targets(batched_inputs, images))


def _winners(scores: Tensor) -> Tensor:
    """Return which masks (Q,) win a class, by scores (Q, C + 1); the first of them where none does."""
    rows = scores[:, :-1].any(1)
    rows[0] |= ~rows.any()
    return rows
