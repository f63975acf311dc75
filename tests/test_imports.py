from __future__ import annotations

import functools
import json
import subprocess
import sys

import pytest

HEAVY = {"cv2", "detectron2", "open_clip", "segment_anything", "torchvision", "triton"}
PUBLIC = {
    "Segmentation",
    "Segmenter",
    "Vocabulary",
    "__version__",
    "from_pretrained",
    "list_models",
    "load",
    "push_to_hub",
}


@functools.cache
def modules_after(statement: str) -> frozenset[str]:
    """Top-level modules of a fresh interpreter that has run one statement."""
    code = f"{statement}\nimport json, sys\nprint(json.dumps(sorted({{m.split('.')[0] for m in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return frozenset(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    "module", ["ovseg", "ovseg.errors", "ovseg.system.device", "ovseg.doctor", "ovseg.system.cache_dir"]
)
def test_light_modules_import_nothing_heavy(module: str) -> None:
    # What torch itself brings along in this version (triton in some) is not ours to avoid.
    assert not (modules_after(f"import {module}") - modules_after("import torch")) & HEAVY


def test_cards_need_no_torch() -> None:
    assert "torch" not in modules_after("from ovseg.zoo import list_models; assert list_models()")


def test_the_probe_sees_heavy_modules() -> None:
    assert "cv2" in modules_after("import cv2")


def test_public_names() -> None:
    import ovseg

    assert set(ovseg.__all__) == PUBLIC
    assert ovseg.__version__.count(".") == 2
    with pytest.raises(AttributeError, match="no attribute 'segmentor'"):
        _ = ovseg.segmentor


def test_installed_metadata_agrees_with_the_package() -> None:
    from importlib import metadata

    import ovseg

    try:
        distribution = metadata.distribution("ovseg")
    except metadata.PackageNotFoundError:
        pytest.skip("ovseg is not pip-installed here")
    assert distribution.version == ovseg.__version__
    assert [entry.value for entry in distribution.entry_points if entry.name == "ovseg"] == ["ovseg.cli:main"]
