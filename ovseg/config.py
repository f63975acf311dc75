"""Our part of the Detectron2 configuration: which CLIP, which recalibration, which protocol; and its YAML files."""

from __future__ import annotations

import difflib
import os
import re
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ovseg.errors import ConfigError, unknown_name
from ovseg.system.values import merge

if TYPE_CHECKING:
    from detectron2.config import CfgNode

DEFAULT = "TrainingFree"
"""The architecture of a config that names none."""
TABLES = ("CARD", "BENCHMARKS", "EMBEDDED")
"""What a shipped file holds beside the config itself; see configs/training_free/base.yaml."""
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def add_ovseg_config(cfg: CfgNode) -> None:
    """Add our defaults to a Detectron2 config.

    ``MODEL.CLIP`` says where the CLIP comes from, ``MODEL.RECALIBRATION`` what a training-free method changes in it,
    ``MODEL.TEXT`` how words are embedded, ``MODEL.PROTOCOL`` everything that papers set per benchmark: the size rule,
    windows, padding, logit scale, thresholds and refinement. ``INPUT.FORMAT`` becomes RGB, which CLIP was trained with.
    Options of an architecture stand under its name, such as ``MODEL.SAN``; they are no part of this file, but those of
    its constructor and its parts (`ovseg.meta_arch.section`).
    """
    from detectron2.config import CfgNode as Node

    cfg.INPUT.FORMAT = "RGB"
    cfg.MODEL.META_ARCHITECTURE = DEFAULT
    cfg.MODEL.SOURCE = ""  # where the values of a file come from, in words
    cfg.MODEL.CLIP = Node()
    cfg.MODEL.CLIP.ARCH = "ViT-B-16"
    cfg.MODEL.CLIP.PRETRAINED = "openai"  # a tag of open_clip or the path of a file
    cfg.MODEL.CLIP.ACTIVATION = ""  # gelu | quick_gelu; empty: as the weights say, or else the architecture
    cfg.MODEL.CLIP.FOLDER = ""  # takes the place of ARCH and PRETRAINED: a folder, hf:OWNER/NAME or hf-hub:OWNER/NAME
    cfg.MODEL.CLIP.MEMBERS = []  # in the place of all three: several CLIPs, each a folder or ARCH/PRETRAINED; clip:A+B
    cfg.MODEL.CLIP.RESIZE_POSITION = False  # fit position embeddings of another size, as open_clip does
    cfg.MODEL.RECALIBRATION = Node()
    cfg.MODEL.RECALIBRATION.NAME = "CLIP"
    cfg.MODEL.RECALIBRATION.OPTIONS = Node(new_allowed=True)
    cfg.MODEL.RECIPE = Node()  # how TunedClip is tuned; see ovseg.meta_arch.tuned_clip.recipe
    cfg.MODEL.RECIPE.NAME = "CLIPSelf"
    cfg.MODEL.RECIPE.OPTIONS = Node(new_allowed=True)
    cfg.MODEL.REGIONS = Node()
    cfg.MODEL.REGIONS.NAME = ""  # generator of regions, for methods that use them and for PROTOCOL.REGION_RULE
    cfg.MODEL.REGIONS.OPTIONS = Node(new_allowed=True)
    cfg.MODEL.TEXT = Node()
    cfg.MODEL.TEXT.TEMPLATES = "openai80"
    cfg.MODEL.TEXT.BACKGROUND = "none"
    cfg.MODEL.TEXT.AUXILIARY = ""  # JSON files, shipped ones by name; see ovseg.vocabulary.text_options
    cfg.MODEL.TEXT.AUXILIARY_WEIGHT = 0.2
    cfg.MODEL.TEXT.DESCRIPTIONS = ""
    cfg.MODEL.TEXT.DESCRIPTIONS_WITH_TEMPLATES = False
    cfg.MODEL.TEXT.SUBCLASSES = ""
    cfg.MODEL.TEXT.AUTOCLIP = 0.0  # share of the largest entropy; 0 is off
    cfg.MODEL.TEXT.LONG_TEXT = False  # whether texts beyond the context of the text tower are read in windows
    cfg.MODEL.TEXT.LINEAR = ""  # file with a matrix that rows of texts pass (LABCLIP)
    cfg.MODEL.TEXT.VOCABULARY = ""  # default words of a model; empty: the user gives them
    for table in TABLES:
        cfg[table] = Node(new_allowed=True)  # so that Detectron2's own `merge_from_file` reads the shipped files, too
    _add_protocol(cfg)
    _add_training(cfg)
    cfg.MODEL.__dict__[Node.NEW_ALLOWED] = True  # this node alone: MODEL.<architecture> holds the options of one


def _add_protocol(cfg: CfgNode) -> None:
    """Add what papers set per benchmark."""
    from detectron2.config import CfgNode as Node

    protocol = cfg.MODEL.PROTOCOL = Node()
    protocol.SHORT_SIDE = 336  # pixels; the longer side follows, up to LONG_SIDE
    protocol.LONG_SIDE = 2048
    protocol.ASPECT = "keep"  # keep | square: both are SHORT_SIDE | patch: multiples of a patch | photo: as it is
    protocol.WINDOW = 224  # side of a sliding window in pixels; 0 is the whole image
    protocol.STRIDE = 112
    protocol.PADDING = "none"  # none | corner | even
    protocol.PAD_MULTIPLE = 0  # pixels; 0 is the patch
    protocol.RESIZE = (
        "once"  # once | twice: a whole image's scores to the output at once, or by way of the input's size
    )
    protocol.CORNERS = False  # True: the outermost patches of a window lie on its outermost pixels (Talk2DINO)
    protocol.IMAGE_ENGINEERING = 0.0  # share of the unflipped views in ITACLIP's ensemble; 0 is off
    protocol.LOGIT_SCALE = 40.0
    protocol.PROB_THRESHOLD = 0.0
    protocol.THRESHOLD_LABEL = -1  # what pixels under the threshold get: -1 no class, 0 as the benchmarks' background
    protocol.AREA_THRESHOLD = 0.0
    protocol.SCORE_THRESHOLD = 0.0  # queries whose best patch score is no higher are dropped (CLIPer); 0 is off
    protocol.MIN_MAX = False
    protocol.KEEP_PEAK = False  # True: upsampled maps keep the peaks of their patches (CLIPer)
    protocol.SOFTMAX = True  # False for methods whose scores are probabilities
    protocol.CLOSING = 0  # pixels; side of the square by which the labels are closed (ITACLIP: 3); 0 is off
    protocol.REGION_RULE = "none"  # none | vote | mean: what the regions of the method or of MODEL.REGIONS do to labels
    protocol.CRF_STEPS = 0  # dense CRF at the size of the network input; needs the extra `crf`
    protocol.CRF_SMOOTHNESS = (3.0, 3.0)  # pixels, weight
    protocol.CRF_APPEARANCE = (50.0, 5.0, 10.0)  # pixels, grey levels, weight
    protocol.PAMR_STEPS = 0
    protocol.PAMR_DILATIONS = (8, 16)
    protocol.PAMR_AT = (
        "output"  # output: at the photograph's size, as in most papers | network: at the input's | window
    )


def _add_training(cfg: CfgNode) -> None:
    """Add what training knows besides Detectron2's own keys; names as in Mask2Former where it has them."""
    from detectron2.config import CfgNode as Node

    cfg.SEED = 0
    cfg.MODEL.DEVICE = "auto"
    cfg.DATASETS.VOCABULARY = ""  # words in place of those of the data sets; see ovseg.data.dataset.Dataset
    cfg.DATASETS.RENAME = ""  # "old=new, ..." or a file, before the words; see ovseg.data.renaming
    cfg.INPUT.DATASET_MAPPER_NAME = "semantic"  # semantic: a mask per class | panoptic_lsj: a mask per segment
    cfg.INPUT.COLOR_AUG_SSD = False
    cfg.INPUT.IMAGE_SIZE, cfg.INPUT.MIN_SCALE, cfg.INPUT.MAX_SCALE = 1024, 0.1, 2.0  # of panoptic_lsj
    solver = cfg.SOLVER
    solver.OPTIMIZER = "ADAMW"  # ADAMW | SGD | MUON: Muon for matrices, AdamW for the rest
    solver.LR_SCHEDULER_NAME = "WarmupPolyLR"  # or WarmupMultiStepLR, WarmupCosineLR
    solver.WARMUP_ITERS = 0
    solver.POLY_LR_POWER, solver.POLY_LR_CONSTANT_ENDING = 0.9, 0.0
    solver.WEIGHT_DECAY_EMBED = 0.0  # of nn.Embedding
    solver.LR_MULTIPLIERS = []  # [[regular expression over parameter names, factor], ...]; the first match counts
    solver.DECAY_MULTIPLIERS = []  # the same for weight decay; goes before the rules for norms and embeddings
    solver.CLIP_GRADIENTS.CLIP_TYPE = "full_model"
    solver.ACCUMULATE = 1  # passes per step; IMS_PER_BATCH counts all of them on all processes
    solver.AMP.DTYPE = "fp16"  # or bf16, which is what CPUs get
    solver.EMA = Node({"ENABLED": False, "DECAY": 0.9998})
    solver.BETA_AVERAGE = Node({"ENABLED": False, "BETA": 0.5})  # CLIPood: both ends of a training count most
    solver.LOG_PERIOD = 20  # steps


def default_protocol() -> CfgNode:
    """Return ``MODEL.PROTOCOL`` as it is where a config says nothing of it."""
    from detectron2.config import get_cfg

    cfg = get_cfg()
    add_ovseg_config(cfg)
    return cfg.MODEL.PROTOCOL


def config_root() -> Path:
    """Return the folder of the shipped YAML files: the copy in an installed package, or ``configs/`` of a checkout."""
    package = Path(__file__).parent
    installed = package / "zoo" / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def examples_root() -> Path:
    """Return the folder of the example photographs: the copy in an installed package, or that of a checkout."""
    package = Path(__file__).parent
    installed = package / "serve" / "examples"
    return installed if installed.is_dir() else package.parent / "examples"


def shipped_configs() -> list[Path]:
    """Return all shipped YAML files."""
    return sorted(config_root().rglob("*.yaml"))


def find_config(name: str | Path, folder: Path = Path()) -> Path:
    """Return the file that the name of a config stands for; the same wherever one is named.

    Args:
        name: A file, or one that is shipped: ``san/mini.yaml``, with or without ``configs/`` before it.
        folder: What a relative path starts at.

    Raises:
        ConfigError: There is none; says near names, or where the settings of earlier files are now.
    """
    own, shipped = folder / os.path.expanduser(name), config_root() / str(name).removeprefix("configs/")
    found = next((path for path in (own, shipped) if os.path.isfile(path)), None)
    if found is None:
        raise ConfigError(f"no config file '{name}'; {_hint(Path(name))}")
    return found


def read_config(path: Path) -> dict[str, Any]:
    """Read one YAML file, without those it is based on; a shipped one only once in a process. Do not change it.

    Raises:
        ConfigError: It is no YAML, or no mapping.
    """
    return _read_shipped(path) if path.is_relative_to(config_root()) else _read(path)


@cache
def _read_shipped(path: Path) -> dict[str, Any]:
    return _read(path)


def _read(path: Path) -> dict[str, Any]:
    try:
        found = yaml.load(path.read_text(encoding="utf-8"), _LOADER)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"config '{path}' cannot be used: {' '.join(str(error).split())}") from error
    if not isinstance(found, dict):
        raise ConfigError(f"config '{path}' cannot be used: it holds a {type(found).__name__}, expected KEY: value")
    return found


def read_chain(path: Path, above: tuple[Path, ...] = ()) -> list[tuple[Path, dict[str, Any]]]:
    """Read a config and the files that it is based on (``_BASE_``), the most basic first.

    Args:
        path: The file.
        above: Those that are based on it.

    Raises:
        ConfigError: A file is missing, cannot be read, or is based on itself.
    """
    settings = dict(read_config(path))
    base = settings.pop("_BASE_", None)
    if base is None:
        return [(path, settings)]
    try:
        below = find_config(base, path.parent)
    except (ConfigError, TypeError) as error:
        raise ConfigError(f"config '{path}' cannot be used: _BASE_: {error}") from error
    above = (*above, path.resolve())
    if below.resolve() in above:
        raise ConfigError(f"config '{path}' cannot be used: _BASE_: '{base}' is based on this file; take it out")
    return [*read_chain(below, above), (path, settings)]


def _hint(name: Path) -> str:
    """Say what may be meant by the name of a config that is not there."""
    root, stem = config_root(), name.stem
    files = {path.relative_to(root).as_posix(): path for path in shipped_configs()}
    method = files.get(f"training_free/{name.parent.name}.yaml")  # earlier each method had a folder of settings
    if method is not None:
        if stem in read_config(method).get("BENCHMARKS", {}):
            return f"its settings are BENCHMARKS.{stem} of {method.name}: --model {method.stem}/... --protocol {stem}"
        if any(path.stem == stem for path in files.values()):
            return f"its settings are EMBEDDED.{stem} of {method.name}: --model {method.stem}/{stem}"
    for shipped, path in files.items():  # and a model the name of its weights
        if stem in (path.stem, Path(read_config(path).get("CARD", {}).get("file", "")).stem):
            return f"did you mean {shipped}?"
    near = difflib.get_close_matches(name.as_posix().removeprefix("configs/"), files, n=3, cutoff=0.7)
    return f"did you mean {', '.join(near)}?" if near else "expected a file, or a name such as training_free/sclip.yaml"


def load_config(path: str | Path, overrides: dict[str, Any] | None = None) -> CfgNode:
    """Read a YAML config (with ``_BASE_``) over Detectron2's and our defaults; what is in `TABLES` is left out.

    Detectron2's own size rule for tests (``INPUT.MIN_SIZE_TEST`` and ``MAX_SIZE_TEST``) is set to that of the protocol,
    so that its dataset mapper shows the model the same images as we do.

    Args:
        path: The file, or a name as for `find_config`.
        overrides: Nested mapping in the shape of the config, applied last.

    Raises:
        ConfigError: The file is missing, is no YAML, or has values of the wrong type.
        UnknownNameError: A key is unknown; near matches are named.
    """
    from detectron2.config import CfgNode as Node
    from detectron2.config import get_cfg

    cfg = get_cfg()
    add_ovseg_config(cfg)
    settings: dict[str, Any] = {}
    for _, part in read_chain(find_config(path)):
        settings = merge(settings, part)
    for table in TABLES:
        settings.pop(table, None)
        del cfg[table]
    try:
        settings = modernise(merge(settings, overrides or {}), str(path))
        _open_section(cfg, settings)
        cfg.merge_from_other_cfg(Node(settings))
    except (KeyError, ValueError, TypeError, AttributeError, AssertionError) as error:
        text = " ".join(str(error).split()).strip("'\"")
        if unknown := re.search(r"Non-existent config key: ([\w.]+)", text):
            raise unknown_name(f"key in config '{path}':", unknown[1], _keys(cfg)) from error
        raise ConfigError(f"config '{path}' cannot be used: {text or type(error).__name__}") from error
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = cfg.MODEL.PROTOCOL.SHORT_SIDE, cfg.MODEL.PROTOCOL.LONG_SIDE
    cfg.freeze()
    return cfg


RENAMED = {"MAFT": "MAFTPlus"}
"""Sections of ``MODEL`` that had another name once; see docs/migration.md."""
SECTIONS = ("SAN", "FCCLIP", "MAFTPlus")
"""What configs of earlier versions held whatever their architecture, also when it reads but one of them, or none."""


def new_key(key: str) -> str:
    """Return what a dotted key of a config of any version is called now."""
    first, *rest = key.split(".")
    return ".".join([first, RENAMED.get(rest[0], rest[0]), *rest[1:]]) if rest and first == "MODEL" else key


def modernise(settings: dict[str, Any], source: str) -> dict[str, Any]:
    """Return the settings of a config of any version in the names of this one; what was changed is said in one line.

    Args:
        settings: Nested; not changed.
        source: What to call them.

    Raises:
        ConfigError: A value is given under its old name and under its new one.
    """
    model = settings.get("MODEL")
    if not isinstance(model, dict):
        return settings
    model, notes = dict(model), []
    own = model.get("META_ARCHITECTURE", DEFAULT)
    for old, new in RENAMED.items():
        if new == own and isinstance(earlier := model.pop(old, None), dict):
            if twice := earlier.keys() & model.get(new, {}).keys():
                both = f"MODEL.{old}.{min(twice)} and MODEL.{new}.{min(twice)}"
                raise ConfigError(f"'{source}' has {both}, which are one; leave the first out")
            model[new] = {**earlier, **model.get(new, {})}
            notes.append(f"MODEL.{old} is called MODEL.{new} now")
    foreign = [key for key in (*SECTIONS, *RENAMED) if key != own and model.pop(key, None) is not None]
    if foreign:
        notes.append(f"{', '.join(f'MODEL.{key}' for key in foreign)} left out, which {own} does not read")
    if notes:
        warnings.warn(f"in config '{source}' {'; '.join(notes)}", stacklevel=3)
    return {**settings, "MODEL": model}


def _open_section(cfg: CfgNode, settings: dict[str, Any]) -> None:
    """Let ``MODEL`` hold the section of the architecture that settings name, any keys in it, and no others."""
    from detectron2.config import CfgNode as Node

    cfg.MODEL.__dict__[Node.NEW_ALLOWED] = False
    model = settings.get("MODEL", {})
    name = model.get("META_ARCHITECTURE", DEFAULT)
    if name in model and name not in cfg.MODEL:
        cfg.MODEL[name] = Node(new_allowed=True)


def _keys(node: CfgNode, prefix: str = "") -> Iterator[str]:
    """Yield all keys of a config, dotted."""
    for key, value in node.items():
        yield f"{prefix}{key}"
        if hasattr(value, "items"):
            yield from _keys(value, f"{prefix}{key}.")
