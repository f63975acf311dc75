"""Whole images on their way to the photograph, against a straight re-implementation: NACLIP interpolates twice.

The reference is CLIP written down once more in plain PyTorch, with the attention of the method in the last block, and
the steps that its public code takes behind it: to the size of the network input, then to that of the photograph, PAMR,
scale, softmax over queries, maximum over the names of a class, threshold. SCLIP's code goes to the photograph at once.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

import ovseg
from ovseg.contract import CLASS_SCORES, LABELS
from ovseg.refinement import pamr
from ovseg.zoo import model_config

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))
import check_golden

WIDTH, LAYERS, HEADS, PATCH, GRID, DIM, QUERIES = 32, 3, 4, 8, 5, 24, 7
CLASSES = torch.tensor([0, 0, 0, 1, 2, 2, 3])
SIZE, PHOTO = (40, 40), (67, 53)
WIDE = (43, 61)  # no multiples of the patch: what is left over is not seen
SETTINGS = {"n_cls": 4, "logit_scale": 40, "prob_thd": 0.4, "crop": 0, "stride": 112}


def weights() -> dict[str, Tensor]:
    """Weights of an image tower by the names of OpenAI."""
    generator = torch.Generator().manual_seed(3)

    def draw(*shape: int, scale: float = 0.0) -> Tensor:
        return torch.randn(shape, generator=generator) * (scale or shape[-1] ** -0.5)

    state = {
        "visual.class_embedding": draw(WIDTH, scale=1),
        "visual.positional_embedding": draw(1 + GRID**2, WIDTH, scale=0.5),
        "visual.conv1.weight": draw(WIDTH, 3, PATCH, PATCH, scale=0.1),
        "visual.proj": draw(WIDTH, DIM, scale=WIDTH**-0.5),
    }
    for name in ("visual.ln_pre", "visual.ln_post"):
        state |= {f"{name}.weight": 1 + draw(WIDTH, scale=0.1), f"{name}.bias": draw(WIDTH, scale=0.1)}
    for layer in range(LAYERS):
        block = f"visual.transformer.resblocks.{layer}"
        for name, (rows, columns) in {
            "attn.in_proj_": (3 * WIDTH, WIDTH),
            "attn.out_proj.": (WIDTH, WIDTH),
            "mlp.c_fc.": (4 * WIDTH, WIDTH),
            "mlp.c_proj.": (WIDTH, 4 * WIDTH),
        }.items():
            state |= {f"{block}.{name}weight": draw(rows, columns, scale=2 * columns**-0.5)}
            state |= {f"{block}.{name}bias": draw(rows, scale=0.1)}
        for name in ("ln_1", "ln_2"):
            state |= {f"{block}.{name}.weight": torch.ones(WIDTH), f"{block}.{name}.bias": torch.zeros(WIDTH)}
    return state


def norm(x: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], 1e-5)


def patch_cosines(image: Tensor, texts: Tensor, state: dict[str, Tensor], method: str) -> Tensor:
    """Return the cosines (T, h, w) of the patches of one image (3, H, W) and texts."""
    patches = F.conv2d(image[None], state["visual.conv1.weight"], stride=PATCH)[0]
    rows, columns = patches.shape[1:]
    table = state["visual.positional_embedding"]
    if rows * columns != GRID**2:  # the count alone is compared, and the factor given is that of the coordinates
        square = table[1:].T.reshape(1, WIDTH, GRID, GRID)
        factors = ((rows + 0.1) / GRID, (columns + 0.1) / GRID)
        resized = F.interpolate(square, scale_factor=factors, mode="bicubic")[0]
        assert resized.shape[1:] == (rows, columns)
        table = torch.cat([table[:1], resized.flatten(1).T])
    x = norm(torch.cat([state["visual.class_embedding"][None], patches.flatten(1).T]) + table, state, "visual.ln_pre")
    for layer in range(LAYERS):
        x = run_block(x, state, f"visual.transformer.resblocks.{layer}", (rows, columns), method, layer == LAYERS - 1)
    features = norm(x, state, "visual.ln_post") @ state["visual.proj"]
    cosines = F.normalize(features[1:], dim=1) @ texts.T
    return cosines.T.reshape(-1, rows, columns)


def run_block(x: Tensor, state: dict[str, Tensor], name: str, grid: tuple[int, int], method: str, last: bool) -> Tensor:
    projected = F.linear(
        norm(x, state, f"{name}.ln_1"), state[f"{name}.attn.in_proj_weight"], state[f"{name}.attn.in_proj_bias"]
    )
    q, k, v = (part.reshape(len(x), HEADS, -1).transpose(0, 1) for part in projected.chunk(3, dim=1))
    scale = (WIDTH // HEADS) ** -0.5
    if not last:
        attention = (scale * q @ k.mT).softmax(-1)
    elif method == "sclip":
        attention = (scale * q @ q.mT).softmax(-1) + (scale * k @ k.mT).softmax(-1)
    else:
        attention = (scale * k @ k.mT + omega(grid)).softmax(-1)
    mixed = (attention @ v).transpose(0, 1).reshape(len(x), WIDTH)
    mixed = F.linear(mixed, state[f"{name}.attn.out_proj.weight"], state[f"{name}.attn.out_proj.bias"])
    if last and method == "naclip":
        return mixed
    x = x + mixed
    hidden = F.linear(norm(x, state, f"{name}.ln_2"), state[f"{name}.mlp.c_fc.weight"], state[f"{name}.mlp.c_fc.bias"])
    hidden = hidden * torch.sigmoid(1.702 * hidden)
    return x + F.linear(hidden, state[f"{name}.mlp.c_proj.weight"], state[f"{name}.mlp.c_proj.bias"])


def omega(grid: tuple[int, int]) -> Tensor:
    """Return the preference for neighbours, pair by pair; the class token has none."""
    places = [(row, column) for row in range(grid[0]) for column in range(grid[1])]
    bias = torch.zeros(1 + len(places), 1 + len(places))
    for i, one in enumerate(places):
        for j, other in enumerate(places):
            bias[1 + i, 1 + j] = math.exp(-(math.dist(one, other) ** 2) / (2 * 5.0**2))
    return bias


def reference(cosines: Tensor, image: Tensor, method: str, steps: int) -> dict[str, Tensor]:
    """Return what the public code makes of the cosines (T, h, w) of a whole image (3, H, W)."""
    logits = cosines[None]
    if method == "naclip":
        logits = F.interpolate(logits, image.shape[1:], mode="bilinear", align_corners=False)
    logits = F.interpolate(logits, PHOTO, mode="bilinear", align_corners=False)
    if steps:
        guide = F.interpolate(image[None], PHOTO, mode="bilinear", align_corners=False)
        logits = pamr(guide, logits, steps, (8, 16))
    queries = (SETTINGS["logit_scale"] * logits[0]).softmax(0)
    shares = torch.stack([queries[CLASSES == index].amax(0) for index in range(SETTINGS["n_cls"])])
    labels = shares.argmax(0).where(shares.amax(0) >= SETTINGS["prob_thd"], 0)
    return {"logits": logits, "shares": shares, "labels": labels[None]}


def drawn(size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return a normalised image with parts in it, and texts of unit length."""
    generator = torch.Generator().manual_seed(7)
    coarse = torch.randn(1, 3, 5, 6, generator=generator)
    image = F.interpolate(coarse, size, mode="nearest")[0] + 0.1 * torch.randn(3, *size, generator=generator)
    return image, F.normalize(torch.randn(QUERIES, DIM, generator=generator), dim=1)


def write_case(folder: Path, method: str, size: tuple[int, int], steps: int) -> Path:
    """Write a golden case of a whole image."""
    (image, texts), state = drawn(size), weights()
    found = reference(patch_cosines(image, texts, state, method), image, method, steps)
    config: dict[str, Any] = {
        "width": WIDTH,
        "layers": LAYERS,
        "heads": HEADS,
        "patch_size": PATCH,
        "pretrain_grid": [GRID, GRID],
        "embed_dim": DIM,
        "activation": "quick_gelu",
        "ln_eps": 1e-5,
        "mlp_ratio": 4,
        "postprocess": {**SETTINGS, "pamr_steps": steps, "pamr_dilations": [8, 16], "ori": list(PHOTO)},
    }
    tensors = {"input.image": image[None], "input.text_embeddings": texts, "input.query_idx": CLASSES}
    if method == "naclip":
        config |= {"arch": "reduced", "attn_strategy": "naclip", "gaussian_std": 5.0}
        shares = found["shares"] / found["shares"].sum(0)  # stored so, behind the threshold
        tensors |= {"output.final_logits": found["logits"], "output.seg_probs": shares}
    else:
        config |= {"residual": True, "ffn": True}
        tensors |= {"output.slide_logits": found["logits"], "output.seg_probs": found["shares"]}
    tensors |= {"output.seg_pred": found["labels"]} | {f"state_dict.{key}": value for key, value in state.items()}
    path = folder / method / "whole.json"
    path.parent.mkdir()
    record = {"method": method, "config": config, "tolerance": {"atol": 2e-5, "rtol": 1e-4}}
    path.write_text(json.dumps(record))
    save_file({key: value.contiguous() for key, value in tensors.items()}, path.with_suffix(".safetensors"))
    return path


@pytest.mark.parametrize("size", [SIZE, WIDE])
@pytest.mark.parametrize(("method", "steps"), [("naclip", 0), ("naclip", 3), ("sclip", 0)])
def test_the_runner_agrees_with_the_steps_of_the_original(tmp_path, method, steps, size):
    report = check_golden.check_case(write_case(tmp_path, method, size, steps))
    assert report.status == "PASS" and "3 outputs" in report.remark, report.remark


def test_one_interpolation_would_not_do(tmp_path):
    """The two ways differ by far more than the tolerance of the case, so the case tells them apart."""
    image, texts = drawn(WIDE)
    cosines = patch_cosines(image, texts, weights(), "naclip")
    twice, once = (reference(cosines, image, method, 0) for method in ("naclip", "sclip"))
    assert (twice["logits"] - once["logits"]).abs().max() > 0.01
    assert not torch.equal(twice["labels"], once["labels"])


TWICE = ("naclip", "resclip")
ONCE = ("sclip", "clip", "clearclip", "gem")


@pytest.mark.parametrize("method", [*TWICE, *ONCE])
def test_models_by_name_take_the_steps_of_their_method(method):
    """From the name of a model to its answer; PAMR has its own tests and is left out."""
    changes = {"SHORT_SIDE": 32, "WINDOW": 0, "PAMR_STEPS": 0, "MIN_MAX": False, "LOGIT_SCALE": 40.0}
    model = ovseg.load(f"{method}/mini", "cpu", overrides={"MODEL": {"PROTOCOL": changes}}).model
    words = model.words(ovseg.Vocabulary.parse(["cat", "sofa", "tree"]))
    image = torch.randint(0, 256, (3, 45, 62), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    encoded = model.encode([image])
    scores = model.patch_scores(encoded.images[0], words)[None]
    if method in TWICE:
        scores = F.interpolate(scores, (45, 62), mode="bilinear", align_corners=False)
    maps = F.interpolate(scores, (91, 130), mode="bilinear", align_corners=False)[0]
    answer = model.answer(encoded, 0, (91, 130), words, LABELS | {CLASS_SCORES})
    torch.testing.assert_close(answer.class_scores, (40 * maps).softmax(0), atol=1e-5, rtol=1e-4)
    assert model.settings["protocol"]["resize"] == ("twice" if method in TWICE else "once")


def test_the_config_of_a_method_says_its_steps():
    for name in ("naclip/ViT-B-16/openai", "naclip/mini", "resclip/ViT-B-16/openai", "resclip/mini"):
        assert model_config(name).MODEL.PROTOCOL.RESIZE == "twice"
        assert model_config(name, protocol="common").MODEL.PROTOCOL.RESIZE == "once"
    assert model_config("naclip/ViT-B-16/openai", protocol="voc21").MODEL.PROTOCOL.RESIZE == "twice"
    assert model_config("sclip/ViT-B-16/openai", protocol="voc21").MODEL.PROTOCOL.RESIZE == "once"
