"""Alpha-CLIP: a CLIP that is told where to look by a fourth channel, without cutting or blanking the picture.

Sun et al., CVPR 2024, arXiv 2312.03818; github.com/SunzeY/AlphaCLIP. The patch embedding gets a convolution of its own
for the mask; all else of the vision transformer is as it was. The mask comes from elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ovseg.checkpoint.strict import translate
from ovseg.clip.open_clip_vit import ViTTower
from ovseg.errors import InputError

MEAN, STD = 0.5, 0.26
"""By which the mask in 0..1 is normalised: inside is 1.9231, outside -1.9231. All ones is plain CLIP's whole image."""
CHANNEL = "conv1_alpha.weight"
_ROUNDED = re.compile(r"(?:.*\.)?(?:conv1(?:_alpha)?|in_proj|out_proj|c_fc|c_proj)[._](?:weight|bias)|(?:.*\.)?proj")
_PACKED = re.compile(r"(.*\.attn\.in_proj)[._](weight|bias)")
_AT_ONCE = 32  # masks of an image that share a pass


def normalise_alpha(masks: Tensor) -> Tensor:
    """Return masks of any shape in 0..1, float, as the convolution was trained on them."""
    return (masks.float() - MEAN) / STD


class AlphaTower(nn.Module):
    """The image tower of Alpha-CLIP: a vision transformer of open_clip and a convolution for the mask.

    The tower stays that of the CLIP that it is taken from, and shares its weights; they are not among its own.
    """

    def __init__(self, tower: ViTTower) -> None:
        """Extend a tower by a convolution of zeros, so that no mask changes anything before it is trained."""
        super().__init__()
        patch = tower.patch_size
        self.conv1_alpha = nn.Conv2d(1, tower.width, patch, patch, bias=False)
        nn.init.zeros_(self.conv1_alpha.weight)
        self._tower = (tower,)  # not registered: its weights are CLIP's

    @property
    def tower(self) -> ViTTower:
        """The vision transformer."""
        return self._tower[0]

    def enter(self, patches: Tensor, alpha: Tensor) -> Tensor:
        """Return the tokens (B, 1 + P, C) that enter the first block.

        Args:
            patches: Of the patch embedding of one image or of as many as masks (1 or B, C, h, w).
            alpha: Normalised (B, 1, H, W).
        """
        own = self.conv1_alpha(alpha.to(self.conv1_alpha.weight.dtype))
        both = patches + own.to(patches.dtype)
        return self.tower.enter(both.flatten(2).mT, (both.shape[2], both.shape[3]), "bicubic")

    def forward(self, images: Tensor, alpha: Tensor) -> Tensor:
        """Embed regions.

        Args:
            images: Normalised (B, 3, H, W), or one (1, 3, H, W) that all masks are of, which is then seen once.
            alpha: Normalised masks (B, 1, H, W), see `normalise_alpha`.

        Returns:
            Embeddings (B, D), not of unit length.

        Raises:
            InputError: The sizes differ, or there is neither one image nor one for each mask.
        """
        if images.shape[2:] != alpha.shape[2:] or len(images) not in (1, len(alpha)) or alpha.shape[1] != 1:
            raise InputError(
                f"images are {tuple(images.shape)}, masks {tuple(alpha.shape)}; expected (1 or B, 3, H, W) and "
                "(B, 1, H, W) of the same size"
            )
        patches = self.tower.patches(images)
        parts = alpha.split(_AT_ONCE)
        shown = [patches] * len(parts) if len(images) == 1 else patches.split(_AT_ONCE)
        return torch.cat([self._run(self.enter(*pair)) for pair in zip(shown, parts, strict=True)])

    def _run(self, tokens: Tensor) -> Tensor:
        for block in self.tower.blocks:
            tokens = block(tokens)
        return self.tower.head(tokens)[1]

    def last_attention(self, images: Tensor, alpha: Tensor) -> Tensor:
        """Return the attention (B, heads, 1 + P, 1 + P) of the last block; arguments as `forward`."""
        tokens = self.enter(self.tower.patches(images), alpha)
        for block in self.tower.blocks[:-1]:
            tokens = block(tokens)
        return self.tower.blocks[-1].with_attention(tokens)[1]


def extend(state: Mapping[str, Tensor], half: bool = True) -> dict[str, Tensor]:
    """Return the state dict of an OpenAI CLIP as the authors extend it, by their names.

    Args:
        state: Of the whole CLIP, by OpenAI's names.
        half: Round to half precision what the original rounds: convolutions, linear layers and projections. The values
            stay float32.
    """
    found = {_renamed(key) if key.startswith("visual.") else key: value for key, value in state.items()}
    conv = found["visual.conv1.weight"]
    found[f"visual.{CHANNEL}"] = conv.new_zeros(len(conv), 1, *conv.shape[2:])
    if half:
        found = {key: value.half().to(value.dtype) if _is_rounded(key) else value for key, value in found.items()}
    return found


def _is_rounded(key: str) -> bool:
    return bool(_ROUNDED.fullmatch(key)) or key.endswith("text_projection")


def _renamed(key: str) -> str:
    """Return the authors' name of a tensor of the image tower; they write out the attention."""
    return _PACKED.sub(r"\1.\2", key)


def _own_name(key: str) -> str:
    return _PACKED.sub(r"\1_\2", key)


def bare(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a file without what the training script or a whole model puts before their names."""
    found = {key.removeprefix("module."): value for key, value in state.items()}
    if any(key.startswith("visual.") for key in found):
        found = {key.removeprefix("visual."): value for key, value in found.items() if key.startswith("visual.")}
    return found


def is_alpha(state: Mapping[str, Tensor]) -> bool:
    """Tell whether tensors are those of an image tower of Alpha-CLIP, as the authors release it."""
    return CHANNEL in bare(state)


def from_official(state: Mapping[str, Tensor], visual: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """Bring a released image tower to the names of open_clip, all of it and nothing else.

    Args:
        state: The bare state dict of the image tower; ``module.`` or ``visual.`` before the names is taken off.
        visual: State dict of the image tower that it shall fill; shapes alone are read.
        source: What to call the file in messages.

    Returns:
        Tensors by the names of ``visual``, and `CHANNEL`.

    Raises:
        WeightsError: A tensor is missing, unexpected, mis-shaped or not finite.
    """
    conv = visual["conv1.weight"]
    own = {**visual, CHANNEL: torch.empty(len(conv), 1, *conv.shape[2:], device="meta")}
    return translate(own, bare(state), _renamed, source, "Alpha-CLIP")


def fill(alpha: AlphaTower, state: Mapping[str, Tensor], source: str) -> None:
    """Load a released image tower into a CLIP and its convolution; the hash of the CLIP is to be refreshed.

    Raises:
        WeightsError: It does not fit.
    """
    visual = alpha.tower.visual
    found = from_official(state, visual.state_dict(), source)
    alpha.load_state_dict({CHANNEL: found.pop(CHANNEL)})
    visual.load_state_dict(found)


def to_official(alpha: AlphaTower) -> dict[str, Tensor]:
    """Return the whole image tower by the authors' names, as their files hold it."""
    own = {_renamed(key): value for key, value in alpha.tower.visual.state_dict().items()}
    return {**own, CHANNEL: alpha.conv1_alpha.weight.detach()}
