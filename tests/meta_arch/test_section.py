"""Options of architectures: what a config says under their names, by the signatures of what they are made of."""

from __future__ import annotations

import json
import warnings
from functools import partial
from pathlib import Path
from typing import ClassVar

import pytest
import yaml
from detectron2.config import get_cfg
from detectron2.modeling import build_model

from ovseg.config import add_ovseg_config, config_root, load_config
from ovseg.contract import identity
from ovseg.errors import ConfigError, OvsegError
from ovseg.meta_arch import ARCHITECTURES, complete
from ovseg.meta_arch.section import Section, Sectioned, lower_keys, section_options
from ovseg.system.registry import options_of
from ovseg.zoo import model_config
from tests.meta_arch.models import build

SHIPPED = {
    "SAN": "san/san-vit-b-16.yaml",
    "FCCLIP": "fcclip/fcclip-convnext-l.yaml",
    "MAFTPlus": "maft_plus/maftp-b.yaml",
    "CATSeg": "cat_seg/catseg-b.yaml",
    "SED": "sed/sed-b.yaml",
}
ELSEWHERE = {"Talk2DINO", "SAM3", "CLIPSeg", "MaskClassifier", "OVSAM", "OVSeg"}
"""These have tests of their options in their homes."""
# What the released models have; it stands in no file, for it is the default.
RELEASED = {
    "SAN": {"WIDTH": 240, "DEPTH": 8, "FRONT_BLOCKS": 9, "FUSION": ("0->0", "3->1", "6->2", "9->3"), "BIAS_HEADS": 0},
    "FCCLIP": {"QUERIES": 250, "PANOPTIC": True, "INSTANCES": True, "OBJECT_THRESHOLD": 0.0, "OVERLAP_THRESHOLD": 0.8},
    "MAFTPlus": {"QUERIES": 100, "PANOPTIC": False, "OBJECT_THRESHOLD": 0.2, "OVERLAP_THRESHOLD": 0.7},
}
MASKS = ("SAN", "FCCLIP", "MAFTPlus")
SHARED = {"POINTS": 12544, "VOID_WEIGHT": 0.1, "LOSS_WEIGHTS": (2.0, 5.0, 5.0)}  # of those that propose masks
RELEASED = {name: {**own, **SHARED} for name, own in RELEASED.items()}
RELEASED["CATSeg"] = {"HIDDEN": 128, "SWIN_WINDOW": 12, "FILL": 256, "MOST": 256, "POOLING": (1, 1), "NAMES": "all"}
RELEASED["SED"] = {"HIDDEN": 128, "PROMPTS": 80, "KERNELS": (9, 9, 9), "FAST": False, "NAMES": "mean"}


def config(name, **options):
    return load_config(config_root() / SHIPPED[name], {"MODEL": {name: options}})


def test_every_architecture_with_options_is_here():
    assert {name for name, one in ARCHITECTURES.all().items() if issubclass(one, Sectioned)} == (
        SHIPPED.keys() | ELSEWHERE
    )


@pytest.mark.parametrize("name", SHIPPED)
def test_the_section_is_complete_and_named_like_the_class(name):
    node = model_config(config_root() / SHIPPED[name]).MODEL[name]
    assert {**node, **RELEASED[name]} == node
    known = section_options(ARCHITECTURES.all()[name])
    assert node.keys() == {option.upper() for option in known}
    assert all(option.annotation is not option.empty for option in known.values())


@pytest.mark.parametrize("name", MASKS)
def test_values_are_checked_by_their_types(name):
    cfg = complete(config(name, VOID_WEIGHT=1, LOSS_WEIGHTS=[1, 2, 3]))
    assert cfg.is_frozen()
    assert (cfg.MODEL[name].VOID_WEIGHT, cfg.MODEL[name].LOSS_WEIGHTS) == (1, (1, 2, 3))
    for options, message in (
        ({"POINT": 3}, f"unknown option 'point' of MODEL.{name}; did you mean points"),
        ({"QUERIES": 2.5}, r"option queries is 2.5 \(float\); expected int"),
        ({"LOSS_WEIGHTS": [1, 2]}, r"option loss_weights is \[1, 2\] \(list\); expected tuple\[float, float, float\]"),
        ({"HEADS": None}, r"option heads is None \(None\); expected int"),
        ({"HEADS": 4, "heads": 2}, f"MODEL.{name} has a key in capitals and in small letters"),
    ):
        for read in (complete, build_model):  # the latter is Detectron2's own way, before any weights are read
            with pytest.raises(ConfigError, match=message):
                read(config(name, **options))


@pytest.mark.parametrize("file", ["san", "fcclip", "maft_plus", "cat_seg", "sed"])
def test_every_option_that_makes_results_tells_models_apart(file, tiny_clip, deeper_clip, tiny_convnext):
    built = build(file, {"san": tiny_clip, "cat_seg": deeper_clip}.get(file, tiny_convnext))
    kind = ARCHITECTURES.all()[built.settings["architecture"]]
    unrecorded = {option for part in kind.unrecorded for option in options_of(kind.made_of[part])}
    of_learning = {"train_classes", "void"} if file in ("cat_seg", "sed") else {"void_weight", "points"}
    assert of_learning <= unrecorded and not unrecorded & {"queries", "alpha", "adapter_threshold"}
    assert built.settings["options"].keys() == section_options(kind).keys() - unrecorded
    assert built.settings == json.loads(json.dumps(built.settings))


def test_models_of_the_same_weights_and_other_options_are_not_the_same(tiny_clip):
    model, other = build("san", tiny_clip), build("san", tiny_clip, BIAS_POOLING="avg")
    assert model.weights_hash == other.weights_hash and identity(model) != identity(other)
    areas = [build("sclip", tiny_clip, regions={"NAME": "MeanShift", "OPTIONS": {"COLOUR": c}}) for c in (12.0, 13.0)]
    assert identity(areas[0]) != identity(areas[1])
    model.clip.mean = (0.4, 0.5, 0.5)
    assert identity(model) != identity(build("san", tiny_clip))


def test_a_change_may_have_another_type_than_the_file(tmp_path):
    """A whole number in a file says nothing of the type of its option."""
    file = tmp_path / "own.yaml"
    file.write_text(yaml.safe_dump({"_BASE_": str(config_root() / SHIPPED["SAN"]), "MODEL": {"SAN": {"MASK_BIAS": 3}}}))
    assert model_config(file).MODEL.SAN.MASK_BIAS == 3
    assert model_config(file, {"MODEL": {"SAN": {"MASK_BIAS": 2.5, "DEPTH": 4}}}).MODEL.SAN.MASK_BIAS == 2.5


def test_sections_of_others_and_misspelt_ones():
    for name, wrong in (("SAN", "SNA"), ("MAFTPlus", "MAFTPLUS"), ("FCCLIP", "PROTOCL")):
        with pytest.raises(OvsegError, match=f"unknown key in config .*'MODEL.{wrong}'; did you mean MODEL."):
            load_config(config_root() / SHIPPED[name], {"MODEL": {wrong: {"QUERIES": 3}}})
    with pytest.raises(OvsegError, match=r"unknown MODEL.META_ARCHITECTURE 'maftplus'; did you mean MAFTPlus"):
        model_config(config_root() / SHIPPED["MAFTPlus"], {"MODEL": {"META_ARCHITECTURE": "maftplus"}})
    with pytest.raises(ConfigError, match=r"TrainingFree has no options of its own.*; leave MODEL.TrainingFree out"):
        model_config("sclip/mini", {"MODEL": {"TrainingFree": {"DEPTH": 3}}})


@pytest.mark.parametrize("name", MASKS)
def test_a_config_of_an_earlier_version(tmp_path, name):
    """Earlier versions wrote the sections of all architectures into the folder of a run, under earlier names."""
    sections = {"SAN": {"QUERIES": 7}, "FCCLIP": {"QUERIES": 7}, "MAFT": {"QUERIES": 7, "RC_WEIGHT": 0.2}}
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump({"MODEL": {"META_ARCHITECTURE": name, **sections}}))
    with pytest.warns(UserWarning, match=f"left out, which {name} does not read") as caught:
        node = model_config(file).MODEL
    (said,) = (str(one.message) for one in caught if "left out" in str(one.message))
    assert node[name].QUERIES == 7 and not (sections.keys() - {name}) & node.keys() and "\n" not in said
    assert ("MODEL.MAFT is called MODEL.MAFTPlus now" in said) is (name == "MAFTPlus")
    if name == "MAFTPlus":
        assert node.MAFTPlus.RC_WEIGHT == 0.2
        with pytest.raises(ConfigError, match=r"has MODEL.MAFT.QUERIES and MODEL.MAFTPlus.QUERIES, which are one"):
            model_config(file, {"MODEL": {"MAFTPlus": {"QUERIES": 8}}})


def test_configs_of_this_version_are_silent(tmp_path):
    file = tmp_path / "config.yaml"
    for name, path in SHIPPED.items():
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            whole = model_config(config_root() / path)
            file.write_text(whole.dump())
            assert model_config(file).MODEL[name] == whole.MODEL[name]


def test_the_way_of_a_detectron2_script(tiny_clip):
    cfg = get_cfg()
    add_ovseg_config(cfg)
    cfg.merge_from_file(str(config_root() / "san/san_mini_scenes.yaml"))
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "MODEL.SAN.DEPTH", 5, "MODEL.SAN.SUPERVISED_BLOCKS", [5]])
    model = build_model(cfg)
    assert len(model.side_adapter.blocks) == 5 and model.criterion.points == 1024
    cfg.merge_from_other_cfg(type(cfg)({"MODEL": {"META_ARCHITECTURE": "MAFTPlus", "MAFT": {"QUERIES": 5}}}))
    with pytest.raises(ConfigError, match=r"MODEL.MAFT is called MODEL.MAFTPlus now; rename it"):
        build_model(cfg)


class Wheel:
    def __init__(self, size: int, *, spokes: int = 3):
        self.size, self.spokes = size, spokes


class Rim:
    def __init__(self, *, spokes: int = 4, width: float = 1.0):
        self.spokes, self.width = spokes, width


class Cart(Sectioned):
    made_of: ClassVar = {"wheel": Wheel, "rim": partial(Rim, spokes=3)}

    def __init__(self, wheel, rim, *, load: str = "hay"):
        self.wheel, self.rim, self.load = wheel, rim, load


def test_parts_are_made_of_their_own_options():
    cfg = get_cfg()
    cfg.MODEL.Cart = type(cfg)({"SPOKES": 5, "LOAD": "straw"})
    section = Section(Cart, cfg)
    assert section.options == {"spokes": 5, "width": 1.0, "load": "straw"} and section.own == {"load": "straw"}
    wheel, rim = section.make("wheel", 8), section.make("rim")
    assert (wheel.size, wheel.spokes, rim.spokes, rim.width) == (8, 5, 5, 1.0)


def test_one_option_has_one_default(monkeypatch):
    monkeypatch.setattr(Cart, "made_of", {"wheel": Wheel, "rim": Rim})
    with pytest.raises(TypeError, match="option spokes of Cart is 'spokes: int = 3' and 'spokes: int = 4'"):
        section_options(Cart)


def test_keys_in_capitals():
    assert lower_keys({"DEPTH": 3, "MODEL_TYPE": "x"}, "OPTIONS") == {"depth": 3, "model_type": "x"}


def test_the_migration_page_names_what_was_renamed():
    from ovseg.config import RENAMED

    page = (Path(__file__).parents[2] / "docs/migration.md").read_text()
    assert all(f"| `MODEL.{old}` | `MODEL.{new}` |" in page for old, new in RENAMED.items())
