"""What tests of CLIPs share."""

from __future__ import annotations

import json

import open_clip
import pytest

from tests.clip.tiny import TINY


@pytest.fixture
def arches(tmp_path, monkeypatch):
    """Two architectures that open_clip knows for the length of a test: ``Tiny`` and ``Tiny-quickgelu``."""
    monkeypatch.setattr("open_clip.factory._MODEL_CONFIG_PATHS", [])
    monkeypatch.setattr("open_clip.factory._MODEL_CONFIGS", dict(open_clip.factory._MODEL_CONFIGS))
    folder = tmp_path / "arches"
    folder.mkdir()
    (folder / "Tiny.json").write_text(json.dumps(TINY))
    (folder / "Tiny-quickgelu.json").write_text(json.dumps({**TINY, "quick_gelu": True}))
    open_clip.add_model_config(folder)
