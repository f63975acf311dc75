"""The Segmenter: images and words in, `Segmentation` out. The API, the command line and evaluation all come here."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from ovseg.data.images import LoadedImage, expand_inputs, read_image
from ovseg.data.preprocessing import Preprocessor
from ovseg.device import resolve_device, resolve_dtype
from ovseg.errors import ConfigError, OvsegError
from ovseg.segmentation import Segmentation
from ovseg.vocabulary import Vocabulary, parse_background

if TYPE_CHECKING:
    pass

Words = Any  # whatever Vocabulary.parse accepts
Policy: TypeAlias = "str | Background | Iterable[str] | None"


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
    ) -> None:
        """Move a model to its device.

        Args:
            model: A meta architecture with `set_vocabulary`.
            name: Goes into the meta of results.
            device: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.
            dtype: ``auto``, ``fp32``, ``bf16`` or ``fp16``.
            batch_size: Images per call of the model; images of one size share their passes.

        Raises:
            ConfigError: The device or dtype is not available, or the batch size is not positive.
        """
        if batch_size < 1:
            raise ConfigError(f"batch size is {batch_size}; expected at least 1")
        self.device = resolve_device(device)
        self.dtype = resolve_dtype(dtype, self.device)
        self.model = model.eval().to(self.device, self.dtype)
        self.model.full_scores = False
        self.name, self.batch_size = name, batch_size
        protocol = model.protocol
        self.preprocess = Preprocessor(protocol.short_side, protocol.long_side, model.patch_size)
        self._words: tuple[Any, ...] = ()

    def set_vocabulary(self, classes: Words, background: Policy = None, templates: str | None = None) -> Vocabulary:
        """Choose the words for the following images; repeating the same words costs nothing.

        Args:
            classes: A list of names, ``"cat|kitten, sofa"``, a .txt or .json file, a preset name or a Vocabulary.
            background: ``none``, ``threshold:0.4``, ``words``, own words, or None for the model's default.
            templates: Name of a template set, or None for the model's default.

        Raises:
            VocabularyError: The words or the policy cannot be used.
        """
        vocabulary = Vocabulary.parse(classes)
        policy = parse_background(self.model.default_background if background is None else background)
        wanted = (vocabulary.to_json(), policy, templates)
        if wanted != self._words:
            self.model.set_vocabulary(vocabulary, policy, templates)
            self._words = wanted
        return vocabulary

    def __call__(
        self, images: Any, classes: Words = None, background: Policy = None, templates: str | None = None
    ) -> Segmentation | list[Segmentation]:
        """Segment one image or several.

        Args:
            images: A path, an open binary file, a PIL image, an (H, W, 3) uint8 array, a (3, H, W) tensor; or a list of
                them; or a folder.
            classes: As in `set_vocabulary`; None keeps the words set before.
            background: As in `set_vocabulary`.
            templates: As in `set_vocabulary`.

        Returns:
            One result for one image, a list for a list or a folder.

        Raises:
            InputError: An image cannot be read.
            VocabularyError: The words cannot be used, or none were ever given.
        """
        several = isinstance(images, (list, tuple)) or (isinstance(images, (str, Path)) and Path(images).is_dir())
        sources = expand_inputs(images)
        if classes is not None:
            self.set_vocabulary(classes, background, templates)
        elif background is not None or templates is not None:
            raise ConfigError("background or templates without classes; give the classes too")
        results = list(self.stream(sources))
        return results if several else results[0]

    def stream(
        self, sources: Iterable[Any], on_error: Callable[[Any, OvsegError], None] | None = None
    ) -> Iterator[Segmentation]:
        """Segment images one batch after another, in order, without keeping results.

        Args:
            sources: Single images, as in `__call__`.
            on_error: Called with the source and the error when an image cannot be read; that image is left out. Without
                it the error is raised.
        """
        batch: list[LoadedImage] = []
        for source in sources:
            try:
                batch.append(read_image(source))
            except OvsegError as error:
                if on_error is None:
                    raise
                on_error(source, error)
            if len(batch) >= self.batch_size:
                yield from self._segment(batch)
                batch = []
        if batch:
            yield from self._segment(batch)

    def _segment(self, batch: list[LoadedImage]) -> list[Segmentation]:
        start = time.perf_counter()
        inputs = []
        for image in batch:
            height, width = image.pixels.shape[:2]
            inputs.append({"image": self.preprocess(image.pixels), "height": height, "width": width})
        outputs = self.model(inputs)
        arrays = [(out["labels"].cpu().numpy(), out["scores"].float().cpu().numpy()) for out in outputs]
        seconds = (time.perf_counter() - start) / len(batch)
        return [
            Segmentation.from_labels(
                labels,
                scores,
                self.model.vocabulary,
                image.pixels,
                self._meta(image, tuple(entry["image"].shape[1:]), seconds),
            )
            for image, entry, (labels, scores) in zip(batch, inputs, arrays, strict=True)
        ]

    def _meta(self, image: LoadedImage, network_size: tuple[int, ...], seconds: float) -> dict[str, Any]:
        model = self.model
        return {
            "image": image.name,
            "path": str(image.path) if image.path else None,
            "model": self.name,
            "weights_hash": model.weights_hash,
            "vocabulary_hash": model.vocabulary.hash,
            "background": model.background.policy,
            "templates": self._words[2] or model.templates,
            "notes": [*image.notes, *model.queries.notes],
            "device": str(self.device),
            "dtype": str(self.dtype).removeprefix("torch."),
            "network_size": list(network_size),
            "timings": {"seconds": round(seconds, 4)},
        }
