"""What a CLIP may be called in the name of a model."""

from __future__ import annotations

import pytest

import ovseg
from ovseg.errors import OvsegError, UnknownNameError, WeightsError
from ovseg.zoo import resolve
from ovseg.zoo.card import PACKAGE
from tests.conftest import make_photo


def clip_of(name: str) -> dict[str, object]:
    spec = resolve(name)
    return {key: value for key, value in spec.changes["MODEL"]["CLIP"].items() if value}


def test_names(tiny_clip, tmp_path, monkeypatch):
    monkeypatch.chdir(tiny_clip.parent)
    assert clip_of("clearclip/ViT-B-16-SigLIP2/webli") == {"ARCH": "ViT-B-16-SigLIP2", "PRETRAINED": "webli"}
    assert clip_of("clearclip/hf:me/clip") == {"FOLDER": "hf:me/clip"} == clip_of("hf:me/clip")
    assert clip_of("clearclip/hf-hub:me/clip@v1") == {"FOLDER": "hf-hub:me/clip@v1"}
    assert clip_of(f"clearclip/{tiny_clip.name}") == {"FOLDER": str(tiny_clip)}
    members = ["ViT-B-16/openai", str(tiny_clip), "hf:me/clip", str(PACKAGE / "assets/mini")]
    assert clip_of(f"clearclip/clip:ViT-B-16/openai+{tiny_clip.name} + hf:me/clip+mini") == {"MEMBERS": members}
    assert resolve("hf:me/clip").config.MODEL.RECALIBRATION.NAME == "CLIP"
    assert resolve("clip:mini+ViT-B-16/openai").config.MODEL.RECALIBRATION.NAME == "CLIP"
    assert resolve("sclip/clip:mini+ViT-B-16/openai").config.MODEL.RECALIBRATION.NAME == "SCLIP"


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("clearclip/hf:clip", WeightsError, "'hf:clip' names no repository of the hub; expected hf:OWNER/NAME"),
        ("hf-hub:a/b/c", WeightsError, "expected hf-hub:OWNER/NAME"),
        ("sclip/clip:mini", UnknownNameError, r"'clip:mini' is no ensemble; expected clip:A\+B, such as 'sclip/clip:"),
        ("clip:mini+", UnknownNameError, "is no ensemble"),
        ("sclip/clip:mini+minni", UnknownNameError, "did you mean 'sclip/mini'"),
        ("sclip/clip:mini+./none", WeightsError, "folder './none' does not exist"),
    ],
)
def test_mistakes(name, kind, message):
    with pytest.raises(kind, match=message) as error:
        resolve(name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("part", ["x" * 300, "a\0b"], ids=["too long for a file", "with a zero"])
@pytest.mark.parametrize(
    "name", ["clearclip/{}", "clearclip/./{}", "clearclip/ViT-B-16/{}", "clearclip/ViT-B-16/{}.pt"]
)
def test_what_no_file_can_be_called_is_refused_in_a_sentence(name, part):
    with pytest.raises(OvsegError, match=r"unknown|does not exist|names neither") as error:
        ovseg.load(f"clearclip/{name.format(part)}", "cpu")
    assert "\n" not in str(error.value)


def test_an_ensemble_answers(tiny_clip, tiny_resnet):
    found = ovseg.load(f"maskclip/clip:{tiny_clip}+{tiny_resnet}", "cpu")
    result = found(make_photo(96, 64), ["a cat", "a dog", "sky"])
    assert result.labels.shape == (64, 96)
    assert any("weights of the CLIPs" in note for note in result.meta["notes"])
    other = ovseg.load(f"maskclip/clip:{tiny_resnet}+{tiny_clip}", "cpu")
    assert found.model.weights_hash != other.model.weights_hash
    with pytest.raises(OvsegError, match="SCLIP needs"):
        ovseg.load(f"sclip/clip:{tiny_clip}+{tiny_resnet}", "cpu")
