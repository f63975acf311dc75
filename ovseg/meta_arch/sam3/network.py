"""SAM 3 as transformers has it, taken apart: an image once, phrases many at a time.

Its parts are touched here and in `ovseg.meta_arch.sam3.decoder` alone.

Nothing of transformers is changed. What does not depend on phrases is computed with the image: beside its features the
geometry token, the self-attention of the first layer of the encoder, and the convolutions of the finer levels, which
the pixel decoder applies to a sum of which only the other half knows the phrase.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import Self

from ovseg.checkpoint.hashing import hash_tensors
from ovseg.clip.hf.families import meaning
from ovseg.clip.hf.package import import_transformers
from ovseg.clip.normalise import normalise
from ovseg.errors import ConfigError, EnvironmentProblem
from ovseg.meta_arch.sam3.decoder import decode
from ovseg.ops.linear_layers import lower_products, pack_linears
from ovseg.system.device import CPU, to_device

_TEXT = threading.RLock()  # held by whoever runs or moves a text tower; of the process, for a model is also pickled


class SeenImage(NamedTuple):
    """What is kept of an image, or of one of its windows; (g, g) is the grid of patches.

    Attributes:
        attended: Tokens (g * g, C) behind the self-attention of the first layer of the encoder.
        middle: The level of twice the grid (C, 2g, 2g) behind the convolution that the pixel decoder has for it.
        fine: The level of four times the grid (C, 4g, 4g), likewise.
        geometry: The token (1, C) that stands behind those of each phrase; None where there is none.
    """

    attended: Tensor
    middle: Tensor
    fine: Tensor
    geometry: Tensor | None


class Found(NamedTuple):
    """What phrases (k) find in an image.

    Attributes:
        presence: Logits (k,) of the phrase being there at all.
        scores: Class logits (k, Q) of the queries, without presence.
        queries: (k, Q, C) behind the decoder.
        boxes: Those of the queries (k, Q, 4), centre and size in 0..1.
        pixels: Embeddings (k, C, 4g, 4g).
    """

    presence: Tensor
    scores: Tensor
    queries: Tensor
    boxes: Tensor
    pixels: Tensor


class Sam3Network(nn.Module):
    """The network of SAM 3, frozen. Threads may share it.

    Attributes:
        name: What to call it.
        model: transformers' `Sam3Model`.
        weights_hash: Of all weights and of the config that gives them meaning.
        mean, std: By which images are normalised, per channel of RGB in 0..1.
        notes: What is to be said of the weights.
    """

    mean = std = (0.5, 0.5, 0.5)
    notes: tuple[str, ...] = ()

    def __init__(self, model: Any, name: str = "SAM 3") -> None:
        """Freeze a built model."""
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        self.name, self.precision = name, torch.float32
        self.refresh()

    @property
    def config(self) -> Any:
        """That of transformers."""
        return self.model.config

    @property
    def activation(self) -> str:
        """Activation of the feed-forward networks of its image tower."""
        return str(self.config.vision_config.backbone_config.hidden_act)

    @property
    def side(self) -> int:
        """Height and width in pixels of what it sees."""
        return int(self.config.vision_config.backbone_config.image_size)

    @property
    def channels(self) -> int:
        """Channels of the tokens of phrases."""
        return int(self.model.text_projection.out_features)

    @property
    def _table(self) -> Tensor:
        found: Tensor = self.model.vision_encoder.backbone.embeddings.position_embeddings
        return found

    @property
    def device(self) -> torch.device:
        """Where the weights are that look at images."""
        return self._table.device

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of what is not in lower precision."""
        return self._table.dtype

    def refresh(self) -> None:
        """Read the hash from the weights; call it when weights were loaded over those it was built with."""
        config = json.dumps(meaning(self.config.to_dict()), sort_keys=True, default=str)
        self.weights_hash = hash_tensors(self.model.state_dict().items(), config)

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode, whatever the model around it does."""
        return super().train(False)

    def move_text(self, device: torch.device) -> None:
        """Bring the text tower to a device, for it is asked once a vocabulary; `read` fetches it back.

        It waits for threads that read phrases.
        """
        with _TEXT:
            self.model.text_encoder.to(device)
            self.model.text_projection.to(device)

    def _low_parts(self) -> list[nn.Module]:
        model = self.model
        return [model.vision_encoder, model.detr_encoder, model.detr_decoder, model.mask_decoder]

    def lower(self, precision: torch.dtype) -> None:
        """Keep the weights of products in bfloat16 or float16, but for those of texts and scores."""
        lower_products(self._low_parts(), precision)
        self.precision = precision

    def pack(self) -> None:
        """Lay weights out for the CPU; see `ovseg.ops.linear_layers.PackedLinear`.

        Raises:
            EnvironmentProblem: They cannot be packed here.
        """
        pack_linears(self._low_parts())

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context for products in `precision`."""
        low = self.precision != torch.float32
        return torch.autocast(self.device.type, self.precision) if low else nullcontext()

    @property
    def _cells(self) -> int:
        return (self.side // int(self.config.vision_config.backbone_config.patch_size)) ** 2

    def phrase_bytes(self) -> int:
        """Estimate the bytes that one phrase takes at the peak of the pixel decoder or of a layer of the encoder."""
        decoder, width = self.config.detr_decoder_config, self.channels
        pixels = 3 * width * 16 * self._cells
        bias = 2 * decoder.num_attention_heads * (decoder.num_queries + 1) * self._cells
        tokens = self._cells * (8 * width + self.config.detr_encoder_config.intermediate_size)
        return (4 if self.precision == torch.float32 else 2) * (pixels + bias + tokens)

    def map_bytes(self, masks: bool) -> int:
        """Return the bytes of the maps of a phrase in a window, with the masks of all its queries or without."""
        return 4 * 16 * self._cells * (1 + masks * int(self.config.detr_decoder_config.num_queries))

    def read(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return the tokens (k, n, C) float32 of phrases whose ids are (k, n), of which ``mask`` says which count.

        Threads take turns.
        """
        ids, counted = to_device(ids, self.device), to_device(mask.long(), self.device)
        with _TEXT:
            self.move_text(self.device)
            text = self.model.text_encoder(input_ids=ids, attention_mask=counted)
            found: Tensor = self.model.text_projection(text.last_hidden_state)
        return found.float()

    def squeeze(self, windows: Tensor) -> Tensor:
        """Bring windows (B, 3, h, w) in 0..255 to the square that it sees, in whole numbers as the authors."""
        if tuple(windows.shape[2:]) == (self.side, self.side):
            return to_device(windows, self.device)
        whole = windows.to(CPU).float().round().clamp(0, 255).to(torch.uint8)
        small = F.interpolate(whole, (self.side, self.side), mode="bilinear", antialias=True, align_corners=False)
        return to_device(small, self.device)

    def normal(self, windows: Tensor) -> Tensor:
        """Return windows (B, 3, h, w) in 0..255 as `see` takes them."""
        return normalise(self.squeeze(windows).float() / 255, self.mean, self.std).to(self.dtype)

    def see(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Return what `SeenImage` keeps of images (B, 3, S, S), normalised, each with a first axis of images."""
        tower = self.model.vision_encoder
        with self.autocast():
            tokens = self._image_tokens(tower.backbone, pixels)
            fine, middle, coarse = (layer(tokens) for layer in tower.neck.fpn_layers[:3])
            flat = coarse.flatten(2).mT
            place = self._places(coarse)
            layer = self.model.detr_encoder.layers[0]
            normal = layer.layer_norm1(flat)
            attended = flat + layer.self_attn(query=normal + place, key=normal + place, value=normal)[0]
            decoder = self.model.mask_decoder.pixel_decoder
            middle, fine = decoder.conv_layers[0](middle), decoder.conv_layers[1](fine)
            laid_out = (level.contiguous(memory_format=torch.channels_last) for level in (middle, fine))
            return attended, *laid_out, self._geometry(flat, place)  # as tokens lie, to which they are added

    @staticmethod
    def _image_tokens(backbone: Any, pixels: Tensor) -> Tensor:
        """Return what leaves the vision transformer, (B, D, g, g)."""
        patch = backbone.config.patch_size
        grid = (pixels.shape[2] // patch, pixels.shape[3] // patch)
        hidden = backbone.layer_norm(backbone.embeddings(pixels).unflatten(1, grid))
        for layer in backbone.layers:
            hidden = layer(hidden)
        return hidden.permute(0, 3, 1, 2)

    def pooled(self, pixels: Tensor) -> Tensor:
        """Return the mean (B, C) float32 over places of the level of the patches, of normalised images (B, 3, S, S).

        It is what the authors' code calls the features of an image.
        """
        tower = self.model.vision_encoder
        with self.autocast():
            level: Tensor = tower.neck.fpn_layers[2](self._image_tokens(tower.backbone, pixels))
        return level.float().mean((2, 3))

    def _places(self, level: Tensor) -> Tensor:
        """Return the position encoding (1, h * w, C) of a level (B, C, h, w)."""
        encoding = self.model.vision_encoder.neck.position_encoding
        found: Tensor = encoding((1, *level.shape[1:]), level.device, self.dtype)
        return found.flatten(2).mT

    def _geometry(self, tokens: Tensor, place: Tensor) -> Tensor:
        """Let the geometry token look at the tokens (B, N, C) of images: (B, 1, C)."""
        encoder = self.model.geometry_encoder
        found = encoder.prompt_layer_norm(encoder.final_proj(encoder.cls_embed.weight))[None].expand(len(tokens), 1, -1)
        for layer in encoder.layers:
            found = layer(found, tokens, place, None)
        normal: Tensor = encoder.output_layer_norm(found)
        return normal

    def ask(self, seen: SeenImage, tokens: Tensor, mask: Tensor) -> Found:
        """Look for phrases in an image.

        Args:
            seen: The image.
            tokens: Of the phrases (k, n, C); they need not be those of texts alone.
            mask: Which of them count, (k, n) bool.
        """
        if seen.geometry is not None:
            tokens = torch.cat([tokens, seen.geometry.to(tokens)[None].expand(len(tokens), -1, -1)], 1)
            mask = F.pad(mask, (0, 1), value=True)
        grid = (seen.middle.shape[1] // 2, seen.middle.shape[2] // 2)
        tokens = tokens.to(self.dtype)
        with self.autocast():
            place = self._places(seen.middle[None, :, : grid[0], : grid[1]])
            hidden = self._fuse(seen.attended, place, tokens, mask)
            presence, queries, boxes = decode(self.model.detr_decoder, hidden, place, grid, tokens, mask)
            scores = self.model.dot_product_scoring(queries[None].to(self.dtype), tokens, mask)[0, ..., 0]
            pixels = self._pixels(seen, hidden, tokens, mask)
        return Found(presence, scores, queries, boxes, pixels)

    def _fuse(self, attended: Tensor, place: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """Run the encoder behind its first self-attention: tokens (k, N, C) of the image as each phrase sees it."""
        first, *rest = self.model.detr_encoder.layers
        seen_by = mask[:, None, None].expand(-1, 1, len(attended), -1)
        alone = first.layer_norm2(attended)[None].expand(len(tokens), -1, -1)
        hidden = attended + first.cross_attn(query=alone, key=tokens, value=tokens, attention_mask=seen_by)[0]
        hidden = hidden + first.mlp(first.layer_norm3(hidden))
        for layer in rest:
            hidden = layer(hidden, tokens, place, seen_by)
        return hidden

    def _pixels(self, seen: SeenImage, hidden: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """Run the mask head up to the embeddings of pixels (k, C, 4g, 4g)."""
        head, decoder = self.model.mask_decoder, self.model.mask_decoder.pixel_decoder
        seen_by = mask[:, None, None].expand(-1, 1, hidden.shape[1], -1)
        looked = head.prompt_cross_attn(
            query=head.prompt_cross_attn_norm(hidden), key=tokens, value=tokens, attention_mask=seen_by
        )[0]
        maps = (hidden + looked).mT.unflatten(2, (seen.middle.shape[1] // 2, -1))
        for level, conv, norm in zip((seen.middle, seen.fine), decoder.conv_layers, decoder.norms, strict=False):
            maps = norm(doubled(maps, conv.weight).add_(level)).relu_()
        return maps

    def semantic(self, found: Found) -> Tensor:
        """Return the semantic logits (k, 4g, 4g) of phrases."""
        with self.autocast():
            logits: Tensor = self.model.mask_decoder.semantic_projection(found.pixels)
        return logits[:, 0].float()

    def masks(self, found: Found, phrase: int, queries: Tensor) -> Tensor:
        """Return the mask logits (n, 4g, 4g) of some queries (n,) of a phrase.

        The projection of the pixels is applied to the queries, which are few.
        """
        head = self.model.mask_decoder
        with self.autocast():
            rows = head.mask_embedder(found.queries[phrase, queries]).float()
        weight, bias = head.instance_projection.weight.flatten(1).float(), head.instance_projection.bias.float()
        with self.autocast():
            logits = torch.einsum("nc,chw->nhw", rows @ weight, found.pixels[phrase].to(rows))
        return logits.float() + (rows @ bias)[:, None, None]


def doubled(maps: Tensor, weight: Tensor) -> Tensor:
    """Convolve maps (k, I, h, w) by a 3 x 3 kernel (O, I, 3, 3) after doubling them by the nearest pixel.

    The doubling is folded into the kernel: of the nine products of each pixel there are but four different ones.
    """
    flipped = weight.flip(2, 3).transpose(0, 1)
    summed = F.pad(flipped, (1, 0, 1, 0)) + F.pad(flipped, (0, 1, 1, 0))
    kernel = summed + F.pad(flipped, (1, 0, 0, 1)) + F.pad(flipped, (0, 1, 0, 1))
    return F.conv_transpose2d(maps, kernel, stride=2, padding=1)


def build_network(config: Mapping[str, Any], name: str, empty: bool = False) -> Sam3Network:
    """Build the network of a config, in float32.

    Args:
        config: As transformers writes it; empty for the released one.
        name: What to call it in messages.
        empty: Its weights are to be loaded; else they are random.

    Raises:
        EnvironmentProblem: transformers is not installed, or too old.
        ConfigError: transformers refuses the config.
    """
    transformers = import_transformers(f"{name}, a Sam3Model,", "sam3")
    if not hasattr(transformers, "Sam3Model"):
        raise EnvironmentProblem(
            f"transformers {transformers.__version__} has no Sam3Model; run `pip install -U 'ovseg[sam3]'`"
        )
    try:
        own = transformers.Sam3Config.from_dict(dict(config))
        own._attn_implementation = "sdpa"
        with torch.device("meta" if empty else CPU):
            model = transformers.Sam3Model(own)
    except Exception as error:  # transformers checks configs by a validator of its own, which raises anything
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ConfigError(f"transformers cannot build {name} from its config: {reason}") from error
    model.float()
    if empty:
        model.to_empty(device=CPU)
        _fill_buffers(model, name)
    return Sam3Network(model, name)


def _fill_buffers(model: Any, name: str) -> None:
    """Fill the buffers that no file holds.

    Raises:
        EnvironmentProblem: There is one of which is not known what it holds.
    """
    for layer in model.vision_encoder.backbone.layers:
        layer.position_ids.copy_(layer.precompute_positions(layer.config, layer.window_size))
        frequencies = layer.rotary_emb.compute_axial_rope_parameters(layer.config)[0]
        layer.rotary_emb.inv_freq.copy_(frequencies)
        layer.rotary_emb.original_inv_freq.copy_(frequencies)
    stored, filled = model.state_dict().keys(), ("inv_freq", "layers.")
    for key, buffer in model.named_buffers():
        if key in stored or (key.startswith("vision_encoder.backbone.layers.") and any(f in key for f in filled)):
            continue
        if not key.endswith("embeddings.position_ids"):
            raise EnvironmentProblem(f"this version of transformers keeps {key} in {name}, which is not known here")
        buffer.copy_(torch.arange(buffer.shape[-1]).expand_as(buffer))
