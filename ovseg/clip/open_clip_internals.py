"""Building models of open_clip, and its vision transformers from inside; `resnet` and `convnext` are its other towers.

Only leaf modules are called (convolution, norms, linear layers), never open_clip's own blocks, so it makes no
difference whether a version keeps tokens sequence-first or batch-first, or attends by ``nn.MultiheadAttention`` or by
its own class.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovseg.clip.position import resize_position
from ovseg.clip.tokens import ATTENTION, CLASS_EMBEDDING, CLASS_TOKEN, DENSE, HEADS_ADD, STREAM, Block
from ovseg.errors import ConfigError, EnvironmentProblem
from ovseg.ops.linear_layers import PackedLinear
from ovseg.system.device import CPU

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)


def import_open_clip() -> ModuleType:
    """Import open_clip at first use.

    Raises:
        EnvironmentProblem: It is not installed or cannot be imported.
    """
    try:
        import open_clip
    except (ImportError, RuntimeError) as error:  # RuntimeError: torch and torchvision of different builds
        reason = str(error).splitlines()[0]
        raise EnvironmentProblem(f"cannot import open_clip ({reason}); run `pip install open_clip_torch`") from error
    return open_clip


class OpenClipBlock(Block):
    """One residual attention block of open_clip as leaf operations."""

    def __init__(self, module: Any) -> None:
        """Adapt a block; see `check_block` for what cannot be adapted."""
        check_block(module)
        self.module = module
        self.attn = module.attn
        self._packed: PackedLinear | None = None  # takes the place of the weights of queries, keys and values
        self.heads: int = self.attn.num_heads
        self.scale: float = (self.attn.in_proj_weight.shape[1] // self.heads) ** -0.5

    @property
    def norm_behind_heads(self) -> bool:
        """Whether what the heads give is normed together, so that attention is no sum over them."""
        norms = (getattr(self.module, "ln_attn", None), getattr(self.attn, "ln_inner", None))
        return any(isinstance(norm, nn.LayerNorm) for norm in norms)

    def norm(self, tokens: Tensor) -> Tensor:
        """Return the tokens (B, N, C) as the attention sees them, after the first norm."""
        return self.module.ln_1(tokens)

    def qkv(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values, each (B, heads, N, d), of tokens (B, N, C); the first norm is inside."""
        normed = self.norm(tokens)
        if self._packed is None:
            joined = F.linear(normed, self.attn.in_proj_weight, self.attn.in_proj_bias)
        else:
            joined = self._packed(normed)
        query, key, value = joined.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        # nn.MultiheadAttention has no norms of queries and keys; open_clip's own class has, perhaps identities.
        return getattr(self.attn, "ln_q", _same)(query), getattr(self.attn, "ln_k", _same)(key), value

    def project(self, heads: Tensor) -> Tensor:
        """Join heads (B, heads, N, d) to what a block adds to its tokens (B, N, C): out_proj, bias, layer scale."""
        if getattr(self.attn, "head_scale", None) is not None:
            heads = heads * self.attn.head_scale
        joined = getattr(self.attn, "ln_inner", _same)(heads.transpose(1, 2).flatten(2))
        return self.module.ls_1(getattr(self.module, "ln_attn", _same)(self.attn.out_proj(joined)))

    def second_norm(self, tokens: Tensor) -> Tensor:
        """Return the tokens (B, N, C) as the feed-forward half sees them."""
        return self.module.ln_2(tokens)

    def feed_forward(self, tokens: Tensor) -> Tensor:
        """Return what the feed-forward half adds to tokens (B, N, C)."""
        hidden = self.second_norm(tokens)
        for part in self.module.mlp:
            in_place = type(part).__name__ == "QuickGELU" and not torch.is_grad_enabled()
            hidden = _quick_gelu_(hidden) if in_place else part(hidden)
        return self.module.ls_2(hidden)

    def pack_attention(self) -> None:
        """Lay the weights of the attention out for the CPU; open_clip's own forward pass cannot run after that.

        They are no plain linear layers, so `ovseg.ops.linear_layers.pack_linears` leaves them alone.

        Raises:
            EnvironmentProblem: They cannot be packed here.
        """
        if self._packed is not None:
            return
        self._packed = PackedLinear.of(self.attn.in_proj_weight, self.attn.in_proj_bias)
        self.attn.out_proj = PackedLinear.of(self.attn.out_proj.weight, self.attn.out_proj.bias)
        self.attn.in_proj_weight = None  # its memory


class ViTTower:
    """An open_clip vision transformer as embedding, blocks and head; the parts of `ovseg.clip.tower.Tower`."""

    prefix = 1

    def __init__(self, visual: Any) -> None:
        """Adapt a tower; see `check_tower` for what is refused."""
        check_tower(visual)
        self.visual = visual
        self.patch_size: int = self.visual.conv1.kernel_size[0]
        self.width: int = self.visual.conv1.out_channels
        self.table_grid: tuple[int, int] = tuple(self.visual.grid_size)
        size = self.visual.image_size
        self.image_size: int = size if isinstance(size, int) else min(size)
        self.embed_dim: int = self.visual.proj.shape[1]
        self.blocks = [OpenClipBlock(module) for module in self.visual.transformer.resblocks]

    @property
    def has(self) -> frozenset[str]:
        """What methods may need of it."""
        found = {DENSE, STREAM, ATTENTION, CLASS_TOKEN}
        found |= {CLASS_EMBEDDING} if self.visual.pool_type == "tok" else set()
        return frozenset(found if any(block.norm_behind_heads for block in self.blocks) else found | {HEADS_ADD})

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the weights."""
        return self.visual.conv1.weight.dtype

    @property
    def body(self) -> list[nn.Module]:
        """The modules of the blocks, without what is before and behind them."""
        return [self.visual.transformer]

    def position(self, grid: tuple[int, int], rule: str, table: Tensor | None = None) -> Tensor:
        """Return the position embeddings (1 + h * w, C) of a patch grid, class token first.

        Args:
            grid: Rows and columns.
            rule: Of `ovseg.clip.position`.
            table: Takes the place of CLIP's own table (1 + g_h * g_w, C), for models that train it.
        """
        own = self.visual.positional_embedding if table is None else table
        return resize_position(own, self.table_grid, grid, rule)

    def embed(
        self, images: Tensor, rule: str, table: Tensor | None = None, rounding: torch.dtype | None = None
    ) -> tuple[Tensor, tuple[int, int]]:
        """Return the tokens (B, 1 + h * w, C) that enter the first block, and the grid; see `Tower.embed`."""
        patches = self.visual.conv1(images.to(self.dtype))
        grid = (patches.shape[2], patches.shape[3])
        cls = self.visual.class_embedding.to(patches.dtype).expand(len(patches), 1, -1)
        tokens = torch.cat([cls, patches.flatten(2).mT], dim=1)
        position = self.position(grid, rule, table)
        return self.visual.ln_pre(tokens + position.to(rounding or tokens.dtype).to(tokens.dtype)), grid

    def patches_to_joint(self, tokens: Tensor) -> Tensor:
        """Project tokens (B, N, C), each by itself, to the joint space (B, N, D)."""
        projection = self.visual.proj
        # What left blocks of lower precision is lower, too, and is projected outside of their autocast by some methods.
        return self.visual.ln_post(tokens.to(projection.dtype)) @ projection

    def linear_head(self) -> tuple[nn.LayerNorm, Tensor]:
        """Return the last norm and the projection (C, D) behind it."""
        return self.visual.ln_post, self.visual.proj

    def head(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Project tokens (B, 1 + N, C) to the joint space.

        Returns:
            All tokens (B, 1 + N, D), and the embedding (B, D) of the image by the tower's own pooling.
        """
        joint = self.patches_to_joint(tokens)
        if self.visual.pool_type == "tok":
            return joint, joint[:, 0]
        if getattr(self.visual, "final_ln_after_pool", False):
            return joint, self.patches_to_joint(tokens[:, 1:].mean(1))
        return joint, joint[:, 1:].mean(1)


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _quick_gelu_(hidden: Tensor) -> Tensor:
    """Replace x by ``x * sigmoid(1.702 x)``; open_clip's module makes three new tensors of the widest layer for it."""
    return F.silu(hidden.mul_(1.702), inplace=True).mul_(1 / 1.702)


def check_block(module: Any) -> None:
    """Refuse a block whose attention is not the usual one.

    Raises:
        EnvironmentProblem: The installed open_clip builds blocks of a kind that is not known here.
        ConfigError: The model uses cosine-scaled attention.
    """
    attn = getattr(module, "attn", None)
    parts = ("num_heads", "in_proj_weight", "out_proj")
    if attn is None or any(getattr(attn, part, None) is None for part in parts) or not hasattr(module, "mlp"):
        kind = type(attn if attn is not None else module).__name__
        raise EnvironmentProblem(
            f"open_clip builds attention of an unknown kind ({kind}); expected packed q, k, v weights; "
            "install a version of open_clip_torch that ovseg supports (>= 2.24, < 4)"
        )
    if getattr(attn, "scaled_cosine", False):
        raise ConfigError("a CLIP with cosine-scaled attention (scaled_cosine_attn) is not supported; use another CLIP")


def check_tower(visual: Any) -> None:
    """Refuse towers that are no plain vision transformer.

    Raises:
        ConfigError: Names the kind of tower and what is expected.
    """
    if type(visual).__name__ != "VisionTransformer":
        raise ConfigError(f"the image tower is a {type(visual).__name__}; expected open_clip's own VisionTransformer")
    if getattr(visual, "attn_pool", None) is not None or visual.pool_type not in ("tok", "avg"):
        raise ConfigError(
            "the image tower pools by attention, so its patches do not live in the joint space; "
            "expected pool_type 'tok' or 'avg' without attentional_pool"
        )


def vision_config(model_cfg: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the part of a model configuration that describes the image tower.

    Raises:
        ConfigError: A part of the configuration is missing.
    """
    missing = [part for part in ("vision_cfg", "text_cfg") if not isinstance(model_cfg.get(part), dict)]
    missing += [] if "embed_dim" in model_cfg else ["embed_dim"]
    if missing:
        raise ConfigError(f"the model config of {name} lacks {', '.join(missing)}; expected an open_clip model_cfg")
    return dict(model_cfg["vision_cfg"])


def check_config(model_cfg: dict[str, Any], name: str) -> None:
    """Refuse a model configuration before anything is built or downloaded.

    Raises:
        ConfigError: A part is missing, or the image tower is not a plain vision transformer.
    """
    vision = vision_config(model_cfg, name)
    if vision.get("timm_model_name"):
        kind = f"the timm tower {vision['timm_model_name']}"
    elif isinstance(vision.get("layers"), list | tuple):
        kind = "a ResNet tower"
    elif vision.get("attentional_pool") or "multimodal_cfg" in model_cfg:
        kind = "an attention-pooled tower (CoCa)"
    else:
        return
    raise ConfigError(f"{name} has {kind}; expected a vision transformer of open_clip's own such as ViT-B-16")


def build_model(
    model_cfg: dict[str, Any], name: str, check: Callable[[dict[str, Any], str], None] = check_config
) -> nn.Module:
    """Build an open_clip model with random weights.

    Args:
        model_cfg: As in open_clip's ``model_configs/*.json``.
        name: What to call it in messages.
        check: Refuses configs before anything is built.

    Raises:
        ConfigError: open_clip refuses the configuration.
    """
    check(model_cfg, name)
    open_clip = import_open_clip()
    config = copy.deepcopy(model_cfg)
    config["text_cfg"].pop("hf_model_pretrained", None)
    from_hub = bool(config["text_cfg"].get("hf_model_name"))
    if from_hub:
        config["text_cfg"]["hf_model_pretrained"] = False
    kind = open_clip.CustomTextCLIP if config.pop("custom_text", False) or from_hub else open_clip.CLIP
    try:
        with torch.random.fork_rng(devices=[]):  # the random weights are overwritten: leave the user's generator alone
            return kind(**config)
    except (TypeError, ValueError, AssertionError, KeyError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(f"open_clip cannot build {name} from its config: {reason}") from error


def build_empty(model_cfg: dict[str, Any], name: str, check: Callable[[dict[str, Any], str], None]) -> nn.Module:
    """Build an open_clip model whose weights take no memory yet (device ``meta``); assign them before it runs.

    Arguments and errors are those of `build_model`.
    """
    with torch.device("meta"):
        model = build_model(model_cfg, name, check)
    mask = getattr(model, "attn_mask", None)
    if mask is not None:  # the one buffer that no checkpoint holds: what a token may not see is what follows it
        model.attn_mask = torch.full(mask.shape, float("-inf"), device=CPU).triu_(1)
    return model
