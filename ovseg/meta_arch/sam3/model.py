"""SAM 3 as a dense labeller: an image once, then any number of phrases, fused into labels, segments and instances."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor

from ovseg.contract import CLASS_SCORES, INSTANCES, PANOPTIC, Answer, Evidence, Words
from ovseg.data.preprocessing import SizeRule
from ovseg.errors import ConfigError
from ovseg.labelling.calibration import said_of
from ovseg.labelling.evidence import of_queries
from ovseg.labelling.mask_resize import plan_resize
from ovseg.labelling.protocol import Protocol
from ovseg.meta_arch.sam3.asking import Budget, Seen, ask
from ovseg.meta_arch.sam3.fusion import Fusion
from ovseg.meta_arch.sam3.labels import Canvas, Race, Thresholds, plan_canvas, scores_in
from ovseg.meta_arch.sam3.network import Sam3Network, SeenImage
from ovseg.meta_arch.sam3.objects import ObjectRule, Objects
from ovseg.meta_arch.sam3.prefilter import Prefilter, open_screen
from ovseg.meta_arch.sam3.texts import PhraseReader, Phrases, shortened
from ovseg.meta_arch.sam3.weights import open_network
from ovseg.meta_arch.section import Section, Sectioned
from ovseg.meta_arch.worded_model import WordedModel
from ovseg.system.progress import report
from ovseg.system.values import plain
from ovseg.vocabulary import Background, TextOptions, Vocabulary, parse_background
from ovseg.vocabulary.embedder import words_of_no_class
from ovseg.vocabulary.engineering import plan
from ovseg.vocabulary.lengths import say_long
from ovseg.vocabulary.scripts import say_foreign
from ovseg.vocabulary.templates import fill, resolve_templates

_READ = ("SHORT_SIDE", "LONG_SIDE", "ASPECT", "WINDOW", "STRIDE", "RESIZE", "PROB_THRESHOLD", "THRESHOLD_LABEL")


@META_ARCH_REGISTRY.register()
class SAM3(WordedModel, Sectioned):
    """SAM 3 (Carion et al., arXiv 2511.16719) asked every phrase of a vocabulary, its answers fused; see `Fusion`."""

    made_of = {  # noqa: RUF012
        "network": open_network,
        "fusion": Fusion,
        "thresholds": Thresholds,
        "object_rule": ObjectRule,
        "budget": Budget,
        "screen": open_screen,
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

        Raises:
            ConfigError: An option is out of range, or texts are to be engineered in a way phrases have no place for.
        """
        super().__init__(clip, templates, background, text)
        _check_texts(self.text)
        self.fusion, self.thresholds, self.object_rule = fusion, thresholds, object_rule
        self.size_rule, self.protocol, self.budget = size_rule, protocol, budget or Budget()
        self.geometry_token, self.screen, self.options = geometry_token, screen, dict(options or {})
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
        text = TextOptions.from_config(cfg.MODEL.TEXT)
        _check_texts(text)  # before 3 GB are read
        screen = section.make("screen", cfg.MODEL)
        return {
            "clip": section.make("network", str(cfg.MODEL.WEIGHTS)),
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
            "screen": screen,
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
            UnknownNameError: No such policy or template set, or there is a threshold for a class that is not there.
            ConfigError: The template set has several sentences.
        """
        policy = parse_background(self.default_background if background is None else background).asked_of(self)
        chosen = templates or self.default_templates
        sentences = resolve_templates(chosen)
        if len(sentences) != 1:
            raise ConfigError(
                f"templates is '{chosen}' with {len(sentences)} sentences; SAM 3 is asked one phrase at a time, so "
                "take 'none' (the words as they are)"
            )
        self.thresholds.of(vocabulary)
        extra, notes = words_of_no_class(vocabulary, policy, self.scores_stand_alone)
        recipe, told = plan(vocabulary, extra, self.text)
        told += [*say_foreign(self.reader, recipe), *say_long(self.reader, recipe, sentences, False)]
        rows = self.reader.read([fill(sentences[0], text) for text in recipe.texts], self.text_cache, sentences)
        screen = self.screen.read(recipe.texts, self.text_cache) if self.screen else None
        for tower in (self.clip, *([self.screen.clip] if self.screen else [])):
            if self._text_rests is not None:
                tower.move_text(self._text_rests)
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
            screen=screen,
        )
        return found.to(self.clip.device)

    def see(self, images: Tensor) -> list[Seen]:
        """Look at all windows, and by the CLIP of the prefilter at the whole images; see `WordedModel.see`."""
        found = self.look(images)
        if self.screen is None:
            return found
        return [replace(own, screen=screen) for own, screen in zip(found, self.screen.see(images), strict=True)]

    def look(self, images: Tensor) -> list[Seen]:
        """Look at the windows of images (B, 3, h, w) in 0..255, each squeezed to what the network sees."""
        plan_ = self.protocol.plan((images.shape[2], images.shape[3]), 1)
        pixels, seen, count = self.clip.normal(plan_.cut(images)), list[SeenImage](), len(plan_)
        for part in pixels.split(self.budget.at_a_time(self.clip)):
            for own in zip(*self.run_network(part), strict=True):
                kept = SeenImage(*(one.clone() if len(pixels) > 1 else one for one in own))
                seen.append(kept if self.geometry_token else kept._replace(geometry=None))
            report("windows", len(seen), len(pixels))
        return [Seen(seen[first : first + count], plan_) for first in range(0, len(seen), count)]

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
            thresholds = replace(thresholds, threshold=words.background.threshold, label=-1, class_thresholds=None)
        device, rule = self.clip.device, self.fusion
        race = Race(canvas, rule, words.query_to_class.to(device), device, CLASS_SCORES in want)
        objects = Objects(self.object_rule, words, seen.grid, device) if want & {PANOPTIC, INSTANCES} else None
        asked, notes = self.asked(seen, words)
        masks = objects is not None or rule.uses_masks
        for rows, parts in ask(self.clip, seen, words.embeddings, asked, rule, self.budget, masks):
            race.add(rows, parts)
            if objects is not None:
                objects.add(rows, parts[0])
        labels, scores = race.finish(thresholds, thresholds.of(words.vocabulary))
        resize = plan_resize(seen.grid, seen.grid, seen.grid, size)
        results = objects.results(resize, want) if objects is not None else {}
        return Answer(labels, scores, class_scores=race.every, notes=notes, **results)

    def evidence(
        self, seen: Seen, network_size: tuple[int, int], size: tuple[int, int], words: Words, point: tuple[int, int]
    ) -> Evidence:
        """Ask every phrase, and look at one pixel; see `WordedModel.evidence`."""
        canvas, rule = self.canvas(seen, network_size, size), self.fusion
        tile = tuple(slice(place, place + 1) for place in point)
        found, asked = torch.zeros(len(words.texts), device=self.clip.device), self.asked(seen, words)[0]
        for rows, parts in ask(self.clip, seen, words.embeddings, asked, rule, self.budget, rule.uses_masks):
            every = torch.arange(len(rows), device=rows.device)
            found[rows] = scores_in(canvas, (tile[0], tile[1]), parts, rule, every).flatten()
        return of_queries(found, words)

    def canvas(self, seen: Seen, network_size: tuple[int, int], size: tuple[int, int]) -> Canvas:
        """Return where the windows of an image lie, and the way of their maps to a photograph of a size."""
        once = not self.protocol.window and self.protocol.resize == "once"
        return plan_canvas(seen.plan, network_size, size, seen.grid, self.fusion, once)

    def asked(self, seen: Seen, words: Words) -> tuple[Tensor, tuple[str, ...]]:
        """Return the rows (n,) of the words that an image is asked for, and what is to be said of the others."""
        every = torch.arange(len(words.texts), device=self.clip.device)
        if self.screen is None or seen.screen is None:
            return every, ()
        rows = words.screen if isinstance(words, Phrases) else None
        if rows is None:
            return every, (f"the prefilter does not know these words, so all {len(every)} were asked for",)
        return self.screen.choose(seen.screen, rows, words)


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
