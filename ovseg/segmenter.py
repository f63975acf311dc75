"""The Segmenter: images and words in, `Segmentation` out. The API, the command line and evaluation all come here."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np
import torch

from ovseg._version import __version__
from ovseg.data.images import LoadedImage, expand_inputs, read_image
from ovseg.data.preprocessing import Preprocessor
from ovseg.device import resolve_device, resolve_dtype
from ovseg.errors import ConfigError, InputError, VocabularyError
from ovseg.overlap import overlapped, worker_threads
from ovseg.panoptic import read_outputs
from ovseg.segmentation import Segmentation
from ovseg.vocabulary import Vocabulary

if TYPE_CHECKING:
    from ovseg.vocabulary import Background

Words: TypeAlias = Any  # whatever Vocabulary.parse accepts
Result = TypeVar("Result")
Policy: TypeAlias = "str | Background | Iterable[str] | None"


def check_settings(
    device: str | torch.device, dtype: str | torch.dtype, batch_size: int
) -> tuple[torch.device, torch.dtype]:
    """Resolve device and dtype and check the batch size.

    Raises:
        ConfigError: The device or dtype is not available, or the batch size is not positive.
    """
    if batch_size < 1:
        raise ConfigError(f"batch size is {batch_size}; expected at least 1")
    where = resolve_device(device)
    precision = resolve_dtype(dtype, where)
    if not precision.is_floating_point:
        raise ConfigError(f"dtype is {precision}; expected auto, fp32, bf16 or fp16")
    return where, precision


@dataclass(frozen=True, eq=False)
class _Prepared:
    """An image, its pixels (3, h, w) uint8 for the model, and the seconds that their resizing took."""

    image: LoadedImage
    pixels: torch.Tensor
    seconds: float


def _read_arrays(out: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    return out["labels"].cpu().numpy(), out["scores"].float().cpu().numpy(), read_outputs(out)


class Segmenter:
    """A model with its size rule on a device.

    Attributes:
        model: The meta architecture; takes Detectron2's inputs.
        name: What the model was loaded as.
        device: Where it runs.
        dtype: In what precision.
    """

    def __init__(
        self,
        model: Any,
        name: str,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype = "auto",
        batch_size: int = 1,
        default_words: str = "",
        packed: bool = False,
        compiled: bool = False,
    ) -> None:
        """Move a model to its device.

        On the CPU ``auto`` is fp32: numbers change only for who asks. Where the CPU multiplies bfloat16 (AMX, AVX-512
        BF16), bf16 makes models several times faster; what of them it leaves in fp32, `MaskModel.place` says.

        Args:
            model: A meta architecture with `set_vocabulary`.
            name: Goes into the meta of results.
            device: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.
            dtype: ``auto``, ``fp32``, ``bf16`` or ``fp16``.
            batch_size: Images per call of the model; images of one size share their passes.
            default_words: What the model segments by when no classes were given; empty for nothing.
            packed: Lay weights out once as the CPU multiplies them: on AMD's processors twice as fast in fp32, on all
                with bfloat16 faster in bf16, elsewhere no gain. Results differ by rounding alone.
            compiled: Let `torch.compile` compile the network; the first image takes a minute or more.

        Raises:
            ConfigError: The device or dtype is not available, the batch size is not positive, or the model is none that
                can be packed or compiled.
            EnvironmentProblem: Weights cannot be packed here.
        """
        self.device, self.dtype = check_settings(device, dtype, batch_size)
        self.model = model.eval().place(self.device, self.dtype)
        if packed:
            self.model.pack()
        if compiled:
            self.model.compile_network()
        self.model.full_scores = False
        self.name, self.batch_size, self.default_words = name, batch_size, default_words
        protocol = model.protocol
        self.preprocess = Preprocessor(protocol.short_side, protocol.long_side, model.patch_size, protocol.aspect)
        self._words_seconds = 0.0

    def set_vocabulary(
        self, classes: Words = None, background: Policy = None, templates: str | None = None
    ) -> Vocabulary:
        """Choose the words for the following images; repeating the same words costs nothing.

        Args:
            classes: A list of names, ``"cat|kitten, sofa"``, a .txt or .json file, a preset name or a Vocabulary; None
                for the model's own words, where it has some.
            background: ``none``, ``threshold:0.4``, ``words``, own words, or None for the model's default.
            templates: Name of a template set, or None for the model's default.

        Raises:
            VocabularyError: The words or the policy cannot be used.
            UnknownNameError: No such preset, policy or template set.
        """
        start = time.perf_counter()
        if classes is None and not self.default_words:
            raise VocabularyError("no classes were given yet; give them, for example segmenter(image, ['cat', 'sofa'])")
        vocabulary = Vocabulary.parse(self.default_words if classes is None else classes)
        self.model.set_vocabulary(vocabulary, background, templates)
        self._words_seconds = time.perf_counter() - start
        return vocabulary

    def __call__(
        self, images: Any, classes: Words = None, background: Policy = None, templates: str | None = None
    ) -> Segmentation | list[Segmentation]:
        """Segment one image or several.

        Args:
            images: A path, an open binary file, a PIL image, an (H, W, 3) uint8 array, a (3, H, W) tensor; or a list of
                them; or a folder.
            classes: As in `set_vocabulary`; None keeps the words set before, if any.
            background: As in `set_vocabulary`.
            templates: As in `set_vocabulary`.

        Returns:
            One result for one image, a list for a list or a folder.

        Raises:
            InputError: An image cannot be read.
            VocabularyError: The words cannot be used, or none were ever given.
        """
        several = isinstance(images, (list, tuple)) or (isinstance(images, (str, Path)) and Path(images).is_dir())
        several = several or (isinstance(images, Iterator) and not hasattr(images, "read"))
        unset = self.model.vocabulary is None
        if classes is not None or (unset and self.default_words):
            self.set_vocabulary(classes, background, templates)
        elif background is not None or templates is not None:
            raise ConfigError("background or templates without classes; give the classes too")
        elif unset:
            self.set_vocabulary()
        results = list(self.stream(expand_inputs(images)))
        return results if several else results[0]

    def stream(
        self, sources: Iterable[Any], on_error: Callable[[Any, InputError], None] | None = None
    ) -> Iterator[Segmentation]:
        """Segment images one batch after another, in order, without keeping results.

        A list of paths is read ahead by threads, while the model works on the images before; whatever else comes is
        read when its turn comes.

        Args:
            sources: Single images, as in `__call__`.
            on_error: Called with the source and the error when an image cannot be read or does not fit into memory;
                that image is left out. Without it the error is raised.
        """
        batch: list[tuple[Any, _Prepared]] = []
        for source, prepared in self._read(sources):
            try:
                batch.append((source, prepared()))
            except InputError as error:
                if on_error is None:
                    raise
                on_error(source, error)
            if len(batch) >= self.batch_size:
                yield from self._segment_or_report(batch, on_error)
                batch = []
        if batch:
            yield from self._segment_or_report(batch, on_error)

    def _read(self, sources: Iterable[Any]) -> Iterator[tuple[Any, Callable[[], _Prepared]]]:
        """Yield each source with a function that gives its image, from threads where that changes nothing else."""
        if isinstance(sources, list) and all(isinstance(source, (str, Path)) for source in sources):
            threads = min(worker_threads(), len(sources) or 1)
            yield from overlapped(self._prepare, sources, threads, self.batch_size + threads)
        else:  # a generator may reuse its memory, and images in memory may be one and the same
            yield from ((source, partial(self._prepare, source)) for source in sources)

    def _prepare(self, source: Any) -> _Prepared:
        """Read an image and bring it to the size in which the model sees it."""
        image = read_image(source)
        start = time.perf_counter()
        return _Prepared(image, self.preprocess(image.pixels), time.perf_counter() - start)

    def _segment_or_report(
        self, batch: list[tuple[Any, _Prepared]], on_error: Callable[[Any, InputError], None] | None
    ) -> list[Segmentation]:
        try:
            return self._segment([image for _, image in batch])
        except InputError as error:
            if on_error is None:
                raise
            for source, _ in batch:
                on_error(source, error)
            return []

    def class_scores(self, source: Any) -> np.ndarray:
        """Return the scores (K, H, W) float32 of all classes in an image, where there are few.

        Words of the background compete and have no map of their own; a threshold is not applied.

        Raises:
            InputError: The image cannot be read, or does not fit into memory.
            ConfigError: No vocabulary has been set.
        """
        before, self.model.full_scores = self.model.full_scores, True
        try:
            scores: np.ndarray = self._run([self._prepare(source)], lambda out: out["sem_seg"].float().cpu().numpy())[0]
        finally:
            self.model.full_scores = before
        return scores

    def _run(self, batch: list[_Prepared], read: Callable[[dict[str, Any]], Result]) -> list[Result]:
        """Call the model and read its outputs, image by image."""
        inputs = []
        for one in batch:
            height, width = one.image.pixels.shape[:2]
            inputs.append({"image": one.pixels, "height": height, "width": width})
        try:
            return [read(out) for out in self.model(inputs)]
        except RuntimeError as error:
            if "out of memory" not in str(error) and "can't allocate memory" not in str(error):
                raise
            names = ", ".join(one.image.name for one in batch)
            raise InputError(
                f"{names} does not fit into the memory of {self.device}; use a smaller batch size"
            ) from error

    def _segment(self, batch: list[_Prepared]) -> list[Segmentation]:
        start = time.perf_counter()
        found = self._run(batch, _read_arrays)
        timings = {"preprocess": sum(one.seconds for one in batch), "model": time.perf_counter() - start}
        timings = {key: round(seconds / len(batch), 4) for key, seconds in timings.items()}
        timings |= {"seconds": round(sum(timings.values()), 4), "words": round(self._words_seconds, 4)}
        return [
            Segmentation.from_labels(
                labels,
                scores,
                self.model.vocabulary,
                one.image.pixels,
                self._meta(one.image, tuple(one.pixels.shape[1:]), timings),
                **part,
            )
            for one, (labels, scores, part) in zip(batch, found, strict=True)
        ]

    def _meta(self, image: LoadedImage, network_size: tuple[int, ...], timings: dict[str, float]) -> dict[str, Any]:
        """Say what made a result; timings are seconds per image, those of the words per vocabulary."""
        model = self.model
        return {
            "image": image.name,
            "path": str(image.path) if image.path else None,
            "size": list(image.pixels.shape[:2]),
            "network_size": list(network_size),
            "model": self.name,
            "weights_hash": model.weights_hash,
            "vocabulary_hash": model.vocabulary.hash,
            "background": model.background.policy,
            "templates": model.templates,
            "notes": [*image.notes, *model.queries.notes],
            "settings": model.settings,
            "device": str(self.device),
            "dtype": str(self.dtype).removeprefix("torch."),
            "version": __version__,
            "timings": timings,
        }
