"""The page with models of other kinds, with random weights: what they give beside labels is shown, too."""

from __future__ import annotations

import base64
import io
import json

import httpx
import numpy as np
import pytest
from gradio_client import Client
from PIL import Image
from safetensors.torch import save_file

from ovseg.config import config_root
from ovseg.errors import WeightsError
from ovseg.serve.limits import Limits
from ovseg.serve.models import Models
from ovseg.serve.service import Service
from ovseg.zoo import load
from tests.meta_arch.models import MODELS
from tests.serve.conftest import encoded, make_photo, running

CASES = {case.name: case for case in MODELS if case.name in ("san", "fcclip-convnext", "maft-plus", "windows")}


def write_model(case, folder, tiny_clip, tiny_convnext):
    """Write a checkpoint with random weights and a config that names it, as a training leaves them."""
    folders = {"vit": tiny_clip, "convnext": tiny_convnext}
    weights = ""
    if case.name != "windows":
        weights = folder / f"{case.name}.safetensors"
        save_file(case.build(folders).state_dict(), weights)
    return case.write_config(folder / f"{case.name}.yaml", folders, weights)


@pytest.fixture(scope="module", params=CASES.values(), ids=CASES)
def found(request, tmp_path_factory, tiny_clip, tiny_convnext):
    """A service with one model, and a photograph in it."""
    path = write_model(request.param, tmp_path_factory.mktemp("own"), tiny_clip, tiny_convnext)
    service = Service(Models([str(path)], 1, lambda name: load(name, "cpu")), Limits())
    return request.param, service, service.open(encoded(make_photo(150, 110)), "x.jpg").name


def test_the_page_shows_what_a_model_gives(found):
    case, service, photo = found
    service.segment(photo, "cat|kitten, sofa, window, lamp, river")
    shown = service.shown(photo)["sides"]["A"]
    json.dumps(shown)
    assert (shown["segments"] is not None) == ("panoptic" in case.gives)
    assert (shown["objects"] is not None) == ("instances" in case.gives)
    formats = {own["label"] for own in shown["downloads"]}
    assert any("panoptic" in name for name in formats) == ("panoptic" in case.gives)
    for part in filter(None, (shown["segments"], shown["objects"])):
        picture = np.asarray(Image.open(io.BytesIO(content_of(part["map"])))).astype(int)
        numbers = picture[..., 0] + 256 * picture[..., 1]
        assert numbers.shape == (110, 150) and numbers.max() <= len(part["list"])
        assert len({tuple(one["color"]) for one in part["list"]}) == len(part["list"])
    for own in shown["downloads"]:
        chosen, _, option = own["label"].partition(" ")
        assert service.download(photo, "A", chosen, option).content


def content_of(url):
    return base64.b64decode(url.partition(",")[2])


def test_reasons_agree_with_the_label(found):
    _, service, photo = found
    result = service.segment(photo, "cat|kitten, sofa, window, lamp, river").result
    for row, column in ((0, 0), (50, 70), (109, 149)):
        why = service.why(photo, row, column)
        named = result.classes[result.labels[row, column]].name if result.labels[row, column] >= 0 else ""
        assert why["label"] == named and (why["remark"] or why["top"][0]["name"] == named)
        assert service.heat(photo, 1)["map"]


@pytest.mark.slow
def test_a_san_with_random_weights_and_the_embedded_model_side_by_side(tmp_path, tiny_clip, tiny_convnext):
    """On a server: photographs of several kinds through both, and compared."""
    path = write_model(CASES["san"], tmp_path, tiny_clip, tiny_convnext)
    with running("--models", str(path)) as page:
        client = Client(page.address, verbose=False)
        for kind, size in (("JPEG", (640, 427)), ("PNG", (333, 500)), ("WEBP", (90, 1200))):
            content = encoded(make_photo(*size), kind)
            photo = httpx.post(f"{page.address}/photo", content=content, timeout=60).json()["session"]
            for side, model in (("A", "mini"), ("B", "san")):
                answer = client.predict(photo, "ade150", model, "", side, api_name="/segment")
                assert len(answer["classes"]) == 150 and (answer["width"], answer["height"]) == size
                assert str(tmp_path) not in str(answer["meta"]["model"])
                assert client.predict(photo, 5, 5, side, api_name="/why")["top"]
            assert 0 < client.predict(photo, api_name="/compare")["share"] <= 1


def test_a_head_without_weights_is_refused_by_name():
    with pytest.raises(WeightsError, match="has no trained weights"):
        Models([str(config_root() / "san/san_mini_scenes.yaml")], 1).get("")
