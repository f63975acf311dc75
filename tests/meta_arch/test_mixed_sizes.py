"""The batch rule on models of released depth and strides: an image is the same in any company."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import ovseg
from ovseg.clip.conv_clip import check_config
from ovseg.clip.open_clip_internals import build_model
from ovseg.result.segmentation import Segmentation
from ovseg.segmenter import Segmenter
from ovseg.zoo import build, resolve

ROOT = Path(__file__).parents[2]
WORDS = ["road|street", "car|bus", "sand|beach", "sea|water", "table", "cup|mug"]
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 12}
SIZES = {"street.jpg": (480, 360), "beach.jpg": (400, 400), "desk.jpg": (333, 250), "coffee.jpg": (300, 420)}
HEAD = {"DIM": 32, "ENCODER_FFN": 128, "DECODER_FFN": 256}
MODELS = {
    "san-vit-b-16": ("vit", {"SAN": {"WIDTH": 30, "CHANNELS": 32, "HIDDEN": 32}}),
    "fcclip-convnext-l": ("convnext_large_eighth", {"FCCLIP": HEAD}),
    "maftp-b": ("convnext_base_eighth", {"MAFTPlus": HEAD}),
}
"""Released models, their CLIP at an eighth of its width, and the widths of their heads."""


@pytest.fixture(scope="module", autouse=True)
def narrow_convnexts() -> None:
    """Let timm know ConvNeXt-B and -L of full depth at an eighth of their widths."""
    from timm.models import convnext, register_model

    def narrow(name: str, first: int):
        def make(pretrained: bool = False, **options: object):
            widths = tuple(first * 2**i for i in range(4))
            return convnext._create_convnext(name, pretrained, depths=(3, 3, 27, 3), dims=widths, **options)

        make.__name__, make.__module__ = name, convnext.__name__
        return make

    for name, first in (("convnext_base_eighth", 16), ("convnext_large_eighth", 24)):
        if not hasattr(convnext, name):
            register_model(narrow(name, first))


def clip_folder(folder: Path, tower: str) -> Path:
    """Write the narrow CLIP of a released model, with random weights that let signals through."""
    timm = {"timm_model_name": tower, "timm_pool": "", "timm_proj": "mlp", "image_size": 320}
    vit = {"image_size": 224, "layers": 12, "width": 96, "patch_size": 16, "head_width": 8}
    config = {"model_cfg": {"embed_dim": 64, "vision_cfg": vit if tower == "vit" else timm, "text_cfg": TEXT}}
    torch.manual_seed(5)
    model = build_model(config["model_cfg"], "narrow", *([] if tower == "vit" else [check_config]))
    for key, value in model.named_parameters():
        if key.endswith("gamma"):
            value.data.fill_(0.3)
    folder.mkdir()
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def crops() -> list[np.ndarray]:
    """Four crops of the examples, of four sizes."""
    found = []
    for name, (width, height) in SIZES.items():
        with Image.open(ROOT / "examples" / name) as image:
            found.append(np.asarray(image.convert("RGB"))[:height, :width])
    return found


@pytest.fixture(scope="module", params=["mini", "mini-clearclip", *MODELS])
def segmenter(request, tmp_path_factory) -> Segmenter:
    name = request.param
    if name not in MODELS:
        return ovseg.load(name, device="cpu")
    tower, section = MODELS[name]
    folder = clip_folder(tmp_path_factory.mktemp(name) / "clip", tower)
    config = next((ROOT / "configs").rglob(f"{name}.yaml"))
    model = {"CLIP": {"FOLDER": str(folder)}, "PROTOCOL": {"SHORT_SIDE": 160}, "TEXT": {"TEMPLATES": "simple"}}
    torch.manual_seed(6)
    spec = resolve(str(config), overrides={"MODEL": {**model, **section}})
    return Segmenter(build(spec, untrained=True), name, "cpu")


def compare(one: Segmentation, other: Segmentation) -> None:
    """Labels may differ where two classes are as good as equal, scores by rounding."""
    assert np.abs(one.scores - other.scores).max() < 1e-4
    first, second = np.sort(one.class_scores, axis=0)[[-1, -2]]
    assert (one.labels == other.labels)[first - second > 1e-4].all()


def test_batches_of_mixed_sizes_are_as_singles(segmenter, crops):
    words = segmenter.words(WORDS)
    singles = [segmenter(image, words, want="class_scores") for image in crops]
    assert len({result.labels.shape for result in singles}) == 4
    segmenter.batch_size = 4
    for single, together in zip(singles, segmenter(crops, words, want="class_scores"), strict=True):
        compare(single, together)


def test_images_of_one_size_share_their_passes(segmenter, crops, monkeypatch):
    pictures = [np.roll(crops[3], 40 * i, axis=1) for i in range(8)]
    words, seen = segmenter.words(WORDS), []
    singles = [segmenter(image, words, want="class_scores") for image in pictures[:2]]
    monkeypatch.setattr(segmenter.model, "see", lambda i, see=segmenter.model.see: (seen.append(len(i)), see(i))[1])
    segmenter.batch_size = 4
    together = segmenter(pictures, words, want="class_scores")
    assert seen == [4, 4]
    for one, other in zip(singles, together, strict=False):
        compare(one, other)
