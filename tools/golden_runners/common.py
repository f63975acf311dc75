"""What the runners of the training-free methods share: the CLIP of a case, the product's path, and usual outputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from golden_runners.product import make_words
from ovseg.clip import Context, DenseFeatures, ViTClip
from ovseg.clip.normalise import denormalise
from ovseg.clip.open_clip_internals import build_model
from ovseg.contract import CLASS_SCORES, LABELS, Answer, Encoded, Words
from ovseg.data.preprocessing import SizeRule
from ovseg.labelling.protocol import Protocol
from ovseg.labelling.scores import ScoreRule, upsample
from ovseg.meta_arch.training_free import TrainingFree
from ovseg.ops.bilinear import bilinear_matrix
from ovseg.recalibration import Recalibration
from ovseg.refinement import pamr
from ovseg.regions import RegionGenerator

WHOLE = Protocol(window=0, stride=0, padding="none")  # one window, and patches stretched over the image
COSINES = ScoreRule(logit_scale=1.0)
MAPS = ScoreRule(logit_scale=1.0, softmax=False)  # of scores that are not negative the answer has the maps themselves


def build_clip(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> ViTClip:
    """Build the CLIP of a case; the cases hold no text tower, so a tiny random one stands in, or no tower at all."""
    grid, patch = config["pretrain_grid"], config["patch_size"]
    model_cfg = {
        "embed_dim": config["embed_dim"],
        "quick_gelu": config["activation"].startswith("quick"),
        "vision_cfg": {
            "image_size": [side * patch for side in grid],
            "patch_size": patch,
            "layers": config["layers"],
            "width": config["width"],
            "head_width": config["width"] // config["heads"],
            "mlp_ratio": config["mlp_ratio"],
            "norm_kwargs": {"eps": config["ln_eps"]},
        },
        "text_cfg": {"context_length": 4, "vocab_size": 8, "width": 8, "heads": 1, "layers": 1},
    }
    tower = build_model(model_cfg, "golden case").state_dict()
    text = {key: value for key, value in tower.items() if not key.startswith("visual.")}
    return ViTClip.from_config(model_cfg, {**(text if state else tower), **state}, "golden case")


def build_method(
    clip: ViTClip,
    method: Recalibration,
    protocol: Protocol = WHOLE,
    rule: ScoreRule = COSINES,
    regions: RegionGenerator | None = None,
) -> TrainingFree:
    """Build the model whose method, protocol and rule are those of a case."""
    return TrainingFree(
        clip=clip,
        recalibration=method,
        size_rule=SizeRule(1, 1),  # the images of cases have the network's size
        protocol=protocol,
        rule=rule,
        templates="none",
        background="none",
        regions=regions,
    ).eval()


@dataclass(frozen=True)
class Shown:
    """The images of a case as the product's `encode` has seen them, and the words that `answer` labels them by.

    Attributes:
        model: Of the case.
        images: Of the case (B, 3, h, w), normalised.
        encoded: The same, behind `encode`.
        words: Of the case; an encoder alone has none.
    """

    model: TrainingFree
    images: Tensor
    encoded: Encoded
    words: Words | None

    @property
    def dense(self) -> list[DenseFeatures]:
        """What the first pass of each image shows: the whole of it, in its first view."""
        return [seen.parts[0][0].at(self.model.clip) for seen in self.encoded.images]

    @property
    def features(self) -> Tensor:
        """Features (B, C, h, w) of the patches."""
        return torch.cat([dense.features for dense in self.dense])

    @property
    def tokens(self) -> Tensor:
        """Embedding of each image and features of its patches (B, 1 + h * w, C)."""
        cls = torch.cat([dense.cls for dense in self.dense])
        return torch.cat([cls[:, None], self.features.flatten(2).mT], dim=1)

    @property
    def entering(self) -> Tensor:
        """What the network was given (B, 3, h, w): normalised and padded."""
        return torch.cat([dense.context.images for dense in self.dense])

    @property
    def scores(self) -> Tensor:
        """Patch scores (B, T, h, w), the grids of all windows side by side."""
        return torch.stack([self.model.patch_scores(seen, self.words) for seen in self.encoded.images])

    def maps(self, size: tuple[int, int]) -> Tensor:
        """Scores (B, T, H, W) at a size, as no answer has them."""
        scores, plan = self.scores, self.encoded.images[0].plan
        matrices = plan.matrices(size, (scores.shape[2], scores.shape[3]))
        return torch.stack([upsample(one, *matrices) for one in scores])

    def answers(self, size: tuple[int, int], want: frozenset[str] = LABELS | {CLASS_SCORES}) -> list[Answer]:
        """Answer for each image: labels and the scores of all classes."""
        return [self.model.answer(self.encoded, i, size, self.words, want) for i in range(len(self.encoded))]

    def labels(self, size: tuple[int, int]) -> Tensor:
        """Labels (B, H, W) int32 of the answers."""
        return torch.stack([answer.labels for answer in self.answers(size, LABELS)])

    def class_scores(self, size: tuple[int, int]) -> Tensor:
        """Scores (B, K, H, W) of the classes of the answers."""
        return torch.stack([answer.class_scores for answer in self.answers(size)])

    def otherwise(self, **changes: Any) -> Shown:
        """Show the same images to a model with another ``method``, ``protocol`` or ``rule``."""
        model = self.model
        own = {"method": model.recalibration, "protocol": model.protocol, "rule": model.rule, **changes}
        return show(build_method(model.clip, **own), self.images, self.words)


def show(model: TrainingFree, images: Tensor, words: Words | Tensor | None = None) -> Shown:
    """Encode normalised images (B, 3, h, w); texts (T, D) are classes of their own."""
    own = make_words(words) if isinstance(words, Tensor) else words
    return Shown(model, images, model.encode(raw_pixels(model.clip, images)), own)


def raw_pixels(clip: ViTClip, images: Tensor) -> list[Tensor]:
    """Return RGB (3, h, w) in 0..255 of each of normalised images (B, 3, h, w), as models take them."""
    return list(denormalise(images, clip.mean, clip.std) * 255)


def usual_outputs(shown: Shown, size: tuple[int, int]) -> dict[str, Tensor]:
    """Return the outputs that all cases of the family have, for whole images of ``size`` (H, W)."""
    found = {"output.patch_features": shown.features.flatten(2).mT}
    if shown.words is not None:
        found |= {"output.patch_logits": shown.scores, "output.logits": shown.maps(size)}
        found["output.pred"] = shown.labels(size)
    return found


def resize(scores: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize patch scores (B, T, h, w) to an image (B, T, H, W) by our matrices."""
    rows, columns = (bilinear_matrix(*pair).float() for pair in zip(scores.shape[2:], size, strict=True))
    return torch.stack([upsample(one, rows, columns) for one in scores])


def empty_context(clip: ViTClip, grid: tuple[int, int], images: Tensor) -> Context:
    """Return the context of a pass of which nothing has been recorded."""
    return Context(grid, images, clip, clip.mean, clip.std)


class LastBlock(NamedTuple):
    """Tokens that enter and leave the handed-over blocks, and the attention weights of the last one."""

    entering: Tensor
    leaving: Tensor
    attention: Tensor


def last_block(clip: ViTClip, method: Recalibration, images: Tensor) -> LastBlock:
    """Run a method and keep what the intermediates of the cases show."""
    tokens, grid = clip.tower.embed(images, method.pos_resize)
    context = empty_context(clip, grid, images)
    for block in clip.blocks[: -method.blocks]:
        tokens = block(tokens)
    weights = method.weights(*clip.blocks[-1].qkv(tokens), context)
    return LastBlock(tokens, method.run(tokens, clip.blocks[-method.blocks :], context), weights)


def protocol(
    clip: ViTClip,
    method: Recalibration,
    inputs: Mapping[str, Tensor],
    config: Mapping[str, Any],
    padding: str,
    resize: str = "once",
) -> tuple[Tensor, Tensor, Tensor]:
    """Run windows, averaging, resizing, refinement and labelling as the ``postprocess`` of a case says.

    What it does not name is off: windows, refinement, thresholds; the output then has the size of the image.

    Args:
        clip: Of the case.
        method: Likewise.
        inputs: Image, texts and, where several name a class, the class of each.
        config: The ``postprocess``.
        padding: See `Protocol`.
        resize: Likewise.

    Returns:
        Final logits (1, T, H, W) without the scale, class probabilities (K, H, W), and labels (1, H, W) int32.
    """
    settings = Protocol(
        window=config.get("crop") or 0,
        stride=config["stride"] if config.get("crop") else 0,
        padding=padding,
        resize=resize,
        pad_multiple=config.get("pad_multiple", 0),
        image_engineering=config.get("image_engineering", 0.0),
    )
    height, width = config.get("ori") or inputs["image"].shape[2:]
    rule, size = score_rule(config), (height, width)
    words = make_words(inputs["text_embeddings"], inputs.get("query_idx"))
    shown = show(build_method(clip, method, settings, rule), inputs["image"][:1], words)
    logits, answer = shown.maps(size), shown.answers(size)[0]
    if rule.pamr_steps:  # no answer has refined logits
        guide = F.interpolate(inputs["image"][:1], size=size, mode="bilinear", align_corners=False)
        logits = pamr(guide, logits, rule.pamr_steps, rule.pamr_dilations)
    return logits, answer.class_scores, answer.labels[None]


def renormalised(
    clip: ViTClip, method: Recalibration, inputs: Mapping[str, Tensor], config: Mapping[str, Any]
) -> dict[str, Tensor]:
    """Return what NACLIP's code, and ResCLIP's after it, makes of the ``postprocess`` of a case.

    Whole images go to the output by way of the size of the network input. Only the probabilities that they store are
    renormalised; their labels are made before that.
    """
    logits, probabilities, labels = protocol(clip, method, inputs, config, "none", "twice")
    shares = probabilities / probabilities.sum(0)
    return {"output.final_logits": logits, "output.seg_probs": shares, "output.seg_pred": labels}


def score_rule(config: Mapping[str, Any]) -> ScoreRule:
    """Return how a case makes labels of scores."""
    return ScoreRule(
        logit_scale=config["logit_scale"],
        prob_threshold=config.get("prob_thd") or 0.0,
        area_threshold=config.get("area_thd") or 0.0,
        area_exempt=0,
        pamr_steps=config.get("pamr_steps") or 0,
        pamr_dilations=tuple(config.get("pamr_dilations", (8, 16))),
        threshold_label=config.get("threshold_label", 0),
        closing=config.get("closing") or 0,
    )
