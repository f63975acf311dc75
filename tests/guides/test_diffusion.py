from __future__ import annotations

import importlib.util
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from ovseg.clip import Context
from ovseg.errors import ConfigError, EnvironmentProblem, WeightsError
from ovseg.guides import build_guide
from ovseg.guides.diffusion import DiffusionGuide
from tests.hub_double import HubDouble

HAS_DIFFUSERS = importlib.util.find_spec("diffusers") is not None


class Attention(nn.Module):
    """As diffusers has it, but for what is not looked at."""

    def __init__(self, width=8, heads=2):
        super().__init__()
        self.heads, self.scale = heads, (width // heads) ** -0.5
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, width, bias=False) for _ in range(3))

    def forward(self, hidden_states, encoder_hidden_states=None):
        q, k, v = (
            f(hidden_states).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f in (self.to_q, self.to_k, self.to_v)
        )
        self.weights = (q @ k.mT * self.scale).softmax(-1)
        return (self.weights @ v).transpose(1, 2).flatten(2)


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.config = SimpleNamespace(sample_size=8)
        self.enter = nn.Conv2d(4, 8, 1)
        blocks = []
        for _ in range(2):
            block = nn.Module()
            block.attn1 = Attention()
            transformer = nn.Module()
            transformer.transformer_blocks = nn.ModuleList([block])
            blocks.append(transformer)
        self.up_blocks = nn.ModuleList([nn.Module()])
        self.up_blocks[0].attentions = nn.ModuleList(blocks)

    def forward(self, latents, step, encoder_hidden_states):
        tokens = self.enter(latents).flatten(2).mT
        for transformer in self.up_blocks[0].attentions:
            tokens = tokens + transformer.transformer_blocks[0].attn1(hidden_states=tokens)


class Autoencoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.config = SimpleNamespace(block_out_channels=(4, 4), scaling_factor=0.5)
        self.conv = nn.Conv2d(3, 4, 2, stride=2)

    def encode(self, images):
        return SimpleNamespace(latent_dist=SimpleNamespace(mean=self.conv(images)))


class Scheduler:
    def set_timesteps(self, steps, device=None):
        self.timesteps = torch.arange(steps).flip(0)

    def add_noise(self, latents, noise, steps):
        return latents + 0.1 * noise


def context(batch, height=20, width=30):
    images = torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(1))
    return Context((1, 1), images, None, (0.5,) * 3, (0.25,) * 3)


@pytest.fixture(scope="module")
def stub():
    torch.manual_seed(0)
    return DiffusionGuide(UNet(), Autoencoder(), Scheduler(), torch.zeros(1, 3, 8)).eval().requires_grad_(False)


def test_maps_are_the_attention_of_the_last_block_then_of_the_one_before(stub):
    maps = stub.attention_maps(context(2))
    before, last = (block.transformer_blocks[0].attn1 for block in stub.unet.up_blocks[0].attentions)
    torch.testing.assert_close(maps, torch.cat([last.weights, before.weights], 1))
    assert maps.shape == (2, 4, 64, 64)


def test_the_noise_is_the_same_for_every_image_and_call(stub):
    together = stub.attention_maps(context(2))
    torch.testing.assert_close(together, stub.attention_maps(context(2)))
    torch.testing.assert_close(
        together[:1], stub.attention_maps(Context((1, 1), context(2).images[:1], None, (0.5,) * 3, (0.25,) * 3))
    )


def test_features_are_where_a_position_looks(stub):
    rows = stub.attention_maps(context(1)).mean(1)[0]
    features = stub(context(1))
    assert features.shape == (1, 64, 8, 8)
    torch.testing.assert_close(features[0, :, 2, 3], rows[2 * 8 + 3])


def test_hooks_are_taken_off_again(stub):
    stub.attention_maps(context(1))
    assert all(not block.transformer_blocks[0].attn1._forward_pre_hooks for block in stub.unet.up_blocks[0].attentions)


def test_facet():
    with pytest.raises(ConfigError, match="guide diffusion got the facet key"):
        build_guide("diffusion:some/model", "key")


@pytest.mark.skipif(HAS_DIFFUSERS, reason="diffusers is installed")
def test_without_diffusers():
    with pytest.raises(EnvironmentProblem, match="pip install diffusers") as caught:
        build_guide("diffusion:some/model")
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not HAS_DIFFUSERS, reason="needs diffusers")
def test_on_a_unet_of_diffusers():
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel

    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 8),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=2,
        norm_num_groups=4,
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        norm_num_groups=4,
        up_block_types=("UpDecoderBlock2D",) * 2,
    )
    guide = DiffusionGuide(unet, vae, DDIMScheduler(), torch.zeros(1, 7, 16)).eval()
    modules = [unet.up_blocks[-1].attentions[i].transformer_blocks[-1].attn1 for i in (1, 0)]
    seen = []
    for module in modules:
        module.register_forward_pre_hook(lambda m, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        maps = guide.attention_maps(context(2))
        wanted = [
            m.get_attention_scores(m.head_to_batch_dim(m.to_q(x)), m.head_to_batch_dim(m.to_k(x))).unflatten(0, (2, -1))
            for m, x in zip(modules, reversed(seen), strict=True)
        ]
    assert guide.side == 16
    torch.testing.assert_close(maps, torch.cat(wanted, 1))


def test_its_files_come_from_the_hub_once_and_diffusers_reads_a_folder(tmp_path, monkeypatch):
    read = []

    class Pipeline:
        @staticmethod
        def from_pretrained(folder, **options):
            read.append((folder, options["local_files_only"]))
            raise OSError("no model after all\nand more")

    parts = {"unet/diffusion_pytorch_model.bin": b"", "vae/diffusion_pytorch_model.bin": b""}
    files = {"model_index.json": b"{}", "text_encoder/model.safetensors": b"", **parts}
    monkeypatch.setitem(sys.modules, "diffusers", SimpleNamespace(StableDiffusionPipeline=Pipeline))
    with HubDouble({"authors/diffusion": files}) as hub:
        hub.use(monkeypatch, tmp_path)
        with pytest.raises(WeightsError, match=r"cannot be read as a diffusion model \(no model after all\)"):
            build_guide("diffusion:authors/diffusion")
        hub.requests.clear()
        with pytest.raises(WeightsError, match="cannot be read"):
            build_guide("diffusion:authors/diffusion")
        assert not hub.requests and len(set(read)) == 1 and (read[0][0] / "unet").is_dir() and read[0][1]
