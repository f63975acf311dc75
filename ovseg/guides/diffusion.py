"""The self-attention of a diffusion model as a guide, as CLIPer reads it (needs the package diffusers)."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg.checkpoint.hub import fetch_repository
from ovseg.checkpoint.strict import check_finite
from ovseg.clip.features import Context
from ovseg.errors import ConfigError, EnvironmentProblem, WeightsError
from ovseg.guides.base import GUIDE_REGISTRY, Guide, entering
from ovseg.system.device import CPU

DEFAULT = "stabilityai/stable-diffusion-2-1-base"
_STEPS, _STEP, _SEED = 50, 45, 0


class DiffusionGuide(Guide):
    """Self-attention of the two last transformer blocks of a denoising U-Net on a slightly noised image.

    Sun et al., CLIPer, ICCV 2025; github.com/linsun449/cliper.code. There the noise is new at each call; here it is
    drawn from a fixed seed, the same for every image: results repeat, and a batch gives what its images give alone.
    """

    not_compiled = "the guide's attention is read while its network runs"

    def __init__(self, unet: Any, vae: Any, scheduler: Any, prompt: Tensor) -> None:
        """Put the parts of a pipeline together.

        Args:
            unet: A ``UNet2DConditionModel``.
            vae: Its autoencoder.
            scheduler: Its noise schedule.
            prompt: Embedding (1, L, C) of the empty prompt.
        """
        super().__init__()
        self.unet: Any = unet
        self.vae: Any = vae
        self.scheduler = scheduler
        scheduler.set_timesteps(_STEPS)
        self.prompt: Tensor
        self.register_buffer("prompt", prompt, persistent=False)
        last, before = (unet.up_blocks[-1].attentions[index].transformer_blocks[-1] for index in (1, 0))
        self.attentions = [last.attn1, before.attn1]  # in the order in which the original joins their heads
        self.side = unet.config.sample_size * 2 ** (len(vae.config.block_out_channels) - 1)

    def attention_maps(self, context: Context) -> Tensor:
        """Return the weights (B, M, n, n) float32 of all heads on the square grid of the latent image."""
        with entering(self.attentions) as entered:
            self._denoise(context.rgb)
        pairs = zip(self.attentions, reversed(entered), strict=True)
        return torch.cat([_weights(module, tokens) for module, tokens in pairs], dim=1)

    def forward(self, context: Context) -> Tensor:
        """Return features (B, n, h, w): where a position looks, in the mean of all heads."""
        rows = self.attention_maps(context).mean(1)
        side = round(rows.shape[1] ** 0.5)
        return rows.mT.unflatten(-1, (side, side))

    def _denoise(self, rgb: Tensor) -> None:
        """Run the U-Net once on images (B, 3, H, W) in 0..1, stretched to its own square."""
        dtype = self.prompt.dtype
        images = F.interpolate(rgb, size=(self.side, self.side), mode="bicubic", antialias=True).clamp(0, 1)
        latents = self.vae.encode((2 * images - 1).to(dtype)).latent_dist.mean * self.vae.config.scaling_factor
        step = self.scheduler.timesteps[_STEP].to(rgb.device)
        generator = torch.Generator().manual_seed(_SEED)
        noise = torch.randn(latents.shape[1:], generator=generator).to(latents).expand_as(latents)
        noised = self.scheduler.add_noise(latents, noise, step.expand(len(latents)))
        self.unet(noised, step, encoder_hidden_states=self.prompt.expand(len(latents), -1, -1))


def _weights(module: Any, tokens: Tensor) -> Tensor:
    """Return the self-attention (B, heads, n, n) float32 of an attention module of diffusers."""
    query, key = (
        layer(tokens).unflatten(-1, (module.heads, -1)).transpose(1, 2).float() for layer in (module.to_q, module.to_k)
    )
    return (query @ key.mT * module.scale).softmax(-1)


@GUIDE_REGISTRY.register()
def diffusion(*, argument: str = "", facet: str = "token") -> Guide:
    """Build the guide ``diffusion:MODEL``, a folder or a name of the hub; by default Stable Diffusion 2.1 base."""
    if facet != "token":
        raise ConfigError(f"guide diffusion got the facet {facet}; expected token, for it gives attention maps")
    try:
        kind = importlib.import_module("diffusers").StableDiffusionPipeline
    except (ImportError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise EnvironmentProblem(
            f"cannot import diffusers ({reason}); run `pip install diffusers transformers`, or choose another guide"
        ) from error
    model = argument or DEFAULT
    folder = Path(model) if Path(model).is_dir() else fetch_repository(model, "diffusers", name=f"diffusion:{model}")
    try:
        pipeline = kind.from_pretrained(
            folder, safety_checker=None, requires_safety_checker=False, local_files_only=True
        )
    except Exception as error:  # whatever the libraries that read it raise
        reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
        raise WeightsError(
            f"'{folder}' cannot be read as a diffusion model ({reason}); expected the folders of Stable Diffusion"
        ) from error
    for part in (pipeline.unet, pipeline.vae):
        check_finite(part.state_dict(), f"the diffusion model {model}")
    with torch.no_grad():
        prompt = pipeline.encode_prompt("", CPU, 1, do_classifier_free_guidance=False)[0]
    return DiffusionGuide(pipeline.unet, pipeline.vae, pipeline.scheduler, prompt)
