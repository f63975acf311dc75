"""What dense architectures share: a method that scores patches and words, and the protocol around it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from torch import Tensor

from ovseg.clip import Tower
from ovseg.clip.features import DenseFeatures, Kept
from ovseg.clip.normalise import normalise
from ovseg.contract import Answer, Evidence, Words
from ovseg.data.preprocessing import SizeRule
from ovseg.errors import ConfigError
from ovseg.labelling.evidence import of_queries
from ovseg.labelling.labeller import Labeller
from ovseg.labelling.protocol import Protocol
from ovseg.labelling.scores import ScoreRule
from ovseg.labelling.views import mix, views
from ovseg.meta_arch.by_example import pooled
from ovseg.meta_arch.worded_model import WordedModel
from ovseg.ops.late_scores import Scores, make_scores
from ovseg.ops.windows import WINDOWS_PER_PASS, WindowPlan
from ovseg.recalibration import Recalibration
from ovseg.regions import RegionGenerator
from ovseg.regions.generators import to_pixels
from ovseg.system.device import to_device
from ovseg.system.progress import report
from ovseg.system.values import plain
from ovseg.vocabulary import TextOptions


@dataclass(frozen=True, eq=False)
class Seen:
    """What is kept of an image.

    Attributes:
        parts: For each pass of its windows what they show in each view of the protocol, ordinarily one.
        plan: Its windows.
        image: The normalised network input (3, h, w).
        regions: Region ids (h, w) int64 of its pixels; None where there is no region generator.
    """

    parts: list[list[DenseFeatures]]
    plan: WindowPlan
    image: Tensor
    regions: Tensor | None


class DenseModel(WordedModel):
    """Labels every pixel by the scores of patches and words that a method gives."""

    answers_pairs = True
    """Whether classes can be asked about one by one; see `ovseg.labelling.yes_or_no`."""

    def __init__(
        self,
        *,
        clip: Tower,
        recalibration: Recalibration,
        size_rule: SizeRule,
        protocol: Protocol,
        rule: ScoreRule,
        templates: str,
        background: str,
        text: TextOptions | None = None,
        regions: RegionGenerator | None = None,
        view: SizeRule | None = None,
    ) -> None:
        """Put the parts together.

        A method that sees photographs is given them as they are by the size rule, and its CLIP a view of them.
        """
        super().__init__(clip, templates, background, text)
        self.recalibration, self.size_rule, self.protocol, self.rule = recalibration, size_rule, protocol, rule
        clip.check_method(recalibration)
        protocol.check(clip.patch_size)
        self.not_compiled = recalibration.why_not_compiled()
        self.notes = recalibration.remarks(clip)
        self.regions, self.view = regions, view
        _check_regions(recalibration, protocol, regions)
        self.refresh_hash()

    @staticmethod
    def around(cfg: CfgNode) -> dict[str, Any]:
        """Return what a config says of words, and of how scores become labels."""
        node = cfg.MODEL.PROTOCOL
        scores = [field.name for field in fields(ScoreRule) if field.name != "area_exempt"]
        return {
            "protocol": Protocol(**{field.name: node[field.name.upper()] for field in fields(Protocol)}),
            "rule": ScoreRule(**{name: node[name.upper()] for name in scores}, area_exempt=node.THRESHOLD_LABEL),
            "templates": cfg.MODEL.TEXT.TEMPLATES,
            "background": cfg.MODEL.TEXT.BACKGROUND,
            "text": TextOptions.from_config(cfg.MODEL.TEXT),
        }

    @property
    def settings(self) -> dict[str, Any]:
        """What makes results besides the weights and the words, as JSON values; recorded in every result."""
        return {
            **super().settings,
            "recalibration": self.recalibration.name,
            "options": self.recalibration.options,
            **({"view": plain(asdict(self.view))} if self.view is not None else {}),
            "regions": type(self.regions).__name__ if self.regions is not None else "",
            "region_options": self.regions.options if self.regions is not None else {},
            "protocol": plain(asdict(self.protocol)),
            "rule": plain(asdict(self.rule)),
        }

    def network(
        self, windows: Tensor, regions: Tensor | None = None, photos: Sequence[np.ndarray] = ()
    ) -> DenseFeatures:
        """Encode normalised windows (B, 3, h, w) with region ids (B, h, w); see `WordedModel.network`.

        Photographs (H, W, 3) come with windows that are views of the whole of them.
        """
        with self.clip.autocast():
            if photos:
                shown = self.recalibration.see_photos(self.clip, photos)
                return self.recalibration.encode_photos(self.clip, windows, shown)
            return self.recalibration.encode(self.clip, windows, regions)

    def see(self, images: Tensor) -> list[Seen]:
        """Encode all windows, in all views of the protocol; see `WordedModel.see`."""
        photos: list[np.ndarray] = []
        if self.view is not None:
            photos = [to_pixels(image) for image in images]
            images = torch.stack([to_device(self.view(photo), self.clip.device) for photo in photos])
        regions = None if self.regions is None else torch.stack([self.regions(image) for image in images])
        plan = self.protocol.plan((images.shape[2], images.shape[3]), self.clip.patch_size)
        normal = self.normalise(images)
        windows = plan.cut(normal).split(WINDOWS_PER_PASS)
        areas: Iterable[Tensor | None] = [None] * len(windows)
        if regions is not None and self.recalibration.uses_regions:
            areas = [part[:, 0] for part in plan.cut(regions[:, None], padding=-1).split(WINDOWS_PER_PASS)]
        whole = self._overviews(normal, plan) if len(plan) > 1 else [None] * len(images)
        parts: list[list[list[DenseFeatures]]] = [[] for _ in images]
        done = 0
        for own, area in zip(windows, areas, strict=True):
            shown = views(own, area) if self.protocol.image_engineering else [(own, area)]
            of_passed = (photos[done : done + len(own)],) if photos else ()  # whose only window they are
            passed = [self.run_network(*one, *of_passed) for one in shown]
            for place, rows in _shares(done, len(own), len(plan)):
                known = whole[place]
                own_parts = [dense.rows(rows) for dense in passed]
                parts[place].append(own_parts if known is None else [dense.keeping(known) for dense in own_parts])
            done += len(own)
            report("windows", done, len(plan) * len(images))
        return [Seen(parts[i], plan, image, None if regions is None else regions[i]) for i, image in enumerate(normal)]

    def _overviews(self, images: Tensor, plan: WindowPlan) -> list[Kept | None]:
        """Return what the windows of each of normalised images are to know of it.

        Images go together that have no more pixels than the windows of a pass.
        """
        of_window = plan.rows.size * plan.columns.size
        count = max(1, WINDOWS_PER_PASS * of_window // (images.shape[2] * images.shape[3]))
        found: list[Kept | None] = []
        for part in images.split(count):
            with self.clip.autocast():
                seen = self.recalibration.overview(self.clip, part)
            found += [None if seen is None else seen.rows(slice(i, i + 1)) for i in range(len(part))]
        return found

    def known(self, words: Words) -> Words:
        """Let the method look at words once; see `WordedModel.known`."""
        with torch.inference_mode():
            return words.knowing(self.recalibration.of_words(self.clip, words))

    def look_at(self, seen: Seen, network_size: tuple[int, int], mask: Tensor) -> Tensor:
        """Average the features of patches in all windows; see `WordedModel.look_at`."""
        windows = seen.plan.cut(mask[None, None].float())
        features = torch.cat([part[0].features for part in seen.parts])
        return pooled(features, windows)

    def label(
        self, seen: Seen, network_size: tuple[int, int], size: tuple[int, int], words: Words, want: frozenset[str]
    ) -> Answer:
        """Compare every patch of every window with every query, and label; see `WordedModel.label`.

        The threshold of a background policy takes the place of the rule's.
        """
        scores = self.patch_scores(seen, words)
        if words.background.counter:
            skipped = (f"the last step of {self.recalibration.name}",) if self.recalibration.finishes else ()
            return self._labeller(words).label_pairs(scores, seen.plan, seen.image, size, want, skipped)
        maps: list[Tensor] = []
        if self.protocol.region_rule != "none":
            maps = [one for part in seen.parts for one in self.recalibration.region_maps(part[0].at(self.clip), words)]
        labeller = self._labeller(words)
        answer = labeller.label(scores, seen.plan, seen.image, size, maps[0] if maps else seen.regions, want)
        shares = partial(labeller.shares, scores, seen.plan, seen.image, size)
        return self.recalibration.finish(seen.parts[0][0].at(self.clip), answer, shares)

    def evidence(
        self, seen: Seen, network_size: tuple[int, int], size: tuple[int, int], words: Words, point: tuple[int, int]
    ) -> Evidence:
        """Compare the patches with every query, and look at one pixel; see `WordedModel.evidence`."""
        scores, labeller = self.patch_scores(seen, words), self._labeller(words)
        asked = labeller.pair_probabilities if words.background.counter else labeller.probabilities
        return of_queries(asked(scores, seen.plan, seen.image, size, point), words)

    def _labeller(self, words: Words) -> Labeller:
        rule, threshold = self.rule, words.background.threshold
        if threshold:
            rule = replace(rule, prob_threshold=threshold, threshold_label=-1)
        return Labeller(self.protocol, rule, words.query_to_class, self.clip.mean, self.clip.std)

    def patch_scores(self, seen: Seen, words: Words) -> Scores:
        """Return the scores (T, nI * h, nJ * w) of all windows of an image, their grids side by side.

        Finer ones than those of patches are made a few queries at a time where they are too many to be held.
        """
        if self.recalibration.finer == 1:
            return seen.plan.join(torch.cat([self._scores(part, words) for part in seen.parts]))[0]
        (high, wide), across = seen.parts[0][0].grid, (len(seen.plan.rows.starts), len(seen.plan.columns.starts))
        cells = (self.recalibration.finer * high, self.recalibration.finer * wide)
        shape = (len(words.query_to_class), across[0] * cells[0], across[1] * cells[1])
        return make_scores(partial(self._some_scores, seen, words, cells), shape, self.clip.device)

    def _scores(self, shown: list[DenseFeatures], words: Words, queries: Tensor | None = None) -> Tensor:
        """Return the patch scores (B, T, h, w) of windows in all their views, or those (B, t, h, w) of some queries."""
        method, seen = self.recalibration, [dense.at(self.clip) for dense in shown]
        found = [
            method.patch_scores(one, words) if queries is None else method.some_scores(one, words, queries)
            for one in seen
        ]
        return mix(found, self.protocol.image_engineering) if len(found) > 1 else found[0]

    def _some_scores(self, seen: Seen, words: Words, cells: tuple[int, int], queries: Tensor) -> Tensor:
        """Return the scores (t, nI * h, nJ * w) of some queries in windows of so many cells (h, w), one by one."""
        plan, (high, wide) = seen.plan, cells
        across = len(plan.columns.starts)
        found = torch.empty(len(queries), len(plan) // across * high, across * wide, device=self.clip.device)
        windows = ((part, index) for part in seen.parts for index in range(len(part[0].features)))
        for place, (part, index) in enumerate(windows):
            row, column = divmod(place, across)
            own = self._scores([dense.rows(slice(index, index + 1)) for dense in part], words, queries)[0]
            found[:, row * high : (row + 1) * high, column * wide : (column + 1) * wide] = own
        return found

    def normalise(self, images: Tensor) -> Tensor:
        """Normalise images (B, 3, h, w) RGB in 0..255 as CLIP was trained."""
        return normalise(images.float() / 255, self.clip.mean, self.clip.std).to(self.clip.dtype)


def view_of(cfg: CfgNode, clip: Tower) -> SizeRule:
    """Return how large a config lets a tower see photographs."""
    node = cfg.MODEL.PROTOCOL
    return SizeRule(node.SHORT_SIDE, node.LONG_SIDE, node.ASPECT, clip.patch_size)


def _shares(done: int, count: int, windows: int) -> Iterator[tuple[int, slice]]:
    """Share the ``count`` windows of a pass, behind ``done`` others, out to images of so many windows each."""
    for place in range(done // windows, (done + count - 1) // windows + 1):
        first, last = max(place * windows, done), min((place + 1) * windows, done + count)
        yield place, slice(first - done, last - done)


def _check_regions(method: Recalibration, protocol: Protocol, regions: RegionGenerator | None) -> None:
    """Refuse a protocol that lacks what a method needs."""
    if method.whole_image and protocol.window:
        raise ConfigError(f"{method.name} sees the whole image at once but WINDOW is {protocol.window}; set it to 0")
    if method.sees_photo and protocol.image_engineering:
        raise ConfigError(f"{method.name} sees the photograph itself; set IMAGE_ENGINEERING to 0")
    if method.uses_regions and regions is None:
        raise ConfigError(f"{method.name} needs regions; set MODEL.REGIONS.NAME to a region generator")
