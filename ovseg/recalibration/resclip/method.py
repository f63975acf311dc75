"""ResCLIP: attention of middle blocks is mixed into the last, which runs again with feedback from a first labelling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ovseg.clip.features import Context, DenseFeatures, Kept, Need
from ovseg.errors import at_least, one_of
from ovseg.labelling.scores import ScoreRule
from ovseg.recalibration import base
from ovseg.recalibration.resclip.semantic_feedback import label_feedback

if TYPE_CHECKING:
    from ovseg.contract import Words


@dataclass(frozen=True)
class Feedback(Kept):
    """What the second run is given.

    Attributes:
        bias: Of attention (B, 1, N, N), by the first labelling.
        share: Factor of the scores that it is added to.
    """

    bias: Tensor
    share: float


@base.RECALIBRATION_REGISTRY.register()
class ResCLIP(base.Recalibration):
    """ResCLIP (Yang et al., CVPR 2025; github.com/yvhangyang/ResCLIP); on SCLIP, keep residual and feed_forward."""

    residual, feed_forward, attention_only = False, False, False
    not_exported = "labels of a first run, at the size of the image, are fed back into the last block"

    def __init__(
        self,
        *,
        attention: str = "resclip",
        gaussian_std: float = 5.0,
        use_rcs: bool = True,
        rcs_tau: float = 2.0,
        rcs_lambda: float = 0.4,
        layers: tuple[float, ...] = (6 / 12, 7 / 12, 8 / 12, 9 / 12),
        use_sfr: bool = True,
        sfr_tau: float = 1.8,
        sfr_lambda: float = 0.7,
        temp_thd: float = 0.11,
        logit_scale: float = 40.0,
        delete_same_entity: bool = True,
        half_feedback: bool = False,
        **common: Any,
    ) -> None:
        """Set what is mixed into the base attention.

        Args:
            attention: The base: ``resclip`` or ``naclip`` (both keys and neighbours), ``clearclip`` or ``sclip``.
            gaussian_std: Width in patches of the neighbourhood, and of the smoothing of the feedback.
            use_rcs: Whether the attention of middle blocks is mixed in,
            rcs_tau: with this factor of the mixture,
            rcs_lambda: this share of theirs,
            layers: and these blocks, by index or share of the depth; those that fall on one block count once.
            use_sfr: Whether the block runs again, the feedback mixed into its scores,
            sfr_tau: with this factor of the mixture
            sfr_lambda: and this share of the feedback.
            temp_thd: Pixels whose best probability is lower count as the first query in the first labelling.
            logit_scale: Of the softmax that gives these probabilities.
            delete_same_entity: Whether patches count less for each other where other labels lie between them.
            half_feedback: Round the feedback to float16, as the original does even in float32.
            common: Options of `Recalibration`.
        """
        super().__init__(**common)
        self.base_attention = one_of("attention", attention, ("resclip", "naclip", "clearclip", "sclip"))
        self.gaussian_std = at_least("gaussian_std", gaussian_std, 1e-3)
        self.use_rcs, self.rcs_tau, self.rcs_lambda, self.layers = use_rcs, rcs_tau, rcs_lambda, tuple(layers)
        at_least("number of layers", len(layers), 1)
        self.use_sfr, self.sfr_tau, self.sfr_lambda, self.half_feedback = use_sfr, sfr_tau, sfr_lambda, half_feedback
        self.first_rule = ScoreRule(logit_scale, temp_thd, pamr_steps=10, threshold_label=0)
        self.temp_thd, self.logit_scale, self.delete_same_entity = temp_thd, logit_scale, delete_same_entity

    def needs_of(self, depth: int) -> Need:
        """Ask for the attention of the middle blocks, and for what the last block is given to run it again."""
        middle = {base.layer_index(layer, depth) for layer in self.layers} if self.use_rcs else ()
        return Need((depth - 2,) if self.use_sfr else (), tuple(middle))

    def attention(self, q: Tensor, k: Tensor, v: Tensor, context: Context) -> Tensor:
        """Mix values by the base attention, with the feedback among its scores if there is any, and middle blocks."""
        given, tower = context.kept(Feedback, Feedback(torch.zeros(1, 1, device=q.device), 1.0)), context.tower
        bias = given.bias
        if self.base_attention in ("resclip", "naclip"):
            bias = bias + tower.with_leading(base.neighbourhood(context.grid, self.gaussian_std, q.device))
        pairs = {"clearclip": (q,), "sclip": (q, k)}.get(self.base_attention, (k,))
        mixed = torch.stack([base.attend(given.share * one, one, v, bias.to(q.dtype)) for one in pairs]).sum(0)
        if not self.use_rcs:
            return mixed
        middle = torch.stack([context.attention[i] for i in self.needs_of(tower.depth).attention]).mean(0)
        return self.rcs_tau * ((1 - self.rcs_lambda) * mixed + self.rcs_lambda * (middle @ v))

    def with_feedback(self, dense: DenseFeatures, words: Words) -> DenseFeatures:
        """Run the last block again, by the labels of the first run at the size of the input."""
        context, scores = dense.context, dense.cosines(words.rows(dense.cls))
        feedback = label_feedback(scores, context, self.first_rule, self.gaussian_std, self.delete_same_entity)
        feedback = (self.sfr_lambda * (feedback.half() if self.half_feedback else feedback)).float()
        again = context.keeping(Feedback(self.sfr_tau * feedback, self.sfr_tau * (1 - self.sfr_lambda)))
        blocks = context.blocks
        with context.tower.autocast():  # this is part of no encoding, which would see to it
            return self.joint(self.run(context.hidden[len(blocks) - 2], blocks[-1:], again), again)

    def patch_scores(self, dense: DenseFeatures, words: Words) -> Tensor:
        """Return the cosines (B, T, h, w) of the second run, or of the only one."""
        last = self.with_feedback(dense, words) if self.use_sfr else dense
        return last.cosines(words.rows(dense.cls))
