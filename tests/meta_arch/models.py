"""Every kind of model, tiny and with random weights: what the tester runs over. Configs are spelled here alone."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import BitMasks, Instances
from torch import Tensor

from ovseg.checkpoint.trained import trained_state
from ovseg.config import config_root, load_config
from ovseg.contract import CLASS_SCORES, INSTANCES, LABELS, PANOPTIC
from ovseg.data.preprocessing import SizeRule
from ovseg.labelling.protocol import Protocol
from ovseg.labelling.scores import ScoreRule
from ovseg.meta_arch.training_free import TrainingFree
from ovseg.recalibration import RECALIBRATIONS
from ovseg.system.registry import build as build_part
from ovseg.vocabulary import Vocabulary
from tests.fake_tower import FakeTower

_QUERY_HEAD = {
    "QUERIES": 6,
    "DIM": 32,
    "HEADS": 4,
    "ENCODER_LAYERS": 1,
    "ENCODER_FFN": 32,
    "DECODER_LAYERS": 3,
    "DECODER_FFN": 32,
    "POINTS": 64,
}
_SIDE_ADAPTER = {
    "FRONT_BLOCKS": 1,
    "WIDTH": 24,
    "DEPTH": 2,
    "HEADS": 3,
    "IMAGE_SIZE": 64,
    "QUERIES": 6,
    "FUSION": ["0->0", "1->1"],
    "SUPERVISED_BLOCKS": [1, 2],
    "CHANNELS": 16,
    "HIDDEN": 16,
    "POINTS": 64,
}


@functools.cache
def backbone() -> str:
    """Write random weights of timm's smallest vision transformer; returns its name and their file."""
    import timm

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        built = timm.create_model("test_vit", pretrained=False, num_classes=0, dynamic_img_size=True)
        state = {key: value + 0.1 * torch.randn_like(value) for key, value in built.state_dict().items()}
    path = Path(tempfile.mkdtemp(prefix="ovseg-backbone-")) / "test_vit.pt"
    atexit.register(shutil.rmtree, path.parent, ignore_errors=True)
    torch.save(state, path)
    return f"test_vit@{path}"


_COSTS = {
    "RESOLUTION": 64,
    "TAPS": [1, 2],
    "HIDDEN": 24,
    "SWIN_WINDOW": 4,
    "GUIDANCE": 16,
    "TEXT_GUIDANCE": 16,
    "DECODER_DIMS": [32, 16],
    "DECODER_GUIDANCE": [8, 4],
    "UP_CHANNELS": [24, 12],
    "FILL": 10,
    "SLIDING_SIZE": 80,
    "SLIDING_WINDOW": 48,
}
_STAGES = {
    "RESOLUTION": 128,
    "PROMPTS": 1,
    "HIDDEN": 24,
    "HEADS": 2,
    "DECODER_DIMS": [32, 16, 16],
    "DECODER_GUIDANCE": [8, 4, 2],
    "KERNELS": [3, 3, 3],
}
_PROMPTED = {"RESOLUTION": 64, "LAYERS": [0, 2], "DIM": 16, "DECODER_HEADS": 2, "FFN": 32}
HEADS: dict[str, dict[str, Any]] = {
    "CLIPSeg": _PROMPTED,
    "SED": _STAGES,
    "CATSeg": _COSTS,
    "SAN": _SIDE_ADAPTER,
    "FCCLIP": _QUERY_HEAD,
    "MAFTPlus": {**_QUERY_HEAD, "TRANSFER_HEADS": 2},
    "SAM3": {"CONFIDENCE": 0.1},
    "MaskClassifier": {"LOOK": "alpha"},
    "OVSeg": {
        "SWIN_DIM": 16,
        "SWIN_DEPTHS": [1, 1, 1, 1],
        "SWIN_HEADS": [1, 2, 4, 8],
        "SWIN_WINDOW": 4,
        "DIM": 32,
        "MASK_DIM": 24,
        "QUERY_DIM": 32,
        "QUERIES": 12,
        "HEADS": 4,
        "FFN": 32,
        "DECODER_LAYERS": 2,
        "EMBED_HIDDEN": 32,
        "POINTS": 256,
        "PROMPT_DEPTH": 2,
    },
    "OVSAM": {"SIDE": 128, "DIM": 32, "WIDTH": 32, "DEPTH": 2, "HEADS": 4, "WINDOW": 3, "WHOLE": [1], "POINTS": 3},
}
"""What makes an architecture tiny: its own section of a config."""

FILES = {
    "tuned_clip": "clipself/clipself_mini_scenes.yaml",
    "clip": "training_free/clip.yaml",
    "sclip": "training_free/sclip.yaml",
    "itaclip": "training_free/itaclip.yaml",
    "cliper": "training_free/cliper.yaml",
    "zero_guidance": "training_free/zero_guidance.yaml",
    "san": "san/san-vit-b-16.yaml",
    "cat_seg": "cat_seg/catseg-b.yaml",
    "sed": "sed/sed-b.yaml",
    "clipseg": "clipseg/clipseg-rd64-refined.yaml",
    "fcclip": "fcclip/fcclip-convnext-l.yaml",
    "fcclip_vit": "fcclip/fcclip_mini_scenes.yaml",
    "fcclip_adapter": "fcclip/fcclip-convnext-l-adapter.yaml",
    "maft_plus": "maft_plus/maftp-b.yaml",
    "maft_plus_large": "maft_plus/maftp-l.yaml",
    "maft_plus_panoptic": "maft_plus/maftp-l-pano.yaml",
    "maft_plus_adapter": "maft_plus/maftp-b-adapter.yaml",
    "talk2dino": "talk2dino/talk2dino-b.yaml",
    "sam3": "sam3/sam3.yaml",
    "mask_classifier": "alpha_clip/base.yaml",
    "ov_seg": "ov_seg/ovseg-swin-b-l14.yaml",
    "ovsam": "ovsam/ovsam-rn50x16.yaml",
}
"""The shipped configs that tiny models start from."""


def shipped(file: str) -> Path:
    """Return the path of one of `FILES`."""
    return config_root() / FILES[file]


@functools.cache
def architecture(file: str) -> str:
    """Return the name under which the architecture of one of `FILES` is registered."""
    return str(load_config(shipped(file)).MODEL.META_ARCHITECTURE)


def settings(file: str, folder: Path, weights: Path | str = "", **changes: Any) -> dict[str, Any]:
    """Return the changes to one of `FILES` that make it tiny.

    Args:
        file: Which.
        folder: Of its CLIP.
        weights: Checkpoint of the head.
        changes: ``text``, ``protocol``, ``recalibration``, ``regions`` and ``test`` change these nodes; in capitals,
            values of the architecture's own node.
    """
    name = architecture(file)
    own = {key: value for key, value in changes.items() if key.isupper()}
    if name == "Talk2DINO":
        own = {"BACKBONE": backbone(), "SIDE": 64, **own}
    size = {"SHORT_SIDE": 64, "LONG_SIDE": 128} if name in ("FCCLIP", "MAFTPlus", "OVSAM") else {"SHORT_SIDE": 64}
    model: dict[str, Any] = {
        "DEVICE": "cpu",
        "WEIGHTS": str(weights),
        "CLIP": {"FOLDER": str(folder)},
        "TEXT": {"TEMPLATES": "simple", **changes.get("text", {})},
        "PROTOCOL": {**size, **changes.get("protocol", {})},
        **({name: {**HEADS.get(name, {}), **own}} if name in HEADS or name == "Talk2DINO" else {}),
    }
    if name == "SAM3":  # its folder is no CLIP
        model["CLIP"] = {"FOLDER": str(changes.get("clip", ""))}
        model[name]["CONFIG"] = str(folder)
    for key in ("recalibration", "regions"):
        if key in changes:
            model[key.upper()] = changes[key]
    return {"MODEL": model, **({"TEST": changes["test"]} if "test" in changes else {})}


def config(file: str, folder: Path, weights: Path | str = "", **changes: Any) -> CfgNode:
    """Return the config of a tiny model; arguments as `settings`."""
    return load_config(shipped(file), settings(file, folder, weights, **changes))


def build(file: str, folder: Path, weights: Path | str = "", seed: int = 3, **changes: Any) -> Any:
    """Build a tiny model; its head has the weights of a seed. Other arguments as `settings`."""
    cfg = config(file, folder, weights, **changes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)(cfg).eval()


def stirred(model: Any, seed: int) -> Any:
    """Change the head of a model so that its masks show several classes; as it starts, they are nearly alike."""
    generator, learnt = torch.Generator().manual_seed(seed), trained_state(model)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name in learnt and not name.startswith("clip."):
                weight.add_(0.3 * torch.randn(weight.shape, generator=generator))
    model.refresh_hash()
    return model


def write_config(path: Path, file: str, folder: Path, weights: Path | str = "", **changes: Any) -> Path:
    """Write a config file of a tiny model; arguments as `settings`."""
    base = {"_BASE_": str(shipped(file)), "VERSION": 2}
    path.write_text(yaml.safe_dump({**base, **settings(file, folder, weights, **changes)}), encoding="utf-8")
    return path


@dataclass(frozen=True)
class Case:
    """A model that the tester runs.

    Attributes:
        name: What to call it.
        file: Which of `FILES` it starts from.
        clip: Which of the tiny CLIPs it stands on.
        golden: Folder below ``tests/golden`` with the numbers of its original.
        without_golden: Why there is none.
        changes: To the config; see `settings`.
        gives: What can be wanted of it.
        graph: Whether its network can be one graph.
        inside: Its methods that run what knows no words, and what does.
        many: As many classes as make a map of all of them larger than what is computed at a time.
        seed: Gives its head weights by which pictures show several classes.
        requests: What each of eight users asks of it at once.
        votes: Whether the pixels of a region share a label, whatever the score of each.
        slow: Whether it is one of the slow tests, for a sister of it is not.
        labels_teach: Whether what is trained of it learns from labelled images.
        untaught: What it says where that is not so.
        lowered: How the names of weights start that low precision is for.
    """

    name: str
    file: str
    clip: str
    golden: str = ""
    without_golden: str = ""
    changes: Mapping[str, Any] = field(default_factory=dict)
    gives: frozenset[str] = LABELS | {CLASS_SCORES}
    graph: bool = True
    inside: tuple[str, str] = ("network", "label")
    many: int = 300
    seed: int = 1
    requests: int = 2
    votes: bool = False
    slow: bool = False
    labels_teach: bool = True
    untaught: str = "learns from captions .*; see tools/"
    lowered: tuple[str, ...] = ("clip.model.visual.",)

    @property
    def architecture(self) -> str:
        """Its name in the registry."""
        return architecture(self.file)

    @property
    def trained(self) -> bool:
        """Whether something of it is trained here."""
        return self.architecture not in ("TrainingFree", "SAM3")

    def build(self, folders: Mapping[str, Path], seed: int | None = None) -> Any:
        """Build it on one of the tiny CLIPs; another seed gives its head other weights."""
        model = build(self.file, folders[self.clip], **self.changes)
        return stirred(model, self.seed if seed is None else seed)

    def read(self, model: Any, text: str) -> Tensor:
        """Let the text tower of such a model read a text."""
        found: Tensor = model.clip.text([text])
        return found

    def write_config(self, path: Path, folders: Mapping[str, Path], weights: Path | str = "") -> Path:
        """Write its config file."""
        return write_config(path, self.file, folders[self.clip], weights, **self.changes)


class TunedCase(Case):
    """A CLIP that is tuned itself, with no head: its trained weights are those of a seed."""

    def build(self, folders: Mapping[str, Path], seed: int | None = None) -> Any:
        model = build(self.file, folders[self.clip], **self.changes)
        generator = torch.Generator().manual_seed(self.seed if seed is None else seed)
        with torch.no_grad():
            for weight in model.clip.parameters():
                if weight.requires_grad:
                    weight.add_(0.03 * torch.randn(weight.shape, generator=generator))
        model.clip.refresh()
        model.refresh_hash()
        return model


class Sam3Case(Case):
    """SAM 3, of which nothing is trained here: its whole network has the weights of a seed."""

    def build(self, folders: Mapping[str, Path], seed: int | None = None) -> Any:
        model = build(self.file, folders[self.clip], **self.changes)
        generator = torch.Generator().manual_seed(self.seed if seed is None else seed)
        for name, weight in model.clip.named_parameters():
            if "norm" not in name:
                weight.add_(torch.randn(weight.shape, generator=generator), alpha=min(0.3, weight.shape[-1] ** -0.5))
        model.clip.refresh()
        return model

    def read(self, model: Any, text: str) -> Tensor:
        found: Tensor = model.reader.read([text], None)
        return found


_WINDOWS = {"SHORT_SIDE": 64, "WINDOW": 48, "STRIDE": 24}
_OF_SAM3 = ("clip.model.vision_encoder.", "clip.model.detr_", "clip.model.mask_decoder.")
_OBJECTS = LABELS | {CLASS_SCORES, PANOPTIC, INSTANCES}
_ALL_OBJECTS = {"OBJECT_THRESHOLD": 0.0, "OVERLAP_THRESHOLD": 0.1, "test": {"DETECTIONS_PER_IMAGE": 12}}
_ADAPTER = {"ADAPTER_WIDTH": 24, "ADAPTER_MAPS": 3}

MODELS = (
    Case("windows", "sclip", "vit", golden="sclip", changes={"protocol": _WINDOWS}),
    Case(
        "views-and-templates",
        "itaclip",
        "vit",
        golden="itaclip",
        changes={
            "protocol": {**_WINDOWS, "PAMR_STEPS": 2, "PAMR_DILATIONS": [1, 2], "PAMR_AT": "network"},
            "recalibration": {"OPTIONS": {"MID_LAYERS": [0, 1]}},
            "text": {"TEMPLATES": "vild14", "AUTOCLIP": 0.85},
        },
        many=100,
    ),
    Case(
        "whole-image",
        "cliper",
        "vit",
        golden="cliper",
        changes={"recalibration": {"OPTIONS": {"GUIDE": None}}},
        many=420,
    ),
    Case(
        "segments",
        "zero_guidance",
        "vit",
        golden="zero_guidance",
        changes={
            "protocol": {"ASPECT": "keep"},
            "recalibration": {
                "OPTIONS": {"GUIDE": "clip", "THRESHOLD": 1.1, "MERGE_THRESHOLD": 0.95, "MASK_FROM": 0},
            },
        },
        graph=False,
        votes=True,
    ),
    Case(
        "regions",
        "clip",  # the shipped config of CorrCLIP has options of SAM
        "vit",
        golden="corrclip",
        changes={
            "protocol": {**_WINDOWS, "REGION_RULE": "vote"},
            "recalibration": {"NAME": "CorrCLIP", "OPTIONS": {"GUIDE": "clip"}},
            "regions": {"NAME": "MeanShift"},
        },
        graph=False,
        votes=True,
    ),
    Case("san", "san", "vit", golden="san", seed=36),
    Case("fcclip-convnext", "fcclip", "convnext", golden="fcclip", changes=_ALL_OBJECTS, gives=_OBJECTS, requests=20),
    Case(
        "fcclip-resnet",
        "fcclip",
        "resnet",
        golden="fcclip",
        changes={**_ALL_OBJECTS, "VALID_MASKS_ONLY": True},
        gives=_OBJECTS,
        seed=5,
    ),
    Case(
        "fcclip-vit",
        "fcclip_vit",
        "vit",
        without_golden="FC-CLIP on a plain vision transformer is ours; its levels are held by tests/clip",
        changes={
            **_ALL_OBJECTS,
            "recalibration": {"NAME": "ClearCLIP", "OPTIONS": {"MODEL_TYPE": "MaskCLIP", "LAST_N_LAYERS": 1}},
        },
        gives=_OBJECTS,
        seed=39,
    ),
    Case("maft-plus", "maft_plus", "convnext", golden="maft_plus"),
    Case(
        "maft-plus-panoptic",
        "maft_plus_panoptic",
        "convnext",
        golden="maft_plus",
        changes=_ALL_OBJECTS,
        gives=LABELS | {CLASS_SCORES, PANOPTIC},
    ),
    Case(
        "fcclip-adapter",
        "fcclip_adapter",
        "convnext",
        golden="mask_adapter",
        changes={**_ALL_OBJECTS, **_ADAPTER},
        gives=_OBJECTS,
    ),
    Case("maft-plus-adapter", "maft_plus_adapter", "convnext", golden="mask_adapter", changes=_ADAPTER, slow=True),
    Case(
        "talk2dino",
        "talk2dino",
        "vit",
        golden="talk2dino",
        changes={"protocol": {"WINDOW": 48, "STRIDE": 24, "PAMR_STEPS": 0}, "CLEANING": 0.2},
        graph=False,
        labels_teach=False,
        lowered=("recalibration.backbone.",),
    ),
    Case("cat-seg-whole", "cat_seg", "vit", golden="cat_seg", changes={"SLIDING": False, "MOST": 0}),
    Case("sed", "sed", "convnext", golden="sed"),
    Case("sed-fast", "sed", "convnext", golden="sed", changes={"FAST": True, "TOP": 2}),
    Case("cat-seg-sliding", "cat_seg", "vit", golden="cat_seg", changes={"SLIDING": True, "MOST": 6}),
    Case("clipseg", "clipseg", "vit", golden="clipseg"),
    TunedCase(
        "tuned-clip",
        "tuned_clip",
        "vit",
        golden="clipself",
        labels_teach=False,
        untaught="has no original outside of a training",
    ),
    Case("ov-seg", "ov_seg", "vit", golden="ovseg_mask_adapted"),
    Case(
        "ov-seg-best",
        "ov_seg",
        "vit",
        golden="ovseg_mask_adapted",
        changes={"CLIP_WEIGHT": 0.0, "BEST_ONLY": True, "THRESHOLD": 0.35},
    ),
    Case(
        "mask-classifier",
        "mask_classifier",
        "vit",
        golden="alpha_clip",
        changes={"MARGINS": [1.0, 0.4], "PART_SHARE": 0.8, "OBJECT_THRESHOLD": 0.0, "OVERLAP_THRESHOLD": 0.1},
        gives=_OBJECTS,
        graph=False,
        labels_teach=False,
        untaught="is taught by named masks; see tools/",
    ),
    Case(
        "ovsam",
        "ovsam",
        "resnet",
        golden="ovsam",
        changes={"OVERLAP_THRESHOLD": 0.1, "test": {"DETECTIONS_PER_IMAGE": 12}},
        gives=_OBJECTS,
        graph=False,
        labels_teach=False,
        untaught="needs no training; use it as it is",
        seed=23,
    ),
    Sam3Case(
        "sam3",
        "sam3",
        "sam3",
        golden="sam3_dense",
        changes={"OBJECT_THRESHOLD": 0.2},
        gives=_OBJECTS,
        lowered=_OF_SAM3,
    ),
)


class OnFakeTower(Case):
    """A method on an image-text model that is no CLIP of open_clip's and has no class token."""

    def build(self, folders: Any = None, seed: int | None = None) -> Any:
        return TrainingFree(
            clip=FakeTower(),
            recalibration=build_part(RECALIBRATIONS, "SCLIP", {}),
            size_rule=SizeRule(64, 128, minimum=8),
            protocol=Protocol(window=48, stride=24, padding="none"),
            rule=ScoreRule(logit_scale=40.0),
            templates="simple",
            background="none",
        ).eval()


WITHOUT_CLASS_TOKEN = OnFakeTower("no-class-token", "", "", without_golden="the tower is a fake")


def picture(height: int, width: int, seed: int = 0) -> Tensor:
    """Return an image (3, H, W) uint8 of coloured rectangles with some noise."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 200, (3, 1, 1), generator=generator).expand(3, height, width).clone()
    for _ in range(5):
        top, left = (int(torch.randint(0, side - 8, (), generator=generator)) for side in (height, width))
        colour = torch.randint(0, 200, (3, 1, 1), generator=generator)
        image[:, top : top + height // 2, left : left + width // 2] = colour
    return (image + torch.randint(0, 56, image.shape, generator=generator)).to(torch.uint8)


def training_picture(seed: int = 0, count: int = 2, size: tuple[int, int] = (64, 64)) -> dict[str, Any]:
    """Return a training input of Detectron2 with ``count`` objects, of the classes 0, 1, ..."""
    masks = torch.zeros(count, *size, dtype=torch.bool)
    for i in range(count):
        masks[i, 20 * i : 20 * i + 20, 8 : size[1] * 3 // 4] = True
    return {
        "image": picture(*size, seed),
        "instances": Instances(size, gt_classes=torch.arange(count), gt_masks=BitMasks(masks)),
    }


def words(*names: str) -> Vocabulary:
    """Return a vocabulary."""
    return Vocabulary.parse(list(names))
