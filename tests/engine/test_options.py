"""What a command line changes in a recipe: options as text, and settings that go with the data they belong to."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from ovseg.config import load_config, shipped_configs
from ovseg.engine.options import read_options, training_spec, with_seed
from ovseg.errors import ConfigError
from ovseg.zoo import resolve


def test_options_of_the_command_line() -> None:
    found = read_options(["SOLVER.MAX_ITER", "10", "OUTPUT_DIR", "runs/x", "INPUT.CROP.SIZE", "(1, 2)"])
    assert found == {"SOLVER": {"MAX_ITER": 10}, "OUTPUT_DIR": "runs/x", "INPUT": {"CROP": {"SIZE": (1, 2)}}}
    words = read_options(["A.B", "true", "A.C", "false", "A.D", "null", "A.E", "None", "A.F", "nothing"])
    assert words == {"A": {"B": True, "C": False, "D": None, "E": None, "F": "nothing"}}
    with pytest.raises(ConfigError, match="'OUTPUT_DIR' has no value"):
        read_options(["OUTPUT_DIR"])


RECIPES = [path for path in shipped_configs() if load_config(path).DATASETS.TRAIN]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
@pytest.mark.parametrize("train", ["mydata", ("mydata",)], ids=["text", "tuple"])
def test_nothing_of_the_data_of_a_recipe_survives_their_replacement(path: Path, train: str | tuple[str, ...]) -> None:
    """Whichever recipe, and however the data are spelled."""
    spec, lines = training_spec(str(path), {"DATASETS": {"TRAIN": train}})
    data, before = spec.config.DATASETS, load_config(path).DATASETS
    assert (tuple(data.TRAIN), tuple(data.TEST), data.VOCABULARY) == (("mydata",), (), "")
    model, was = spec.config.MODEL, resolve(path).config.MODEL
    section, kept = (one.get(model.META_ARCHITECTURE, {}) for one in (model, was))  # not all have one
    known = kept.TRAINED_VOCABULARY if section.get("ADAPTER") else ""  # an adapter leaves its head as it was
    assert model.TEXT.VOCABULARY == "" and section.get("TRAINED_VOCABULARY", "") == known
    said = [name for name in ("VOCABULARY", "TEST") if before[name]]
    assert [line.split()[0] for line in lines] == [f"DATASETS.{name}" for name in said]
    assert all("belongs to" in line and "mydata" in line for line in lines)


def test_what_the_user_gives_counts() -> None:
    own = {"TRAIN": ("mydata",), "TEST": ("myval",), "VOCABULARY": "cat, dog"}
    spec, lines = training_spec("san/san_mini_scenes.yaml", {"DATASETS": own})
    assert spec.config.DATASETS.VOCABULARY == "cat, dog" and tuple(spec.config.DATASETS.TEST) == ("myval",)
    assert not lines


def test_the_recipe_on_its_own_data_keeps_its_words() -> None:
    for changes in ({}, {"DATASETS": {"TRAIN": ("data/scenes/train",)}}, {"DATASETS": {"TEST": ("other",)}}):
        spec, lines = training_spec("san/san_mini_scenes.yaml", changes)
        assert spec.config.DATASETS.VOCABULARY == "scenes" and not lines


def test_other_test_sets_are_judged_by_their_own_classes() -> None:
    """In an evaluation, where nothing is learnt from the words of the recipe."""
    spec, lines = training_spec("mini", {"DATASETS": {"TEST": "other"}}, evaluating=True)
    assert spec.config.DATASETS.VOCABULARY == "" and tuple(spec.config.DATASETS.TEST) == ("other",)
    assert len(lines) == 1 and lines[0].startswith("DATASETS.VOCABULARY 'scenes' of the recipe")


def test_words_of_weights_go_with_them(tmp_path: Path) -> None:
    """A run's weights in any config: FC-CLIP knows what they were trained on; a new training has words of its own."""
    run = tmp_path / "run"
    run.mkdir()
    (run / "classes.json").write_text('["glorp"]')
    for name in ("model.safetensors", "last.pt"):
        weights = {"MODEL": {"WEIGHTS": str(run / name)}}
        spec, _ = training_spec("fcclip/fcclip_mini_scenes.yaml", weights, evaluating=True)
        assert spec.config.MODEL.TEXT.VOCABULARY == str(run / "classes.json")
        assert spec.config.MODEL.FCCLIP.TRAINED_VOCABULARY == ""
        spec, _ = training_spec("fcclip/fcclip_mini_scenes.yaml", weights)
        assert spec.config.MODEL.TEXT.VOCABULARY == "" == spec.config.MODEL.FCCLIP.TRAINED_VOCABULARY
    spec, _ = training_spec("fcclip/fcclip_mini_scenes.yaml", {}, evaluating=True)
    assert spec.config.MODEL.FCCLIP.TRAINED_VOCABULARY == "scenes"


def test_a_seed_that_is_drawn(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump({"VERSION": 2, "MODEL": {"META_ARCHITECTURE": "SAN"}, "SEED": -1}))
    spec, _ = training_spec(str(path), {"OUTPUT_DIR": "x"})
    seeds = set()
    for _ in range(3):
        drawn, lines = with_seed(spec, str(path), None)
        seeds.add(drawn.config.SEED)
        assert drawn.config.OUTPUT_DIR == "x" and f"seed {drawn.config.SEED} was drawn" in lines[0]
    assert len(seeds) == 3 and min(seeds) >= 0
    assert with_seed(spec, str(path), 7)[0].config.SEED == 7
    spec, _ = training_spec(str(path), {"SEED": -2})
    with pytest.raises(ConfigError, match="SEED is -2; expected 0 or more, or -1"):
        with_seed(spec, str(path), None)


def test_an_adapter_keeps_what_its_head_has_learnt(tmp_path: Path) -> None:
    """From the run of the head to that of its second training, whatever the adapter learns by."""

    def words(weights: Path | str, **own: str) -> str:
        model = {"WEIGHTS": str(weights), "FCCLIP": {"ADAPTER_STAGE": "mixed", **own}}
        changes = {"MODEL": model, "DATASETS": {"TRAIN": "mydata"}}
        spec, _ = training_spec("fcclip/fcclip_convnext_l_adapter_warmup.yaml", changes)
        assert spec.config.MODEL.TEXT.VOCABULARY == ""
        (tmp_path / "warm").mkdir(exist_ok=True)
        (tmp_path / "warm/config.yaml").write_text(spec.config.dump(), encoding="utf-8")
        found: str = spec.config.MODEL.FCCLIP.TRAINED_VOCABULARY
        return found

    assert words("fcclip_cocopan.pth") == "coco133"
    (tmp_path / "head").mkdir()
    (tmp_path / "head/classes.json").write_text('[{"name": "cat", "synonyms": ["kitten"]}, {"name": "sofa"}]')
    assert words(tmp_path / "head/model.safetensors") == "cat|kitten, sofa"
    (tmp_path / "warm/classes.json").write_text('["tomato"]')
    assert words(tmp_path / "warm/model.safetensors") == "cat|kitten, sofa"
    assert resolve(tmp_path / "warm").config.MODEL.FCCLIP.TRAINED_VOCABULARY == "cat|kitten, sofa"
    assert words(tmp_path / "head/last.pt", TRAINED_VOCABULARY="coco80") == "coco80"
    (tmp_path / "head/classes.json").write_text('["cup, mug", "sofa"]')
    assert words(tmp_path / "head/model.safetensors") == str(tmp_path / "head/classes.json")
