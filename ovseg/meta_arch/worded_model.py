"""What all architectures share: words, batches, precision, and the border to Detectron2. A model keeps no request."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import Self

from ovseg.checkpoint.hashing import hash_tensors
from ovseg.contract import CLASS_SCORES, LABELS, Answer, Encoded, Evidence, Words, check_point, check_want, identity
from ovseg.data.preprocessing import SizeRule
from ovseg.errors import ConfigError, InputError
from ovseg.labelling.calibration import Calibration, said_of, worth
from ovseg.meta_arch.by_example import Glimpse, with_pictures
from ovseg.meta_arch.compiled import Compiled
from ovseg.meta_arch.detectron2_format import WithWords, to_detectron2
from ovseg.ops.linear_layers import fast_products, pack_linears
from ovseg.system.device import CPU, to_device
from ovseg.system.values import plain
from ovseg.vocabulary import Background, TextCache, TextEmbedder, TextOptions, Vocabulary, parse_background
from ovseg.vocabulary.examples import Example
from ovseg.vocabulary.templates import check_templates

CLIP_WEIGHTS = re.compile(r"clip\.(?:members\.\d+\.)?model\.")
"""How the names of CLIP's weights start in the state dict of a model; those of an ensemble are its members'."""


class WordedModel(Compiled, nn.Module):
    """A model whose classes are words that come with every request; nothing in it depends on them.

    A model of this kind says how a batch of images of one size is seen (`see`) and how one of them is labelled
    (`label`). Everything else about `words`, `encode` and `answer` (see `ovseg.contract.SegmentationModel`) is here.

    The batch rule: images of one size share their passes, others do not meet inside a network, so the result of an
    image is the same in any company (up to the rounding of products over a batch). One option breaks it, and says so:
    ``batch_mean`` of ProxyCLIP, which is there to repeat its original.

    Attributes:
        clip: The frozen CLIP; its text tower embeds the words.
        size_rule: How large the network sees a photograph.
        text: How the texts of a vocabulary are engineered.
        default_templates, default_background: Those of the config.
        notes: What every result should say of the model, whatever the image and the words; a line each.
        calibration: What its scores are worth; None where that is not known. See `calibrate`.
    """

    size_rule: SizeRule
    raw_texts: ClassVar[bool] = False
    """Whether words are what the text tower gives, of its lengths; see `ovseg.vocabulary.TextEmbedder`."""
    templates_apart: ClassVar[bool] = False
    """Whether words keep a row for each template (T, M, D), and not their mean."""
    extra_packed: ClassVar[tuple[str, ...]] = ()
    """Names of the parts beside CLIP's trunk whose linear layers are packed, too."""

    def __init__(self, clip: Any, templates: str, background: str, text: TextOptions | None = None) -> None:
        """Check the words' settings of a config, so that its mistakes come to light before the first image."""
        super().__init__()
        self.clip = clip
        self.default_templates, self.default_background = check_templates(templates), parse_background(background)
        self.text = text or TextOptions()
        self._text_rests: torch.device | None = None
        self.notes: tuple[str, ...] = ()
        self.calibration: Calibration | None = None
        self._own_hash = ""

    @property
    def gives(self) -> frozenset[str]:
        """What can be wanted of the model; see `ovseg.contract.WANTS`."""
        return LABELS | {CLASS_SCORES}

    @property
    def scores_stand_alone(self) -> bool:
        """Whether scores are no shares among words: a threshold alone then says what a single class is not."""
        return False

    @property
    def settings(self) -> dict[str, Any]:
        """What makes results besides the weights and the words, as JSON values; recorded in every result."""
        return {
            "architecture": type(self).__name__,
            "clip": self.clip.name,
            "activation": self.clip.activation,
            "normalisation": [list(self.clip.mean), list(self.clip.std)],
            "size_rule": plain(asdict(self.size_rule)),
            "text": self.text.to_json(),
            **({"calibration": self.calibration.hash} if self.calibration else {}),
        }

    @property
    def weights_hash(self) -> str:
        """Hash of CLIP's weights and, after a plus, of those that are not CLIP's or are trained with the model."""
        return f"{self.clip.weights_hash}{self._own_hash}"

    def refresh_hash(self) -> None:
        """Read the hash of the weights that are not CLIP's alone; a model calls it when it has all of them."""
        own = [(key, value) for key, value in self.state_dict().items() if self.is_own(key)]
        if not any(value.is_meta for _, value in own):  # a model that is yet to be filled has no values
            self._own_hash = f"+{hash_tensors(own)}" if own else ""
        if self.calibration and self.calibration.weights != self.weights_hash:
            self.calibration = None  # it was that of other weights

    def calibrate(self, calibration: Calibration) -> None:
        """Let scores say what share of such pixels is right, from now on.

        Raises:
            ConfigError: The calibration is that of other weights or settings.
        """
        self.calibration = calibration.checked(self.weights_hash, self.settings)

    def is_own(self, key: str) -> bool:
        """Tell by its name whether a weight is not CLIP's alone."""
        return not CLIP_WEIGHTS.match(key)

    def train(self, mode: bool = True) -> Self:
        """Change the mode; behind training the weights are others, and so is their hash."""
        was_training = self.training
        super().train(mode)
        if was_training and not mode:
            if any(weight.requires_grad for weight in self.clip.parameters()):
                self.clip.refresh()
            self.refresh_hash()
        return self

    def load_state_dict(self, state_dict: Mapping[str, Any], *arguments: Any, **options: Any) -> Any:
        """Load weights as ever; the hash follows, and so does what was read of CLIP's weights."""
        result = super().load_state_dict(state_dict, *arguments, **options)
        if any(CLIP_WEIGHTS.match(key) for key in state_dict):
            self.clip.refresh()
        if not self.training:
            self.refresh_hash()
        return result

    @cached_property
    def text_cache(self) -> TextCache:
        """The cache of text embeddings, opened once, for it remembers what it has read of its files."""
        return TextCache()

    def words(
        self,
        vocabulary: Vocabulary,
        background: str | Background | Iterable[str] | None = None,
        templates: str | None = None,
    ) -> Words:
        """Embed the words of a request; what the cache on disk does not know yet goes through the text tower.

        Args:
            vocabulary: The classes.
            background: A policy; None is the one of the config.
            templates: Name of a template set; None is the one of the config.

        Raises:
            VocabularyError: The policy cannot be used.
            UnknownNameError: No such policy or template set.
            ConfigError: AutoCLIP has but one template, or the model cannot take the pictures of a class.
        """
        policy = parse_background(self.default_background if background is None else background).asked_of(self)
        chosen = templates or self.default_templates
        embedder = TextEmbedder(self.clip, chosen, self.text_cache, self.text, self.raw_texts)
        queries = embedder.embed_vocabulary(vocabulary, policy, self.templates_apart, self.scores_stand_alone)
        found = self.clip.weigh(queries, embedder.embed_sentences)
        if self._text_rests is not None:
            self.clip.move_text(self._text_rests)  # the images need the room, and few lists follow
        words = Words(
            embeddings=found.embeddings,
            query_to_class=found.query_to_class,
            texts=found.texts,
            notes=(*self.notes, *self.clip.notes, *found.notes, *said_of(self.calibration, policy)),
            classifier=found.classifier,
            vocabulary=vocabulary,
            background=policy,
            templates=chosen,
            embedded_by=self.clip.weights_hash,
        )
        return with_pictures(self, self.known(words.to(self.clip.device)))

    def known(self, words: Words) -> Words:
        """Return words with what the model finds out from them alone; most find out nothing."""
        return words

    def picture_row(self, examples: Sequence[Example]) -> Tensor | None:
        """Return the row (D,) of a class's pictures, of a model that has a way of its own; None for the usual one."""
        return None

    def look_at(self, seen: Any, network_size: tuple[int, int], mask: Tensor) -> Glimpse:
        """Say what an image shows inside and outside of a mask, where words are compared with it.

        Args:
            seen: What `see` gave for it.
            network_size: Height and width of the image that was seen.
            mask: (h, w) bool of that size.

        Raises:
            ConfigError: The model does not compare words with what lies inside of a mask.
        """
        raise ConfigError(
            f"{type(self).__name__} cannot take pictures as classes; give words alone, or use a training-free method, "
            "SAN, FC-CLIP, MAFT+, CAT-Seg, SED or CLIPSeg"
        )

    def encode(self, images: Sequence[Tensor]) -> Encoded:
        """Run everything that knows no words, once.

        Images of one size share their passes; others do not meet inside the network.

        Args:
            images: (3, h, w) RGB in 0..255 at the size of `size_rule`, of any dtype, on any device.

        Raises:
            InputError: One has another shape.
        """
        for image in images:
            if image.ndim != 3 or image.shape[0] != 3 or image.numel() == 0:
                raise InputError(f"got an image of shape {tuple(image.shape)}; expected (3, h, w) RGB in 0..255")
        groups: dict[tuple[int, ...], list[int]] = {}
        for index, image in enumerate(images):
            groups.setdefault(tuple(image.shape), []).append(index)
        seen: list[Any] = [None] * len(images)
        with torch.inference_mode(), nullcontext() if self._compiled else fast_products(self.clip.device):
            for members in groups.values():
                same = torch.stack([to_device(images[index], self.clip.device) for index in members])
                for index, one in zip(members, self.see(same), strict=True):
                    seen[index] = one
        sizes = tuple((image.shape[1], image.shape[2]) for image in images)
        return Encoded(tuple(seen), sizes, identity(self))

    def answer(
        self, encoded: Encoded, index: int, size: tuple[int, int], words: Words, want: frozenset[str] = LABELS
    ) -> Answer:
        """Label an encoded image by words.

        Args:
            encoded: Of this model.
            index: Number of the image in it.
            size: Height and width of the result in pixels.
            words: Of this model.
            want: See `ovseg.contract.WANTS`.

        Raises:
            UnknownNameError: There is no such thing to want.
            ConfigError: The model does not give it, or another model has encoded the image or embedded the words.
        """
        wanted = check_want(want, self.gives, type(self).__name__)
        encoded.check(self)
        words.check(self.clip.weights_hash)
        with torch.inference_mode(), fast_products(self.clip.device):
            found = self.label(encoded.images[index], encoded.sizes[index], size, words, wanted)
            return replace(found, scores=worth(found.scores, self.calibration, len(words.column_class)))

    def explain(
        self, encoded: Encoded, index: int, size: tuple[int, int], words: Words, point: tuple[int, int]
    ) -> Evidence:
        """Say what speaks for each class at a pixel (row, column) of an answer; the rest is as in `answer`.

        Raises:
            InputError: There is no such pixel.
            ConfigError: Another model has encoded the image or embedded the words.
        """
        check_point(point, size)
        encoded.check(self)
        words.check(self.clip.weights_hash)
        with torch.inference_mode():
            return self.evidence(encoded.images[index], encoded.sizes[index], size, words, point)

    def see(self, images: Tensor) -> list[Any]:
        """Run everything that knows no words on images of one size (B, 3, h, w) in 0..255; something for each."""
        raise NotImplementedError

    def label(
        self, seen: Any, network_size: tuple[int, int], size: tuple[int, int], words: Words, want: frozenset[str]
    ) -> Answer:
        """Label one of the images that `see` has seen; its scores may exceed 1.

        Args:
            seen: What `see` gave for it.
            network_size: Height and width of the image that was seen.
            size: Those of the result.
            words: See `words`.
            want: What to compute; the model gives all of it.
        """
        raise NotImplementedError

    def evidence(
        self, seen: Any, network_size: tuple[int, int], size: tuple[int, int], words: Words, point: tuple[int, int]
    ) -> Evidence:
        """Say what speaks for each class at a pixel (row, column); the other arguments are those of `label`."""
        raise NotImplementedError

    @classmethod
    def check_training(cls, cfg: Any) -> None:
        """Refuse a training that a config cannot start, before anything is read; most can.

        Raises:
            ConfigError: It cannot.
        """

    def start_training(self, words: Words) -> None:
        """Get to know the words of a training; most models have nothing to learn from them."""

    def losses(self, batched_inputs: Sequence[dict[str, Any]], words: Words) -> dict[str, Tensor]:
        """Return the weighted losses of a batch with targets, by name.

        Raises:
            ConfigError: Models of this kind are not trained.
        """
        raise ConfigError(f"{type(self).__name__} needs no training; use it as it is")

    def forward(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Any]] | dict[str, Tensor]:
        """Answer in Detectron2's format with all that the model gives, or in training return losses.

        Args:
            batched_inputs: ``image`` (3, h, w) RGB in 0..255 at network size, of any dtype; ``words`` of `words`, which
                `with_words` fills in; ``height``, ``width`` of the result (default: the image's own); in training also
                targets.

        Returns:
            For each image ``labels`` (H, W) int32 (-1 no class), ``scores`` (H, W) float32, ``sem_seg`` (K, H, W)
            float32 and, from models that give them, ``panoptic_seg`` and ``instances``. In training the losses.

        Raises:
            ConfigError: An image comes without words, or in training with others than the rest of its batch.
        """
        for entry in batched_inputs:
            if not isinstance(entry.get("words"), Words):
                raise ConfigError(
                    "an image came without words; call model.with_words(model.words(Vocabulary.parse(['cat', 'sofa'])))"
                    " and use what it returns in the model's place, or put words into entry['words']"
                )
        if self.training:
            words = batched_inputs[0]["words"]
            if any(entry["words"] is not words for entry in batched_inputs):
                raise ConfigError("images of one batch came with different words; train on one list, see with_words()")
            return self.losses(batched_inputs, words)
        encoded = self.encode([entry["image"] for entry in batched_inputs])
        found = []
        for index, entry in enumerate(batched_inputs):
            high, wide = encoded.sizes[index]
            size = (entry.get("height", high), entry.get("width", wide))
            found.append(to_detectron2(self.answer(encoded, index, size, entry["words"], self.gives)))
        return found

    def with_words(self, words: Words) -> WithWords:
        """Return a module that fills words into Detectron2's inputs and is else this model."""
        return WithWords(self, words)

    def place(self, device: torch.device, dtype: torch.dtype) -> Self:
        """Move to a device for inference, leave training mode, and choose the dtype of products.

        What a lower precision is for is the trunk of CLIP, most of the work: its products run in it, under autocast;
        norms and the sums of residual blocks, texts, trained heads and all that follows stay float32. The text tower
        waits on the CPU, for words are embedded once.

        Raises:
            ConfigError: It is in low precision already and shall be in another one; what was rounded stays so.
        """
        if self.clip.precision not in (torch.float32, dtype):
            raise ConfigError(
                f"the model is in {self.clip.precision} and asked for {dtype}; weights stay rounded, so load it anew"
            )
        low = dtype in (torch.bfloat16, torch.float16)
        self.eval().to(device, torch.float32 if low else dtype)
        self._text_rests = CPU
        if low:
            self.lower_trunk(dtype)
        return self

    def lower_trunk(self, dtype: torch.dtype) -> None:
        """Keep the weights of the products in a lower precision that see images: those of CLIP's trunk for most."""
        self.clip.lower(dtype)

    def pack(self) -> None:
        """Lay the weights of CLIP's trunk out for the CPU; see `ovseg.ops.linear_layers.PackedLinear`.

        Raises:
            EnvironmentProblem: They cannot be packed here.
        """
        self.clip.pack()
        pack_linears(self.get_submodule(name) for name in self.extra_packed)
