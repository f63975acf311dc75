"""A model whose network is a file: it answers as the model does that was exported, without that one's code."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import Self

from ovseg.clip.normalise import normalise
from ovseg.clip.tower import Tower
from ovseg.contract import LABELS, Answer, Encoded, Evidence, Words, check_point, check_want, identity
from ovseg.data.preprocessing import SizeRule
from ovseg.errors import ConfigError, InputError, WeightsError
from ovseg.labelling.calibration import Calibration, said_of, worth
from ovseg.labelling.evidence import of_masks, of_queries
from ovseg.labelling.known import seen_columns
from ovseg.labelling.labeller import Labeller
from ovseg.labelling.mask_resize import MaskResize, plan_resize
from ovseg.labelling.objects import MaskRule, object_results, semantic_results
from ovseg.labelling.protocol import Protocol
from ovseg.labelling.row_maps import RowMaps, at_pixel
from ovseg.labelling.scores import ScoreRule
from ovseg.meta_arch.cost_model import label_maps
from ovseg.meta_arch.counted import FIRST, MEAN, check_prompts, note_of_most, with_first, with_means
from ovseg.meta_arch.exported.card import CLASSES, TEXTS, TRAINED, FileCard, FixedSize, mean_colour, unpack_words
from ovseg.meta_arch.exported.maps import maps_of, see, views_of
from ovseg.meta_arch.exported.runtimes import Runtime
from ovseg.system.device import CPU, is_cpu
from ovseg.vocabulary import Background, TextCache, TextEmbedder, TextOptions, Vocabulary, parse_background
from ovseg.vocabulary.queries import Queries

FindTower = Callable[[], Tower]
"""Gives the text tower of the model that was exported; it is asked at the first words that are not in the file."""


@dataclass(frozen=True, eq=False)
class SeenByFile:
    """What is kept of an image.

    Attributes:
        outputs: Those of the graph that know no words.
        shape: Of the image as the graph got it.
        image: The normalised network input (3, h, w) float32, by which labels of patches are refined; else None.
    """

    outputs: list[Tensor]
    shape: tuple[int, ...]
    image: Tensor | None


class ExportedModel:
    """Runs the network of a file and answers by it; see `ovseg.contract.SegmentationModel`.

    Attributes:
        card: What the file says of itself.
        size_rule: The model's own, or the one size of the file.
        notes: See there.
    """

    def __init__(
        self, path: Path, card: FileCard, runtime: Runtime, file_hash: str, text_tower: FindTower, text: TextOptions
    ) -> None:
        """Put a file that was opened to work.

        Args:
            path: Of the file, for messages.
            card: Its card.
            runtime: Runs its graph.
            file_hash: Of its content.
            text_tower: Finds the text tower.
            text: How texts are engineered.
        """
        self.path, self.card, self.runtime, self._hash, self._find = path, card, runtime, file_hash, text_tower
        self.text = text
        rule = {key: value for key, value in card.settings["size_rule"].items() if key not in ("height", "width")}
        self.size_rule = SizeRule(**rule) if card.size is None else FixedSize.of(*card.size)
        self.notes = (*card.notes, *self._own_notes())
        self._words = unpack_words(card.words, card.clip_hash) if card.words else None
        self._saved = Calibration.parse(card.calibration, str(path)) if card.calibration else None
        self._lock = Lock()
        self._tower: Tower | None = None

    def _own_notes(self) -> list[str]:
        card = self.card
        found = [] if card.dtype == "fp32" else [f"{self.path.name} holds {card.model} in {card.dtype}"]
        if card.size is not None and card.settings["size_rule"]["aspect"] != "square":
            found.append(f"images are resized to {card.size[1]} x {card.size[0]} pixels, the one size of the file")
        return found

    @property
    def calibration(self) -> Calibration | None:
        """What its scores are worth; that of the model, for rounding moves them little."""
        return self._saved

    @property
    def settings(self) -> dict[str, Any]:
        """Those of the model, and which file it is."""
        own = {"format": self.card.format, "dtype": self.card.dtype, "hash": self._hash, "runtime": self.runtime.name}
        return {**self.card.settings, "text": self.text.to_json(), "file": own}

    @property
    def weights_hash(self) -> str:
        """That of the model that was exported; the file's own is among the settings."""
        return self.card.weights_hash

    @property
    def gives(self) -> frozenset[str]:
        """What can be wanted."""
        return frozenset(self.card.gives)

    def words(
        self,
        vocabulary: Vocabulary,
        background: str | Background | Iterable[str] | None = None,
        templates: str | None = None,
    ) -> Words:
        """Embed the words of a request by the text tower of the model, unless they are those of the file.

        Args:
            vocabulary: The classes.
            background: A policy; None is that of the model.
            templates: Name of a template set; None is that of the model.

        Raises:
            WeightsError: The text tower is not here, or is another.
            VocabularyError: The policy cannot be used, or asks in pairs.
            UnknownNameError: No such policy or template set.
        """
        policy = parse_background(self.card.background if background is None else background).asked_of(self)
        chosen, kept = templates or self.card.templates, self._words
        same = kept is not None and (kept.vocabulary, kept.background, kept.templates) == (vocabulary, policy, chosen)
        found: Queries
        if kept is not None and same and self.text.to_json() == self.card.settings["text"]:
            found, told = kept, (*kept.notes, f"words were taken as {self.path.name} holds them")
        else:
            found = self._embed(vocabulary, policy, chosen)
            told = (*self.card.clip_notes, *found.notes)
        return Words(
            embeddings=found.embeddings,
            query_to_class=found.query_to_class,
            texts=found.texts,
            notes=tuple(dict.fromkeys((*self.notes, *told, *said_of(self.calibration, policy)))),
            classifier=found.classifier,
            vocabulary=vocabulary,
            background=policy,
            templates=chosen,
            embedded_by=self.card.clip_hash,
        )

    def _embed(self, vocabulary: Vocabulary, policy: Background, templates: str) -> Queries:
        """Embed words as the model does, with notes on what does not count."""
        card = self.card
        if card.prompts:
            check_prompts(templates, card.prompts)
        counting, notes = with_first(vocabulary) if card.names == FIRST else (vocabulary, ())
        embedder = TextEmbedder(self._text_tower(), templates, self._cache, self.text)
        found = embedder.embed_vocabulary(counting, policy, bool(card.prompts))
        notes += note_of_most(card.most, len(found.query_to_class))
        found = with_means(found) if card.names == MEAN else found
        return replace(found, notes=(*found.notes, *notes))

    @cached_property
    def _cache(self) -> TextCache:
        return TextCache()

    def _text_tower(self) -> Tower:
        with self._lock:
            if self._tower is None:
                tower = self._find()
                if tower.weights_hash != self.card.clip_hash:
                    raise WeightsError(
                        f"{self.path.name} was made with the CLIP {self.card.clip} ({self.card.clip_hash}), and "
                        f"{self.card.model} has another here ({tower.weights_hash}); bring that one back, or export "
                        "the model anew"
                    )
                self._tower = tower
            return self._tower

    def encode(self, images: Sequence[Tensor]) -> Encoded:
        """Run the graph as far as it knows no words, image by image; see `ovseg.contract.SegmentationModel.encode`.

        Raises:
            InputError: An image has another shape, or a size that the file does not take.
        """
        seen = [self._see(image) for image in images]
        return Encoded(tuple(seen), tuple((image.shape[1], image.shape[2]) for image in images), identity(self))

    def _see(self, image: Tensor) -> SeenByFile:
        card, shape = self.card, tuple(image.shape)
        if image.ndim != 3 or shape[0] != 3 or image.numel() == 0:
            raise InputError(f"got an image of shape {shape}; expected (3, h, w) RGB in 0..255")
        if card.size is not None and shape[1:] != card.size:
            raise InputError(
                f"got {shape[2]} x {shape[1]} pixels; {self.path.name} takes {card.size[1]} x {card.size[0]}"
            )
        if card.size is None and min(shape[1:]) < card.least:
            raise InputError(f"got {shape[2]} x {shape[1]} pixels; {self.path.name} takes sides from {card.least} on")
        pixels = image.to(CPU)
        given = (
            pixels.permute(1, 2, 0).contiguous().to(torch.uint8) if card.photo else self.fitted(pixels.float())[None]
        )
        if card.kind == "maps":
            views = views_of(given, card)
            return SeenByFile(see(views, self.runtime), tuple(views[0].shape), None)
        outputs = self.runtime.see(given)
        if card.kind == "masks":
            return SeenByFile(outputs, tuple(given.shape), None)
        normal = normalise(pixels.float() / 255, card.mean, card.std)
        return SeenByFile(outputs, tuple(given.shape), normal)

    def fitted(self, image: Tensor) -> Tensor:
        """Bring an image (3, h, w) to multiples of the unit, as the model does.

        One of patches leaves out what is no whole patch; others pad it by what is zero when it is normalised.
        """
        if self.card.size is not None or self.card.unit == 1:
            return image
        if self.card.kind == "patches":
            high, wide = (side - side % self.card.unit for side in image.shape[1:])
            return image[:, :high, :wide]
        wide, high = (-image.shape[axis] % self.card.unit for axis in (2, 1))
        whole = mean_colour(self.card).repeat(1, image.shape[1] + high, image.shape[2] + wide)
        whole[:, : image.shape[1], : image.shape[2]] = image
        return whole

    def _named(self, seen: SeenByFile, words: Words) -> dict[str, Tensor]:
        if words.classifier is not None:
            raise ConfigError(
                f"AutoCLIP weighs texts for each image, for which {self.path.name} has no place; leave it out"
            )
        given = {TEXTS: words.embeddings.float().cpu(), CLASSES: words.query_to_class.cpu()}
        if self.card.trained_names is not None:
            given[TRAINED] = seen_columns(words, self.card.trained_names)[words.columns]
        found = self.runtime.naming(seen.outputs, given, seen.shape)
        return dict(zip(self.card.named, found, strict=True))

    def answer(
        self, encoded: Encoded, index: int, size: tuple[int, int], words: Words, want: frozenset[str] = LABELS
    ) -> Answer:
        """Label an encoded image by words; see `ovseg.contract.SegmentationModel.answer`.

        Raises:
            UnknownNameError: There is no such thing to want.
            ConfigError: The model does not give it, or another model has encoded the image or embedded the words.
        """
        wanted = check_want(want, self.gives, self.path.name)
        self._check(encoded, words)
        seen, network_size = encoded.images[index], encoded.sizes[index]
        if self.card.kind == "maps":
            found = label_maps(self._maps(seen, words), words, size, wanted, self.card.cut)
        elif self.card.kind == "patches":
            found = self._label_patches(self._named(seen, words), seen, network_size, size, words, wanted)
        else:
            found = self._label_masks(self._named(seen, words), seen, network_size, size, words, wanted)
        return replace(found, scores=worth(found.scores, self.calibration, len(words.column_class)))

    def explain(
        self, encoded: Encoded, index: int, size: tuple[int, int], words: Words, point: tuple[int, int]
    ) -> Evidence:
        """Say why a pixel has its label; see `ovseg.contract.SegmentationModel.explain`.

        Raises:
            InputError: There is no such pixel.
            ConfigError: Another model has encoded the image or embedded the words.
        """
        check_point(point, size)
        self._check(encoded, words)
        seen, network_size = encoded.images[index], encoded.sizes[index]
        if self.card.kind == "maps":
            count = len(words.query_to_class)
            return of_queries(at_pixel(self._maps(seen, words), count, size, point), words)
        named = self._named(seen, words)
        if self.card.kind == "patches":
            plan = self._protocol.plan(network_size, self.card.patch_size)
            scores = plan.join(named["patch_scores"])[0]
            return of_queries(self._labeller(words).probabilities(scores, plan, _image(seen), size, point), words)
        shares, resize = _of_columns(named["mask_classes"], words), self._resize(seen, network_size, size)
        return of_masks(shares, named["mask_cosines"], self._masks(seen), resize, words, point)

    def _check(self, encoded: Encoded, words: Words) -> None:
        encoded.check(self)
        words.check(self.card.clip_hash)

    @cached_property
    def _protocol(self) -> Protocol:
        return Protocol(**_tuples(self.card.settings["protocol"]))

    def _labeller(self, words: Words) -> Labeller:
        rule, threshold = ScoreRule(**_tuples(self.card.settings["rule"])), words.background.threshold
        if threshold:
            rule = replace(rule, prob_threshold=threshold, threshold_label=-1)
        return Labeller(self._protocol, rule, words.query_to_class, self.card.mean, self.card.std)

    def _label_patches(
        self,
        named: dict[str, Tensor],
        seen: SeenByFile,
        network_size: tuple[int, int],
        size: tuple[int, int],
        words: Words,
        want: frozenset[str],
    ) -> Answer:
        plan = self._protocol.plan(network_size, self.card.patch_size)
        scores = plan.join(named["patch_scores"])[0]
        return self._labeller(words).label(scores, plan, _image(seen), size, None, want)

    def _label_masks(
        self,
        named: dict[str, Tensor],
        seen: SeenByFile,
        network_size: tuple[int, int],
        size: tuple[int, int],
        words: Words,
        want: frozenset[str],
    ) -> Answer:
        shares, masks = _of_columns(named["mask_classes"], words), self._masks(seen)
        resize, rule = self._resize(seen, network_size, size), self._mask_rule
        found = semantic_results(shares, masks, resize, words, want)
        objects = object_results(shares, masks, resize, rule, words, want) if rule is not None else {}
        return replace(found, **objects)

    def _maps(self, seen: SeenByFile, words: Words) -> RowMaps:
        return maps_of(seen.outputs, seen.shape, words, self.card, self.runtime)

    @cached_property
    def _mask_rule(self) -> MaskRule | None:
        rule = self.card.settings.get("rule")
        return None if rule is None else MaskRule(**rule)

    def _masks(self, seen: SeenByFile) -> Tensor:
        return seen.outputs[self.card.seen.index("mask_logits")]

    def _resize(self, seen: SeenByFile, network_size: tuple[int, int], size: tuple[int, int]) -> MaskResize:
        masks, unit, rule = self._masks(seen), self.card.patch_size, self._mask_rule
        padded = (-(-network_size[0] // unit) * unit, -(-network_size[1] // unit) * unit)
        first = rule is not None and not rule.objects
        return plan_resize((masks.shape[1], masks.shape[2]), padded, network_size, size, sigmoid_first=first)

    def place(self, device: torch.device, dtype: torch.dtype) -> Self:
        """Stay on the CPU and in the precision of the file; returns the model itself.

        Raises:
            ConfigError: It shall go elsewhere, or be computed in another precision.
        """
        if not is_cpu(device):
            raise ConfigError(f"{self.path.name} runs on the CPU here, got device {device}; give --device cpu")
        if dtype != torch.float32:
            raise ConfigError(
                f"{self.path.name} is {self.card.dtype} for good, got {dtype}; leave dtype out, or export the model by "
                "`ovseg export --dtype`"
            )
        return self

    def pack(self) -> None:
        """Refuse: the weights lie in the file.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError(f"the weights of {self.path.name} lie as {self.runtime.name} has them; leave packed out")

    def compile_network(self, backend: str = "inductor") -> None:
        """Refuse: the graph is that of the file.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError(
            f"{self.path.name} is run by {self.runtime.name}; leave compile out, or export by --format aoti"
        )


def _of_columns(rows: Tensor, words: Words) -> Tensor:
    """Return probabilities (Q, C + 1) of the columns of words, given those (Q, T + 1) of rows.

    The first row of a class has that of the class, the others zero.
    """
    count = len(words.column_class)
    places = torch.arange(len(words.columns))
    first = places.new_full((count,), len(places)).scatter_reduce(0, words.columns, places, "amin")
    return rows[:, F.pad(first, (0, 1), value=len(places))]


def _image(seen: SeenByFile) -> Tensor:
    if seen.image is None:
        raise TypeError("an image of a model with masks is not kept")
    return seen.image


def _tuples(settings: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()}
