"""SAM 3 as a dense labeller: an image once, then any number of phrases, fused into labels, segments and instances."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import KW_ONLY, asdict, dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor

from ovseg.clip.normalise import normalise
from ovseg.contract import CLASS_SCORES, INSTANCES, PANOPTIC, Answer, Evidence, Words
from ovseg.data.preprocessing import SizeRule
from ovseg.errors import ConfigError, at_least
from ovseg.labelling.calibration import said_of
from ovseg.labelling.evidence import of_queries
from ovseg.labelling.mask_resize import plan_resize
from ovseg.labelling.protocol import Protocol
from ovseg.meta_arch.sam3.fusion import Fusion, PhraseMaps
from ovseg.meta_arch.sam3.labels import Canvas, Race, Thresholds, plan_canvas, scores_in
from ovseg.meta_arch.sam3.network import Found, Sam3Network, SeenImage
from ovseg.meta_arch.sam3.objects import ObjectRule, Objects
from ovseg.meta_arch.sam3.prefilter import Prefilter
from ovseg.meta_arch.sam3.texts import PhraseReader, Phrases, shortened, unpack
from ovseg.meta_arch.sam3.weights import open_network
from ovseg.meta_arch.section import Section, Sectioned
from ovseg.meta_arch.worded_model import WordedModel
from ovseg.ops.windows import WindowPlan
from ovseg.system.device import CPU, to_device
from ovseg.system.progress import report
from ovseg.system.values import plain
from ovseg.vocabulary import Background, TextOptions, Vocabulary, parse_background
from ovseg.vocabulary.embedder import words_of_no_class
from ovseg.vocabulary.engineering import plan
from ovseg.vocabulary.lengths import say_long
from ovseg.vocabulary.scripts import say_foreign
from ovseg.vocabulary.templates import fill, resolve_templates

GB = 10**9
_READ = ("SHORT_SIDE", "LONG_SIDE", "ASPECT", "WINDOW", "STRIDE", "RESIZE", "PROB_THRESHOLD", "THRESHOLD_LABEL")


@dataclass(frozen=True)
class Budget:
    """How much memory what is computed at a time may take; results depend on it by rounding alone.

    Attributes:
        max_memory: In GB (10**9 bytes), besides the weights and what is kept of images.
    """

    _: KW_ONLY
    max_memory: float = 4.0

    def __post_init__(self) -> None:
        """Check the value.

        Raises:
            ConfigError: It is not positive.
        """
        if self.max_memory <= 0:
            raise ConfigError(f"max_memory is {self.max_memory}; expected a positive number of GB")

    def at_a_time(self, network: Sam3Network) -> int:
        """Return how many phrases, or windows of images, are computed together; at least one."""
        share = 2 if network.precision != torch.float32 else 1
        return max(1, int(self.max_memory * GB * share / network.phrase_bytes()))


@dataclass(frozen=True, eq=False)
class Seen:
    """What is kept of an image.

    Attributes:
        windows: What SAM 3 saw in each.
        plan: Where they lie.
        screen: Features (D, h, w) of the CLIP that says which words may be there; None without one.
    """

    windows: list[SeenImage]
    plan: WindowPlan
    screen: Tensor | None


@META_ARCH_REGISTRY.register()
class SAM3(WordedModel, Sectioned):
    """SAM 3 (Carion et al., arXiv 2511.16719) asked every phrase of a vocabulary, its answers fused; see `Fusion`."""

    made_of = {  # noqa: RUF012
        "network": open_network,
        "fusion": Fusion,
        "thresholds": Thresholds,
        "object_rule": ObjectRule,
        "budget": Budget,
    }
    unrecorded = ("network", "budget")

    @configurable
    def __init__(
        self,
        clip: Sam3Network,
        fusion: Fusion,
        thresholds: Thresholds,
        object_rule: ObjectRule,
        size_rule: SizeRule,
        protocol: Protocol,
        templates: str,
        background: str,
        text: TextOptions | None = None,
        options: Mapping[str, Any] | None = None,
        budget: Budget | None = None,
        screen: Prefilter | None = None,
        weights: str = "",
        *,
        geometry_token: bool = True,
        prefilter: float = 0.0,
    ) -> None:
        """Put the parts together; a Detectron2 config is accepted in their place.

        Args:
            clip: The network, with its text tower.
            fusion: How the parts of its answers become scores.
            thresholds: Which pixels keep their class.
            object_rule: What is made of masks.
            size_rule: How large a photograph is before its windows, or the whole of it, are squeezed to what the
                network sees.
            protocol: The windows, and by what way their maps go to the photograph.
            templates: A set of one sentence; SAM 3 is asked phrases as they are.
            background: The background policy.
            text: How the texts of a vocabulary are engineered; only sub-classes are.
            options: Those of the config that make results, for the record.
            budget: How much is computed at a time.
            screen: Says which words an image may show; None asks all.
            weights: Where those of the network came from, for configs.
            geometry_token: Whether the geometry token follows each phrase, as in the authors' code; transformers leaves
                it out, and all logits differ.
            prefilter: Words of which a CLIP is less sure than this everywhere are not asked; 0 asks all, which is
                exact.

        Raises:
            ConfigError: An option is out of range, or texts are to be engineered in a way phrases have no place for.
        """
        super().__init__(clip, templates, background, text)
        _check_texts(self.text)
        self.fusion, self.thresholds, self.object_rule = fusion, thresholds, object_rule
        self.size_rule, self.protocol, self.budget = size_rule, protocol, budget or Budget()
        clip.geometry_token = geometry_token
        self.screen, self.prefilter, self.options = screen, prefilter, dict(options or {})
        self.reader = PhraseReader(clip)
        self.refresh_hash()

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Build the parts that a config names; for ``MODEL.WEIGHTS`` see `ovseg.meta_arch.sam3.weights.read`.

        Raises:
            ConfigError: An option is not allowed.
            WeightsError: The weights are missing or do not fit.
        """
        section, node = Section(cls, cfg), cfg.MODEL.PROTOCOL
        _check_protocol(node)
        text, sure = TextOptions.from_config(cfg.MODEL.TEXT), section.options["prefilter"]
        _check_texts(text)  # before 3 GB are read
        if not 0 <= at_least("prefilter", sure, 0) < 1:
            raise ConfigError(f"prefilter is {sure}; expected a share from 0 (off) to below 1")
        return {
            "clip": section.make("network", str(cfg.MODEL.WEIGHTS), section.options["geometry_token"]),
            "fusion": section.make("fusion"),
            "thresholds": section.make("thresholds", node.PROB_THRESHOLD, node.THRESHOLD_LABEL),
            "object_rule": section.make("object_rule"),
            "size_rule": SizeRule(node.SHORT_SIDE, node.LONG_SIDE, node.ASPECT),
            "protocol": Protocol(node.WINDOW, node.STRIDE, "none", node.RESIZE),
            "templates": cfg.MODEL.TEXT.TEMPLATES,
            "background": cfg.MODEL.TEXT.BACKGROUND,
            "text": text,
            "options": section.of_results,
            "budget": section.make("budget"),
            "screen": Prefilter.from_config(cfg.MODEL, sure) if sure else None,
            **section.own,
        }

    @property
    def gives(self) -> frozenset[str]:
        """What can be wanted; objects are of whole images, for windows would cut them."""
        return super().gives if self.protocol.window else super().gives | {PANOPTIC, INSTANCES}

    @property
    def scores_stand_alone(self) -> bool:
        """Scores of a phrase do not depend on the others; see `WordedModel.scores_stand_alone`."""
        return True

    @property
    def settings(self) -> dict[str, Any]:
        """What makes results besides the weights and the words, as JSON values; recorded in every result."""
        windows = {key: asdict(self.protocol)[key] for key in ("window", "stride", "resize")}
        least = {"threshold": self.thresholds.threshold, "label": self.thresholds.label}
        own = {"options": plain(self.options), "protocol": windows, "thresholds": least}
        return {**super().settings, **own, **({"prefilter": self.screen.settings} if self.screen else {})}

    def words(
        self,
        vocabulary: Vocabulary,
        background: str | Background | Iterable[str] | None = None,
        templates: str | None = None,
    ) -> Words:
        """Read the phrases of a request; what the cache on disk knows is not read anew. See `WordedModel.words`.

        Raises:
            VocabularyError: The policy cannot be used.
            UnknownNameError: No such policy or template set.
            ConfigError: The template set has several sentences, or there is not one threshold a class.
        """
        policy = self.default_background if background is None else parse_background(background)
        chosen = templates or self.default_templates
        sentences = resolve_templates(chosen)
        if len(sentences) != 1:
            raise ConfigError(
                f"templates is '{chosen}' with {len(sentences)} sentences; SAM 3 is asked one phrase at a time, so "
                "take 'none' (the words as they are)"
            )
        self.thresholds.check(len(vocabulary))
        extra, notes = words_of_no_class(vocabulary, policy, self.scores_stand_alone)
        recipe, told = plan(vocabulary, extra, self.text)
        told += [*say_foreign(self.reader, recipe), *say_long(self.reader, recipe, sentences, False)]
        rows = self.reader.read([fill(sentences[0], text) for text in recipe.texts], self.text_cache, sentences)
        if self._text_rests is not None:
            self.clip.move_text(self._text_rests)
        told += list(self.clip.notes)
        found = Phrases(
            embeddings=shortened(rows, self.clip.channels),
            query_to_class=torch.tensor(recipe.query_to_class),
            texts=(*recipe.names, *recipe.subclasses, *recipe.extra),
            notes=(*self.notes, *vocabulary.notes, *policy.notes, *notes, *told, *said_of(self.calibration, policy)),
            vocabulary=vocabulary,
            background=policy,
            templates=chosen,
            embedded_by=self.clip.weights_hash,
            screen=self.screen.read(recipe.texts, self.text_cache) if self.screen else None,
        )
        return found.to(self.clip.device)

    def see(self, images: Tensor) -> list[Seen]:
        """Look at all windows, each squeezed to what the network sees; see `WordedModel.see`."""
        plan_ = self.protocol.plan((images.shape[2], images.shape[3]), 1)
        pixels = normalise(self.squeeze(plan_.cut(images)).float() / 255, self.clip.mean, self.clip.std)
        passes = pixels.to(self.clip.dtype).split(self.budget.at_a_time(self.clip))
        seen: list[SeenImage] = []
        for part in passes:
            found = self.run_network(part)
            seen += [
                SeenImage(*(one.clone() if len(pixels) > 1 else one for one in own)) for own in zip(*found, strict=True)
            ]
            report("windows", len(seen), len(pixels))
        if not self.clip.geometry_token:
            seen = [own._replace(geometry=None) for own in seen]
        screens = [None] * len(images) if self.screen is None else self.screen.see(images)
        count = len(plan_)
        return [Seen(seen[i * count : (i + 1) * count], plan_, screen) for i, screen in enumerate(screens)]

    def squeeze(self, windows: Tensor) -> Tensor:
        """Bring windows (B, 3, h, w) in 0..255 to the square that the network sees, in whole numbers as the authors."""
        side = self.clip.side
        if tuple(windows.shape[2:]) == (side, side):
            return to_device(windows, self.clip.device)
        whole = windows.to(CPU).float().round().clamp(0, 255).to(torch.uint8)
        small = F.interpolate(whole, (side, side), mode="bilinear", antialias=True, align_corners=False)
        return to_device(small, self.clip.device)

    def network(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Look at normalised squares (B, 3, S, S); see `WordedModel.network` and `Sam3Network.see`."""
        return self.clip.see(pixels)

    def label(
        self, seen: Seen, network_size: tuple[int, int], size: tuple[int, int], words: Words, want: frozenset[str]
    ) -> Answer:
        """Ask every phrase and keep, of each pixel, the best; see `WordedModel.label`.

        The threshold of a background policy takes the place of the config's.
        """
        canvas, thresholds = self.canvas(seen, network_size, size), self.thresholds
        if words.background.threshold:
            thresholds = replace(thresholds, threshold=words.background.threshold, label=-1, class_thresholds=())
        device = self.clip.device
        race = Race(canvas, self.fusion, words.query_to_class.to(device), device, CLASS_SCORES in want)
        grid = (seen.windows[0].fine.shape[1], seen.windows[0].fine.shape[2])
        objects = Objects(self.object_rule, words, grid, device)
        asked, notes = self.asked(seen, words)
        for rows, parts in self.ask(seen, words, asked):
            race.add(rows, parts)
            if want & {PANOPTIC, INSTANCES}:
                objects.add(rows, parts[0])
        labels, scores = race.finish(thresholds)
        results = objects.results(plan_resize(grid, grid, grid, size), want)
        return Answer(labels, scores, class_scores=race.every, notes=notes, **results)

    def evidence(
        self, seen: Seen, network_size: tuple[int, int], size: tuple[int, int], words: Words, point: tuple[int, int]
    ) -> Evidence:
        """Ask every phrase, and look at one pixel; see `WordedModel.evidence`."""
        canvas = self.canvas(seen, network_size, size)
        tile = tuple(slice(place, place + 1) for place in point)
        found = torch.zeros(len(words.texts), device=self.clip.device)
        for rows, parts in self.ask(seen, words, self.asked(seen, words)[0]):
            every = torch.arange(len(rows), device=rows.device)
            found[rows] = scores_in(canvas, (tile[0], tile[1]), parts, self.fusion, every).flatten()
        return of_queries(found, words)

    def canvas(self, seen: Seen, network_size: tuple[int, int], size: tuple[int, int]) -> Canvas:
        """Return where the windows of an image lie, and the way of their maps to a photograph of a size."""
        grid = (seen.windows[0].fine.shape[1], seen.windows[0].fine.shape[2])
        once = not self.protocol.window and self.protocol.resize == "once"
        return plan_canvas(seen.plan, network_size, size, grid, self.fusion, once)

    def asked(self, seen: Seen, words: Words) -> tuple[Tensor, tuple[str, ...]]:
        """Return the rows (n,) of the words that an image is asked for, and what is to be said of the others."""
        every = torch.arange(len(words.texts), device=self.clip.device)
        if self.screen is None or seen.screen is None or not isinstance(words, Phrases) or words.screen is None:
            return every, ()
        return self.screen.choose(seen.screen, words.screen, words)

    def ask(self, seen: Seen, words: Words, rows: Tensor) -> Iterator[tuple[Tensor, list[PhraseMaps]]]:
        """Ask for the phrases of some rows (n,), a few at a time; yields their rows and what each window shows."""
        tokens, mask = unpack(words.embeddings.to(self.clip.device), self.clip.channels)
        done = 0
        for part in rows.split(self.budget.at_a_time(self.clip)):
            longest = int(mask[part].sum(1).max())
            asked = tokens[part, :longest], mask[part, :longest]
            yield part, [self.maps(self.clip.ask(window, *asked)) for window in seen.windows]
            done += len(part)
            report("phrases", done, len(rows))

    def maps(self, found: Found, rule: Fusion | None = None) -> PhraseMaps:
        """Return what counts of what phrases find, by another rule than its own if one is given."""
        presence, scores = found.presence.float().sigmoid(), found.scores.float()
        strengths = (rule or self.fusion).strengths(presence, scores)
        owner, query = (strengths > 0).nonzero(as_tuple=True)
        semantic = self.clip.semantic(found)
        masks = [self.clip.masks(found, own, query[owner == own]) for own in owner.unique().tolist()]
        none = semantic.new_zeros(0, *semantic.shape[1:])
        return PhraseMaps(presence, semantic, torch.cat([none, *masks]), strengths[owner, query], owner)


def _check_protocol(node: CfgNode) -> None:
    """Refuse parts of the protocol that SAM 3 does not read.

    Raises:
        ConfigError: One of them is set.
    """
    from ovseg.config import default_protocol

    usual = default_protocol()
    strange = [key for key, value in node.items() if key not in _READ and value != usual[key]]
    if strange:
        raise ConfigError(
            f"MODEL.PROTOCOL.{strange[0]} is {node[strange[0]]}, but SAM3 reads of the protocol only "
            f"{', '.join(_READ)}; leave it out"
        )


def _check_texts(text: TextOptions) -> None:
    """Refuse ways to engineer texts that phrases have no place for.

    Raises:
        ConfigError: One of them is set.
    """
    for option in ("auxiliary", "descriptions", "autoclip", "long_text"):
        if getattr(text, option):
            raise ConfigError(
                f"MODEL.TEXT.{option.upper()} is {getattr(text, option)!r}, but SAM 3 reads each phrase as it is, "
                "token by token; leave it out (synonyms and SUBCLASSES are phrases of their own)"
            )
