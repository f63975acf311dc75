from __future__ import annotations

import os
import runpy
from pathlib import Path

import pytest
from setuptools import Distribution

from ovseg import config
from ovseg.config import add_ovseg_config, config_root, load_config

ROOT = Path(__file__).parents[1]


def test_defaults_stand_beside_those_of_detectron2():
    from detectron2.config import get_cfg

    cfg = get_cfg()
    add_ovseg_config(cfg)
    assert cfg.MODEL.META_ARCHITECTURE == "TrainingFree" and cfg.INPUT.FORMAT == "RGB"
    assert cfg.SOLVER.MAX_ITER > 0 and cfg.MODEL.PROTOCOL.WINDOW == 224


def test_base_overrides_and_size_rule():
    cfg = load_config(config_root() / "training_free/naclip.yaml", {"MODEL": {"PROTOCOL": {"SHORT_SIDE": 100}}})
    assert cfg.MODEL.RECALIBRATION.NAME == "NACLIP"
    assert cfg.MODEL.CLIP.ARCH == "ViT-B-16"  # of base.yaml
    assert (cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST) == (100, cfg.MODEL.PROTOCOL.LONG_SIDE)
    with pytest.raises(AttributeError, match="immutable"):
        cfg.MODEL.PROTOCOL.SHORT_SIDE = 3


def test_detectron2_reads_the_shipped_files_too():
    from detectron2.config import get_cfg

    cfg = get_cfg()  # the way of a Detectron2 script
    add_ovseg_config(cfg)
    path = config_root() / "training_free/sclip.yaml"
    cfg.merge_from_file(str(path))
    assert cfg.MODEL == load_config(path).MODEL
    assert set(config.TABLES) <= set(cfg) and not set(config.TABLES) & set(load_config(path))


def test_bases_are_files_beside_or_shipped_ones(tmp_path):
    (tmp_path / "own.yaml").write_text("_BASE_: training_free/naclip.yaml\nMODEL: {PROTOCOL: {SHORT_SIDE: 64}}\n")
    (tmp_path / "deeper").mkdir()
    path = tmp_path / "deeper/more.yaml"
    path.write_text("_BASE_: ../own.yaml\nMODEL: {PROTOCOL: {PAMR_STEPS: 1}}\n")
    cfg = load_config(path)
    assert (cfg.MODEL.RECALIBRATION.NAME, cfg.MODEL.PROTOCOL.SHORT_SIDE) == ("NACLIP", 64)
    assert (cfg.MODEL.PROTOCOL.PAMR_STEPS, cfg.MODEL.PROTOCOL.STRIDE) == (1, 112)
    (tmp_path / "own.yaml").write_text("_BASE_: deeper/more.yaml\n")
    with pytest.raises(config.ConfigError, match=r"own\.yaml' cannot be used: _BASE_: .* is based on this file"):
        load_config(path)
    path.write_text("_BASE_: [a.yaml, b.yaml]\n")
    with pytest.raises(config.ConfigError, match="cannot be used: _BASE_: "):
        load_config(path)


def test_a_changed_file_of_the_user_is_read_again(tmp_path):
    path = tmp_path / "own.yaml"
    for side in (64, 96):
        path.write_text(f"MODEL: {{PROTOCOL: {{SHORT_SIDE: {side}}}}}\n")
        assert load_config(path).MODEL.PROTOCOL.SHORT_SIDE == side


def test_a_config_runs_no_code(tmp_path):
    path = tmp_path / "evil.yaml"
    path.write_text(f"OUTPUT_DIR: !!python/object/apply:os.mkdir ['{tmp_path}/made']")
    with pytest.raises(config.ConfigError, match="cannot be used"):
        load_config(path)
    assert not (tmp_path / "made").exists()


def test_an_installed_package_finds_its_copy(tmp_path, monkeypatch):
    assert config_root() == ROOT / "configs"
    monkeypatch.setattr(config, "__file__", str(tmp_path / "ovseg/config.py"))
    (tmp_path / "ovseg/zoo/configs").mkdir(parents=True)
    assert config_root() == tmp_path / "ovseg/zoo/configs"


def test_building_copies_the_configs_into_the_package(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("setuptools.setup", lambda **options: captured.update(options))
    captured: dict = {}
    runpy.run_path("setup.py")
    for editable in (True, False):
        command = captured["cmdclass"]["build_py"](Distribution({"packages": []}))
        command.build_lib, command.editable_mode = str(tmp_path), editable
        command.ensure_finalized()
        command.run()
        copied = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*.yaml"))
        shipped = sorted("ovseg/zoo" / path.relative_to(ROOT) for path in (ROOT / "configs").rglob("*.yaml"))
        assert copied == ([] if editable else shipped)
    assert "graft configs" in (ROOT / "MANIFEST.in").read_text().splitlines()
    assert os.access(tmp_path / "ovseg/zoo/configs/training_free/base.yaml", os.R_OK)
