"""What is to be exported and how, checked before anything heavy is done."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from packaging.version import Version

from ovseg.clip.ensemble import Ensemble
from ovseg.clip.position import RULES
from ovseg.errors import ConfigError, EnvironmentProblem, InputError, one_of
from ovseg.export.graphs import Model, Shape
from ovseg.meta_arch.cat_seg import CATSeg
from ovseg.meta_arch.conv_mask_model import ConvMaskModel
from ovseg.meta_arch.cost_model import CostModel
from ovseg.meta_arch.san.model import SAN
from ovseg.meta_arch.sed import SED
from ovseg.meta_arch.training_free import TrainingFree
from ovseg.system.files import check_makeable

FORMATS = {"onnx": ".onnx", "torch-export": ".pt2", "aoti": ".pt2"}
DTYPES = ("fp32", "fp16", "int8")
OLDEST = "2.15"
"""PyTorch whose exporter is known to make these graphs, for it is the one that tests have; .onnx files run with any."""
_LARGEST = 2**31 - 2**24  # bytes of an ONNX file, with some room for all that is no weight


@dataclass(frozen=True)
class Plan:
    """What is to be exported and how.

    Attributes:
        output: The file.
        format: Of `FORMATS`.
        dtype: Of `DTYPES`; others than fp32 in ONNX alone.
        height, width: The one size in pixels; 0 for none.
        dynamic: For images of all sizes.
        photo: Photographs of any size go in; they are resized inside.
        labels: Labels and scores of every pixel come out.
        overwrite: An existing file is replaced.
    """

    output: Path
    format: str = "onnx"
    dtype: str = "fp32"
    height: int = 0
    width: int = 0
    dynamic: bool = False
    photo: bool = False
    labels: bool = False
    overwrite: bool = False

    def check(self) -> None:
        """Refuse what cannot be done with any model.

        Raises:
            ConfigError: A format, dtype or size is not allowed, or two of them contradict each other.
            InputError: The file exists, or cannot be written.
            EnvironmentProblem: A package is missing, or PyTorch is too old.
        """
        one_of("--format", self.format, tuple(FORMATS))
        one_of("--dtype", self.dtype, DTYPES)
        if self.format != "onnx" and self.dtype != "fp32":
            raise ConfigError(f"--dtype {self.dtype} with --format {self.format}; expected --format onnx, or fp32")
        if self.output.suffix != FORMATS[self.format]:
            raise ConfigError(
                f"--output is '{self.output}'; expected a name that ends in {FORMATS[self.format]} for {self.format}"
            )
        self._check_size()
        if self.output.is_dir():
            raise InputError(f"--output '{self.output}' is a folder; expected the name of a file")
        if self.output.exists() and not self.overwrite:
            raise InputError(f"'{self.output}' exists; choose another name, or add --overwrite to replace it")
        check_makeable(self.output.parent)
        self._check_packages()

    def _check_size(self) -> None:
        if bool(self.height) != bool(self.width):
            given, lacks = ("height", "width") if self.height else ("width", "height")
            raise ConfigError(f"--{given} {self.height or self.width} without --{lacks}; give both, or neither")
        if min(self.height, self.width) < 0:
            raise ConfigError(f"the size is {self.height} x {self.width}; expected positive numbers of pixels")
        if self.height and self.dynamic:
            raise ConfigError(f"--dynamic with --height {self.height} and --width {self.width}; give one of them")
        if self.dynamic and self.photo:
            raise ConfigError(
                "--dynamic with --resize: photographs are resized inside to one size; give --height and --width with "
                "--resize, which takes photographs of any size"
            )

    def _check_packages(self) -> None:
        if self.format == "onnx":
            for name in ("onnx", "onnxscript", "onnxruntime"):
                if importlib.util.find_spec(name) is None:
                    raise EnvironmentProblem(
                        f"{name} is missing, which --format onnx needs; pip install 'ovseg[export]'"
                    )
        if Version(torch.__version__).release < Version(OLDEST).release:
            raise EnvironmentProblem(
                f"PyTorch is {torch.__version__} and export needs {OLDEST} or newer; install a newer one here (.onnx "
                "files are run with any)"
            )
        if self.format == "aoti":
            from ovseg.ops.build import find_compiler

            if find_compiler() is None:
                raise ConfigError("--format aoti compiles and there is no C++ compiler; install g++ or clang++")

    def shape(self, model: Model, name: str) -> Shape:
        """Return the shape of a graph of a model; the size of a model with one size is its own.

        Raises:
            ConfigError: No size was given and the model has none, or the size is too small for it.
        """
        if isinstance(model, CostModel) and model.sliding is not None and not self.dynamic:
            raise ConfigError(f"{name} sees windows of one size, cut from images of all sizes; give --dynamic alone")
        if self.dynamic:
            return Shape(None, False, self.labels)
        size = (self.height, self.width)
        if not self.height:
            if model.size_rule.aspect != "square":
                raise ConfigError(f"{name} sees images in many sizes; give --height and --width, or --dynamic")
            size = model.size_rule.size(1, 1)
        least = least_side(model)
        if min(size) < least:
            raise ConfigError(f"the size is {size[0]} x {size[1]}; {name} needs sides of at least {least} pixels")
        return Shape(size, self.photo, self.labels)

    def least(self, model: Any) -> int:
        """Return the shortest side in pixels that a file for all sizes takes; programs of PyTorch have two patches."""
        window: int = model.protocol.window if isinstance(model, TrainingFree) else 0
        return max(window, least_side(model) * (1 if self.format == "onnx" else 2))

    def refuse(self, model: Any, name: str) -> None:
        """Refuse models and options of them that no graph can have.

        Raises:
            ConfigError: In one sentence, why.
        """
        for reason in (_of_model(model), self._of_dynamic(model), self._of_labels(model)):
            if reason:
                raise ConfigError(f"{name} cannot be exported so: {reason}")
        weights = sum(one.numel() * one.element_size() for one in model.parameters())
        if self.format == "onnx" and weights > _LARGEST:
            raise ConfigError(
                f"{name} has {weights / 1e9:.1f} GB of weights and ONNX files end at 2; give --format torch-export"
            )

    def _of_dynamic(self, model: Any) -> str:
        if not self.dynamic:
            return ""
        if isinstance(model, ConvMaskModel):
            return "its head takes levels of one size; give --height and --width instead of --dynamic"
        if isinstance(model, CostModel):
            return ""
        if isinstance(model, SAN):
            kind = model.bias_pooling
            one = kind == "bicubic"
            return f"biases are pooled by {kind}, which needs one size; give --height and --width" if one else ""
        if model.protocol.window and self.format != "onnx":
            return (
                f"the number of windows is free in --format onnx alone, not in {self.format}; give a height and a width"
            )
        if not model.protocol.window and model.protocol.padding != "none":
            return f"images are padded ({model.protocol.padding}) by their size; give --height and --width"
        rule = model.recalibration.pos_resize
        if rule not in RULES or rule.endswith("antialias"):
            return f"positions are resized by {rule}, which needs one size; give --height and --width"
        return ""

    def _of_labels(self, model: Any) -> str:
        if self.labels and isinstance(model, CATSeg) and (model.sliding is not None or model.most):
            key, value = ("SLIDING", "False") if model.sliding is not None else ("MOST", "0")
            return f"{key} is done by ovseg, behind the graph; leave --labels out, or set MODEL.CATSeg.{key} to {value}"
        if not self.labels or not isinstance(model, TrainingFree):
            return ""
        rule, protocol = model.rule, model.protocol
        steps = {
            "PAMR_STEPS": rule.pamr_steps,
            "AREA_THRESHOLD": rule.area_threshold,
            "SCORE_THRESHOLD": rule.score_threshold,
            "CLOSING": rule.closing,
            "CRF_STEPS": protocol.crf_steps,
        }
        on = [key for key, value in steps.items() if value]
        if not on:
            return ""
        return (
            f"{' and '.join(on)} of MODEL.PROTOCOL cannot be part of a graph; leave --labels out (ovseg does them "
            f"itself), or switch them off: MODEL.PROTOCOL.{on[0]} 0"
        )


def _of_model(model: Any) -> str:
    """Say why a model has no graph; empty where it has one."""
    if not isinstance(model, TrainingFree | SAN | ConvMaskModel | CATSeg | SED):
        return f"there is no graph of a {type(model).__name__}"
    if isinstance(model.clip, Ensemble):
        return "several CLIPs look at an image; name one of them"
    if model.text.autoclip:
        return "AutoCLIP weighs texts for each image; set MODEL.TEXT.AUTOCLIP to 0"
    if isinstance(model, SED) and model.decoder.top:
        return "FAST lets words leave by what an image shows; set MODEL.SED.FAST to False"
    if isinstance(model, CATSeg) and model.recalibration is not None:
        return model.recalibration.why_not_exported()
    if not isinstance(model, TrainingFree):
        return model.not_compiled
    method = model.recalibration
    if reason := method.why_not_exported():
        return reason
    if model.regions is not None or model.protocol.region_rule != "none":
        return "it needs regions of each image; set MODEL.REGIONS.NAME to '' and MODEL.PROTOCOL.REGION_RULE to none"
    if model.rule.min_max and method.flat:
        return (
            f"in {method.name} the scores of a word are so alike all over an image that rounding decides labels where "
            "they are stretched; set MODEL.PROTOCOL.MIN_MAX to False"
        )
    return ""


def least_side(model: Any) -> int:
    """Return the shortest side in pixels that a graph of a model takes: a patch, or what images are padded to."""
    if isinstance(model, CostModel) and not _pads(model):
        return int(model.size_rule.minimum)
    return int(model.clip.patch_size if isinstance(model, TrainingFree) else model.size_divisibility)


def unit_of(model: Any) -> int:
    """Return of how many pixels sides are multiples in a file for several sizes; 1 where any will do."""
    if isinstance(model, CostModel):
        return least_side(model) if _pads(model) else 1
    return 1 if isinstance(model, TrainingFree) and model.protocol.window else least_side(model)


def _pads(model: CostModel) -> bool:
    """Tell whether images are padded before they are squeezed to a square."""
    return isinstance(model, CATSeg) and model.sliding is None and model.padding_stays
