"""What tests share: a cache of their own, a tiny CLIP with random weights in a folder, photographs, a tiny bank."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings
from PIL import Image

from ovseg.data.scenes.bank import SPRITE, TEXTURES_PER_CLASS, Bank
from ovseg.data.scenes.concepts import Concept
from ovseg.data.scenes.textures import STUFF, make_texture
from tests.hub_double import no_network

settings.register_profile("same every time", derandomize=True, deadline=None)
settings.load_profile("same every time")
# As `make test` has it: products that are shared out over cores round otherwise from call to call, and heads of random
# weights, which cut their attention where masks are positive, make much of the last bit.
torch.set_num_threads(1)
# Shells that run something in the background let it ignore ctrl-C, and what tests start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

TINY_CLIP = {
    "model_cfg": {
        "embed_dim": 32,
        "quick_gelu": True,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
    },
    "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]},
}

# Colours of the tiny bank's concepts; each channel is off or full, so that light cannot make two of them alike.
COLORS = {
    "flamingo": (255, 0, 255),
    "frog": (0, 255, 0),
    "lemon": (255, 255, 0),
    "tomato": (255, 0, 0),
    "whale": (0, 0, 255),
    "cup": (0, 255, 255),  # novel
    "leaf": (0, 255, 0),  # novel
}
SYNONYMS = {"lemon": ["citrus", "sour fruit"], "frog": ["toad"], "cup": ["mug"], "tomato": ["bricks"]}


@pytest.fixture(scope="session")
def tiny_bank() -> Bank:
    """Seven one-coloured concepts, two of them novel, one with two drawings; textures at a quarter of their size."""
    concepts = [Concept(name, "group", SYNONYMS.get(name, [])) for name in COLORS]
    y, x = np.mgrid[:SPRITE, :SPRITE] / (SPRITE - 1) * 2 - 1
    disc, square, diamond = x**2 + y**2 <= 1, np.ones_like(x, dtype=bool), abs(x) + abs(y) <= 1
    drawn = [(i, (disc, square, diamond)[i % 3]) for i in range(len(concepts))] + [(2, disc)]
    sprites = np.stack([np.dstack([shape[..., None] * color_of(i), shape * 255]) for i, shape in drawn])
    textures = np.stack([make_texture(name, 0)[::4, ::4] for name in STUFF]).repeat(TEXTURES_PER_CLASS, 0)
    photos = np.random.default_rng(0).integers(0, 256, (2, 3, 64, 96))
    return Bank(
        concepts,
        torch.from_numpy(sprites).permute(0, 3, 1, 2).byte().contiguous(),
        torch.tensor([i for i, _ in drawn]),
        torch.from_numpy(textures).permute(0, 3, 1, 2).contiguous(),
        torch.from_numpy(photos).byte(),
    )


def color_of(index: int) -> np.ndarray:
    return np.array(list(COLORS.values())[index])


@pytest.fixture(scope="session", autouse=True)
def cache_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keep the text embeddings of the tests away from the user's cache."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OVSEG_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session", autouse=True)
def no_network_in_tests() -> Iterator[None]:
    """Let no test and no process that it starts leave this machine; `HubDouble` is a hub that is on it."""
    with no_network(), pytest.MonkeyPatch.context() as patch:
        for variable in ("OVSEG_OFFLINE", "HF_HUB_OFFLINE"):
            patch.setenv(variable, "1")
        yield


@pytest.fixture(autouse=True)
def same_random_numbers() -> None:
    """Let a test draw the same random tensors whatever ran before it."""
    torch.manual_seed(0)


def write_vit_clip(folder: Path, layers: int, seed: int) -> Path:
    """Write a CLIP with random weights that runs in milliseconds: blocks of width 32, patches of 8 pixels."""
    from safetensors.torch import save_file

    from ovseg.clip.open_clip_internals import build_model

    config = json.loads(json.dumps(TINY_CLIP))
    config["model_cfg"]["vision_cfg"]["layers"] = layers
    generator = torch.Generator().manual_seed(seed)
    state = {
        key: 0.3 * torch.randn(value.shape, generator=generator) + ("ln" in key and key.endswith("weight"))
        for key, value in build_model(config["model_cfg"], "tiny").state_dict().items()
    }
    state["logit_scale"] = torch.tensor(3.0)
    folder.mkdir()
    save_file(state, folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a CLIP of two blocks."""
    return write_vit_clip(tmp_path_factory.mktemp("models") / "tiny-clip", 2, seed=7)


def _conv_clip(folder: Path, vision: dict[str, object]) -> Path:
    """Write a convolutional CLIP with random weights whose batch norms let signals through."""
    from safetensors.torch import save_file

    from ovseg.clip.conv_clip import check_config
    from ovseg.clip.open_clip_internals import build_model

    config = {"model_cfg": {"embed_dim": 16, "vision_cfg": vision, "text_cfg": TINY_CLIP["model_cfg"]["text_cfg"]}}
    with torch.random.fork_rng():
        torch.manual_seed(8)
        model = build_model(config["model_cfg"], "tiny", check_config)
    for key, value in model.named_parameters():
        if key.endswith(("gamma", "bn3.weight")):  # layer scales and last norms start near 0
            value.data.fill_(0.5)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def tiny_convnext(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a CLIP with a ConvNeXt of 24 to 64 channels and random weights."""
    vision = {"timm_model_name": "test_convnext", "timm_pool": "", "timm_proj": "mlp", "image_size": 64}
    return _conv_clip(tmp_path_factory.mktemp("tiny-convnext"), vision)


@pytest.fixture(scope="session")
def tiny_resnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a CLIP with a ResNet of 32 to 256 channels and random weights."""
    vision = {"layers": [1, 1, 1, 1], "width": 8, "image_size": 64, "head_width": 64}
    return _conv_clip(tmp_path_factory.mktemp("tiny-resnet"), vision)


def make_photo(width: int, height: int, seed: int = 0) -> np.ndarray:
    """Return (height, width, 3) uint8 of smooth coloured blobs with some noise."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    smooth = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    return (smooth + rng.integers(-20, 21, smooth.shape)).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def pixels() -> np.ndarray:
    """A photograph of 96 x 72 pixels as (72, 96, 3) uint8."""
    return make_photo(96, 72)


@pytest.fixture
def photo(tmp_path: Path, pixels: np.ndarray) -> Path:
    """A JPEG file of 96 x 72 pixels."""
    path = tmp_path / "photo.jpg"
    Image.fromarray(pixels).save(path, quality=90)
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with three photographs, two of them of one size."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for index, (name, size) in enumerate({"a.jpg": (96, 72), "b.png": (96, 72), "c.webp": (60, 80)}.items()):
        Image.fromarray(make_photo(*size, seed=index)).save(folder / name)
    return folder


# A SAN that takes a step in a few milliseconds, on the tiny CLIP.
TINY_TRAINING = """\
VERSION: 2
MODEL:
  META_ARCHITECTURE: SAN
  DEVICE: cpu
  CLIP: {{FOLDER: {clip}}}
  TEXT: {{TEMPLATES: none}}
  PROTOCOL: {{SHORT_SIDE: 32, LONG_SIDE: 64}}
  SAN: {{CLIP_RESOLUTION: 1.0, SIZE_DIVISIBILITY: 8, FRONT_BLOCKS: 1, WIDTH: 24, DEPTH: 2, HEADS: 2, PATCH: 8,
    IMAGE_SIZE: 32, QUERIES: 6, FUSION: ["0->0", "1->1"], SUPERVISED_BLOCKS: [2], CHANNELS: 16, HIDDEN: 16, POINTS: 64}}
DATASETS: {{TRAIN: [{data}], TEST: []}}
INPUT:
  MIN_SIZE_TRAIN: [24, 32, 40]
  MAX_SIZE_TRAIN: 80
  CROP: {{ENABLED: true, TYPE: absolute, SIZE: [32, 32]}}
  COLOR_AUG_SSD: true
DATALOADER: {{NUM_WORKERS: 0}}
SOLVER:
  BASE_LR: 0.003
  MAX_ITER: 8
  IMS_PER_BATCH: 2
  CHECKPOINT_PERIOD: 3
  LOG_PERIOD: 2
  CLIP_GRADIENTS: {{ENABLED: true, CLIP_VALUE: 1.0}}
OUTPUT_DIR: {output}
"""


def write_own_data(folder: Path) -> Path:
    """Write twelve photographs in the layout images/ + labels/ + classes.txt; two classes, some void."""
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    (folder / "classes.txt").write_text("glorp|glorps\nblix\n", encoding="utf-8")
    for index in range(12):
        rng = np.random.default_rng(index)
        pixels = make_photo(48, 40, seed=index) // 4
        labels = np.full((40, 48), 255, np.uint8)
        top, left = rng.integers(0, 16), rng.integers(0, 20)
        for label, color in enumerate(((255, 0, 0), (0, 0, 255))):
            place = (slice(top, top + 16), slice(left + 12 * label, left + 12 * label + 12))
            pixels[place], labels[place] = color, label
        Image.fromarray(pixels).save(folder / "images" / f"{index:02d}.jpg", quality=95)
        Image.fromarray(labels).save(folder / "labels" / f"{index:02d}.png")
    return folder


@pytest.fixture
def own_data(tmp_path: Path) -> Path:
    """The folder of `write_own_data`."""
    return write_own_data(tmp_path / "own")


@pytest.fixture
def training_config(tmp_path: Path, tiny_clip: Path, own_data: Path) -> Path:
    """A config that trains a tiny SAN on `own_data` into ``run`` beside it."""
    path = tmp_path / "tiny.yaml"
    text = TINY_TRAINING.format(clip=tiny_clip, data=own_data, output=tmp_path / "run")
    path.write_text(text, encoding="utf-8")
    return path
