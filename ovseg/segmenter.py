"""The Segmenter: images and words in, `Segmentation` out. The API, the command line and evaluation all come here."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from typing_extensions import Unpack

from ovseg._version import __version__
from ovseg.contract import Encoded, SegmentationModel, Words, check_want
from ovseg.data.images import LoadedImage, ReadOptions, check_reading, expand_inputs, read_image
from ovseg.data.sources import each_image, is_several
from ovseg.errors import ConfigError, InputError, VocabularyError
from ovseg.labelling.pointing import Pointable
from ovseg.result.segmentation import Segmentation
from ovseg.system.device import check_settings, fits, give_back
from ovseg.system.overlap import overlapped, worker_threads
from ovseg.system.precision import choose
from ovseg.vocabulary import Vocabulary
from ovseg.vocabulary.background import parse_background

if TYPE_CHECKING:
    from ovseg.vocabulary import Background

Classes: TypeAlias = Any
"""Whatever `Vocabulary.parse` accepts, or `Words` of `Segmenter.words`."""
Policy: TypeAlias = "str | Background | Iterable[str] | None"
Report: TypeAlias = Callable[[Any, InputError], None]

LARGE = 2**26
"""Bytes of a photograph from which on freed memory is given back to the system at once."""

WORDS_KEPT = 32
"""So many requests keep their embedded words, so that the same words cost nothing the next time."""


@dataclass(frozen=True, eq=False)
class _Prepared:
    """An image, its pixels (3, h, w) uint8 for the model, and the seconds of its reading and resizing."""

    image: LoadedImage
    pixels: torch.Tensor
    timings: dict[str, float]


@dataclass(frozen=True, eq=False)
class EncodedImage(Pointable):
    """An image as a model has seen it, to be asked about any number of words; made by `Segmenter.encode`.

    It can be pickled, without the model; then `Segmenter.answer` takes it.

    Attributes:
        image: The photograph.
        encoded: What the model keeps of it.
        index: Its number in there.
        timings: Seconds of its reading, its preparation and its encoding.
        segmenter: Who encoded it.
    """

    image: LoadedImage
    encoded: Encoded
    index: int
    timings: dict[str, float]
    segmenter: Segmenter | None = field(default=None, repr=False)

    def answer(
        self,
        classes: Classes = None,
        background: Policy = None,
        templates: str | None = None,
        want: Iterable[str] | None = None,
    ) -> Segmentation:
        """Label the image by words, without another pass; arguments as `Segmenter.__call__`.

        Raises:
            ConfigError: It comes from a pickle, and so has no model.
            OvsegError: As `Segmenter.__call__`.
        """
        return self.asked().answer(self, classes, background, templates, want)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the model out."""
        return {**vars(self), "segmenter": None}


class Segmenter:
    """A model with its size rule on a device. Nothing of a request stays in it: threads may share one.

    Attributes:
        model: The meta architecture; see `ovseg.contract.SegmentationModel`.
        name: What the model was loaded as.
        device, dtype: Where it runs, and in what precision.
        notes: What every result says of the model and its precision, a line each.
    """

    def __init__(
        self,
        model: SegmentationModel,
        name: str,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype = "auto",
        batch_size: int = 1,
        default_words: str | Vocabulary = "",
        packed: bool = False,
        compiled: bool = False,
        asked: Mapping[str, str] | None = None,
    ) -> None:
        """Move a model to its device.

        On the CPU ``auto`` is fp32, or bf16 for weights that were measured to keep their labels, of which results have
        a note (`ovseg.system.precision`). What of a model bf16 leaves in fp32, `WordedModel.place` says.

        Args:
            model: Of any kind.
            name: Goes into the meta of results.
            device: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.
            dtype: ``auto``, ``fp32``, ``bf16`` or ``fp16``.
            batch_size: Images that are encoded together; results do not depend on it.
            default_words: What the model segments by when no classes are given; empty for nothing.
            packed: Lay weights out once as the CPU multiplies them; results differ by rounding.
            compiled: Let `torch.compile` compile the network; the first image takes a minute or more.
            asked: The ``name`` by which it was asked for, where that is another, and ``why``; for the record.

        Raises:
            ConfigError: The device or dtype is not available, the batch size is not positive, or the model is none that
                can be compiled.
            EnvironmentProblem: Weights cannot be packed here.
        """
        self.device, self.dtype = check_settings(device, dtype, batch_size)
        said: list[str] = []
        if dtype == "auto":
            self.dtype, said = choose(self.device, self.dtype, model.weights_hash, model.settings)
        self.notes = (*model.notes, *said)
        self.model = model.place(self.device, self.dtype)
        if packed:
            self.model.pack()
        if compiled:
            self.model.compile_network()
        self.name, self.batch_size, self.default_words, self._asked = name, batch_size, default_words, dict(asked or {})
        self._words: OrderedDict[tuple[Any, ...], Words] = OrderedDict()
        self._words_lock = threading.Lock()

    def words(self, classes: Classes = None, background: Policy = None, templates: str | None = None) -> Words:
        """Embed the words of a request; the same words cost nothing the next time.

        Args:
            classes: A list of names, ``"cat|kitten, sofa"``, a file, a preset name, a Vocabulary or
                Words; None for the model's own words, where it has some.
            background: ``none``, ``threshold:0.4``, ``words``, own words, or None for the model's default.
            templates: Name of a template set, or None for the model's default.

        Raises:
            VocabularyError: The words or the policy cannot be used, or none were given and the model has none.
            UnknownNameError: No such preset, policy or template set.
            ConfigError: Words that are embedded come with a policy or templates.
        """
        if isinstance(classes, Words):
            if background is not None or templates is not None:
                raise ConfigError("background or templates beside embedded words; give them to words() instead")
            return classes
        if classes is None and not self.default_words:
            raise VocabularyError("no classes were given; give them, for example segmenter(image, ['cat', 'sofa'])")
        vocabulary = Vocabulary.parse(self.default_words if classes is None else classes)
        policy = None if background is None else parse_background(background)
        # What is no part of what makes two vocabularies or policies equal, and yet goes into results.
        told = tuple((entry.color, entry.id) for entry in vocabulary), vocabulary.notes, policy and policy.notes
        key = (self.model.weights_hash, vocabulary, told, policy, templates)
        with self._words_lock:
            if key in self._words:
                self._words.move_to_end(key)
                return self._words[key]
        found: Words = self.model.words(vocabulary, policy, templates)
        with self._words_lock:
            self._words[key] = found
            while len(self._words) > WORDS_KEPT:
                self._words.popitem(last=False)
        return found

    def __call__(
        self,
        images: Any,
        classes: Classes = None,
        background: Policy = None,
        templates: str | None = None,
        want: Iterable[str] | None = None,
        **reading: Unpack[ReadOptions],
    ) -> Segmentation | list[Segmentation]:
        """Segment one image or several.

        Args:
            images: One image: a path, an open binary file, a PIL image, an (H, W, 3) uint8 array, a (3, H, W) tensor.
                Several: a list of them, a folder, a batch of four dimensions; see `ovseg.data.sources.is_several`.
            classes: As in `words`.
            background: As in `words`.
            templates: As in `words`.
            want: What is computed beside labels and scores: ``panoptic``, ``instances``, ``class_scores``; None for
                all that the model gives but the last.
            **reading: ``bands``, ``max_pixels`` and ``channels`` (``bgr`` for arrays of OpenCV) of
                `ovseg.data.images.read_image`.

        Returns:
            One result for one image, a list for several, also for a list of one.

        Raises:
            InputError: An image cannot be read.
            VocabularyError: The words cannot be used, or none were given and the model has none of its own.
            ConfigError: The model does not give what is wanted.
        """
        several = is_several(images)
        sources, wanted = expand_inputs(each_image(images)), self._wanted(want)  # mistakes come before work on words
        check_reading(**reading)
        start = time.perf_counter()
        words = self.words(classes, background, templates)
        results = list(self.stream(sources, words, wanted, None, time.perf_counter() - start, **reading))
        return results if several else results[0]

    def encode(self, image: Any, **reading: Unpack[ReadOptions]) -> EncodedImage:
        """Run everything that knows no words on an image, to ask about it as often as you like.

        Args:
            image: As a single image of `__call__`.
            **reading: As in `__call__`.

        Raises:
            InputError: The image cannot be read, or does not fit into memory.
        """
        return self._encode([self._prepare(image, **reading)])[0]

    def answer(
        self,
        encoded: EncodedImage,
        classes: Classes = None,
        background: Policy = None,
        templates: str | None = None,
        want: Iterable[str] | None = None,
    ) -> Segmentation:
        """Label an encoded image by words; arguments and errors as `__call__`."""
        wanted, start = self._wanted(want), time.perf_counter()
        words = self.words(classes, background, templates)
        return self._answer(encoded, words, wanted, time.perf_counter() - start)

    def stream(
        self,
        sources: Any,
        words: Classes = None,
        want: Iterable[str] | None = None,
        on_error: Report | None = None,
        words_seconds: float = 0.0,
        **reading: Unpack[ReadOptions],
    ) -> Iterator[Segmentation]:
        """Segment images one batch after another, in order, without keeping results.

        A list of paths and a folder are read ahead by threads, while the model works on the images before; whatever
        else comes is read when its turn comes. Mistakes in the request are errors of the call itself.

        Args:
            sources: One image or several, as in `__call__`; a generator is taken image by image.
            words: Of `words`, or what it takes.
            want: As in `__call__`.
            on_error: Called with the source and the error when an image cannot be read or does not fit into memory;
                that image is left out. Without it the error is raised.
            words_seconds: What the words took, for the timings of the results.
            **reading: As in `__call__`.
        """
        check_reading(**reading)
        read, wanted = partial(self._prepare, **reading), self._wanted(want)
        return self._stream(each_image(sources), read, self.words(words), wanted, on_error, words_seconds)

    def _stream(
        self,
        sources: Iterable[Any],
        prepare: Callable[[Any], _Prepared],
        words: Words,
        wanted: frozenset[str],
        on_error: Report | None,
        words_seconds: float,
    ) -> Iterator[Segmentation]:
        batch: list[tuple[Any, _Prepared]] = []
        for source, prepared in self._read(sources, prepare):
            try:
                batch.append((source, prepared()))
            except InputError as error:
                if on_error is None:
                    raise
                on_error(source, error)
            if len(batch) >= self.batch_size:
                yield from self._segment(batch, words, wanted, on_error, words_seconds)
                batch = []
        if batch:
            yield from self._segment(batch, words, wanted, on_error, words_seconds)

    def _wanted(self, want: Iterable[str] | None) -> frozenset[str]:
        return check_want(want, self.model.gives, self.name)

    def _read(
        self, sources: Iterable[Any], prepare: Callable[[Any], _Prepared]
    ) -> Iterator[tuple[Any, Callable[[], _Prepared]]]:
        """Yield each source with a function that gives its image, from threads where that changes nothing else."""
        if isinstance(sources, list) and all(isinstance(source, (str, Path)) for source in sources):
            threads = min(worker_threads(), len(sources) or 1)
            yield from overlapped(prepare, sources, threads, self.batch_size + threads)
        else:  # a generator may reuse its memory, and images in memory may be one and the same
            yield from ((source, partial(prepare, source)) for source in sources)

    def _prepare(self, source: Any, **reading: Unpack[ReadOptions]) -> _Prepared:
        """Read an image and bring it to the size in which the model sees it."""
        start = time.perf_counter()
        image = read_image(source, **reading)
        read = time.perf_counter()
        pixels = self.model.size_rule(image.pixels)
        if image.pixels.nbytes > LARGE:
            give_back(self.device)  # what decoding took of this thread, before labels and scores take as much
        return _Prepared(image, pixels, {"read": read - start, "preprocess": time.perf_counter() - read})

    def _encode(self, batch: list[_Prepared]) -> list[EncodedImage]:
        """Encode images together; the seconds of each are its share."""
        start = time.perf_counter()
        with fits(self.device, ", ".join(one.image.name for one in batch)):
            encoded = self.model.encode([one.pixels for one in batch])
        seconds = (time.perf_counter() - start) / len(batch)
        return [
            EncodedImage(one.image, encoded, index, {**one.timings, "model": seconds}, self)
            for index, one in enumerate(batch)
        ]

    def _segment(
        self,
        batch: list[tuple[Any, _Prepared]],
        words: Words,
        want: frozenset[str],
        on_error: Report | None,
        words_seconds: float,
    ) -> Iterator[Segmentation]:
        try:
            encoded = self._encode([image for _, image in batch])
        except InputError as error:
            if len(batch) > 1:  # whose fault it is shows when they come one by one
                for alone in batch:
                    yield from self._segment([alone], words, want, on_error, words_seconds)
                return
            if on_error is None:
                raise
            on_error(batch[0][0], error)
            return
        for (source, _), one in zip(batch, encoded, strict=True):
            try:
                result = self._answer(one, words, want, words_seconds)
            except InputError as error:
                if on_error is None:
                    raise
                on_error(source, error)
            else:
                yield result

    def _answer(self, one: EncodedImage, words: Words, want: frozenset[str], words_seconds: float) -> Segmentation:
        pixels, start = one.image.pixels, time.perf_counter()
        with fits(self.device, one.image.name):
            found = self.model.answer(one.encoded, one.index, (pixels.shape[0], pixels.shape[1]), words, want)
            every = None if found.class_scores is None else found.class_scores.float().cpu().numpy()
            labels, scores = found.labels.cpu().numpy(), found.scores.cpu().numpy()
        timings = {**one.timings, "model": one.timings["model"] + time.perf_counter() - start}
        timings |= {"seconds": sum(timings.values()), "words": words_seconds}
        meta = self._meta(one, words, want, {key: round(value, 4) for key, value in timings.items()})
        meta["notes"] += found.notes
        return Segmentation.from_labels(
            labels, scores, words.vocabulary, pixels, meta, found.panoptic, found.instances, every
        )

    def _meta(self, one: EncodedImage, words: Words, want: frozenset[str], timings: dict[str, float]) -> dict[str, Any]:
        """Say what made a result; timings are seconds per image, those of the words per request."""
        model, image = self.model, one.image
        return {
            "image": image.name,
            "path": str(image.path) if image.path else None,
            "size": list(image.pixels.shape[:2]),
            "network_size": list(one.encoded.sizes[one.index]),
            "model": self.name,
            **({"asked": self._asked} if self._asked else {}),
            "weights_hash": model.weights_hash,
            "vocabulary_hash": words.vocabulary.hash,
            "background": words.background.policy,
            "templates": words.templates,
            "want": sorted(want),
            "notes": [*image.notes, *dict.fromkeys((*words.notes, *self.notes))],
            "settings": model.settings,
            "batch_size": self.batch_size,
            "device": str(self.device),
            "dtype": str(self.dtype).removeprefix("torch."),
            "version": __version__,
            "timings": timings,
        }
