from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import ovseg
from ovseg import config
from ovseg.config import config_root, read_config, shipped_configs
from ovseg.errors import ConfigError, DownloadError, OvsegError, UnknownNameError, WeightsError
from ovseg.meta_arch.san.weights import official_name
from ovseg.recalibration import list_recalibrations
from ovseg.vocabulary import Vocabulary, parse_background
from ovseg.zoo import build, card, list_models, model_config, resolve
from ovseg.zoo.names import list_protocols, method_config
from ovseg.zoo.released import find_released
from tests.hub_double import HubDouble


def settings(segmenter):
    return {key: segmenter.model.settings[key] for key in ("clip", "recalibration")}


@pytest.fixture
def embedded(tiny_clip, monkeypatch):
    """The embedded cards with the tiny CLIP in the place of their weights."""
    monkeypatch.setattr("ovseg.zoo.names.PACKAGE", tiny_clip.parent)
    cards = [ovseg.zoo.Card(**{**_fields(card), "folder": tiny_clip.name}) for card in list_models() if card.folder]
    monkeypatch.setattr("ovseg.zoo.names.list_models", lambda: cards)


def _fields(card):
    return {key: value for key, value in card.to_json().items() if key not in ("size_mb", "installed", "commercial")}


def test_models_that_propose_masks_keep_their_own_settings_under_the_common_protocol():
    assert resolve("mini", "common") == resolve("mini")
    spec = resolve("mini-clearclip", "common")
    assert spec != resolve("mini-clearclip")
    assert spec.changes["MODEL"]["PROTOCOL"]["SHORT_SIDE"] == model_config("sclip/mini").MODEL.PROTOCOL.SHORT_SIDE


def test_cards_are_complete_and_every_method_has_one():
    cards = list_models()
    assert cards[0].name == "mini" and cards[0].weights == "embedded"
    for one in cards:
        assert all([one.summary, one.source, one.code_licence, one.weights_licence])
        assert (config_root() / one.config).stem == one.name.partition("/")[0]
        assert (config_root() / one.base).exists() and bool(one.base) == (one.name == "mini")
        assert one.weights in ("embedded", "open_clip", "released")
        assert (one.weights == "embedded") == bool(one.folder)
        assert (one.weights == "released") == bool(one.link)
        assert (one.file and one.reported) or one.weights != "released"
    methods = {one.name.partition("/")[0] for one in cards if "/" in one.name}
    assert methods == {name.casefold() for name in list_recalibrations()}
    assert all(one.paper for one in cards if "/" in one.name)


def test_every_shipped_config_can_be_read():
    files = shipped_configs()
    assert len(files) >= 38
    for path in files:
        cfg = model_config(path)
        assert cfg.MODEL.RECALIBRATION.NAME in list_recalibrations(), path


def _keys(node):
    """Yield the keys of each mapping in a YAML document, as they are written."""
    if isinstance(node, yaml.MappingNode):
        yield [key.value for key, _ in node.value]
        for _, value in node.value:
            yield from _keys(value)


def test_no_key_of_a_shipped_file_hides_another():
    for path in shipped_configs():
        for keys in _keys(yaml.compose(path.read_text())):
            assert len(set(keys)) == len(keys), path


def _stated(entry, known):
    """Yield what an entry says that is said already."""
    for key, value in entry.items():
        if isinstance(value, dict):
            yield from _stated(value, known.get(key, {}))
        elif key in known and known[key] == value:
            yield key, value


def test_tables_name_presets_and_say_something_new():
    count = 0
    for method in list_recalibrations():
        path = method_config(method)
        for name in list_protocols(path):
            spec = resolve(f"{method}/mini", name)
            words = spec.config.MODEL.TEXT.VOCABULARY
            rest = parse_background(spec.config.MODEL.TEXT.BACKGROUND).words
            assert words == "" or len(Vocabulary.parse(words)) + len(rest) > 1
            entry = spec.layers[0].settings["MODEL"]
            assert spec.layers[0].source.startswith(f"training_free/{path.name}, BENCHMARKS.{name} (github.com/")
            assert not list(_stated(entry, read_config(path)["MODEL"])), (method, name)
            count += 1
    assert count >= 83
    assert resolve("fcclip-rn50", "cityscapes19").config.MODEL.PROTOCOL.SHORT_SIDE == 1024


def test_a_method_on_an_embedded_clip_has_settings_of_its_own_there():
    spec = resolve("clip_dinoiser/mini")
    assert spec.path.name == "mini_base.yaml" and spec.config.MODEL.RECALIBRATION.OPTIONS.GAMMA == 0.8
    assert spec.sources["MODEL.RECALIBRATION.OPTIONS.GAMMA"] == (
        "training_free/clip_dinoiser.yaml, EMBEDDED.mini (ours, chosen on the train split of Scenes)"
    )
    both = resolve("itaclip/mini", "common").config.MODEL.PROTOCOL
    assert (both.IMAGE_ENGINEERING, both.SHORT_SIDE) == (0.0, 128)


def test_a_shipped_config_has_one_name_everywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shipped = config_root() / "san/san_mini_scenes.yaml"
    for name in ("san/san_mini_scenes.yaml", "configs/san/san_mini_scenes.yaml", str(shipped)):
        assert resolve(name).path == shipped
    (tmp_path / "san").mkdir()
    own = tmp_path / "san/san_mini_scenes.yaml"
    own.write_text(f"_BASE_: {shipped}\n")
    assert resolve("san/san_mini_scenes.yaml").path.resolve() == own


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("training_free/sclip/voc21.yaml", "BENCHMARKS.voc21 of sclip.yaml: --model sclip/... --protocol voc21"),
        ("configs/training_free/cliptrase/mini.yaml", "EMBEDDED.mini of cliptrase.yaml: --model cliptrase/mini"),
        ("/some/where/configs/san/san-vit-b-16.yaml", "did you mean san/san-vit-b-16.yaml?"),
        ("fcclip/fcclip_cocopan.yaml", "did you mean fcclip/fcclip-convnext-l.yaml?"),
        ("fcclip/fcclip_cocopan_r50x4.yaml", "did you mean fcclip/fcclip-rn50x4.yaml?"),
        ("maft_plus/maftp_l_pano.yaml", "did you mean maft_plus/maftp-l-pano.yaml?"),
        ("training_free/mini_clearclip.yaml", "did you mean training_free/mini-clearclip.yaml"),
        ("san_mini_scenes.yaml", "did you mean san/san_mini_scenes.yaml?"),
    ],
)
def test_earlier_names_of_configs_say_the_new_one(name, message, tmp_path):
    own = tmp_path / "own.yaml"
    own.write_text(f"_BASE_: {name}\n")
    for asked in (name, str(own)):
        with pytest.raises(ConfigError) as caught:
            model_config(asked)
        assert message in str(caught.value) and "\n" not in str(caught.value)


def test_card(embedded):
    shallow = {"MODEL": {"RECALIBRATION": {"OPTIONS": {"LAST_N_LAYERS": 2}}}}  # the tiny CLIP has two blocks
    segmenter = ovseg.load("mini-clearclip", "cpu", overrides=shallow)
    assert settings(segmenter) == {"clip": "tiny-clip", "recalibration": "ClearCLIP"}


def test_method_on_a_card_keeps_its_size_rule(embedded):
    segmenter = ovseg.load("SCLIP/mini", "cpu")
    assert settings(segmenter) == {"clip": "tiny-clip", "recalibration": "SCLIP"}
    assert segmenter.model.size_rule.short_side == model_config("mini-clearclip").MODEL.PROTOCOL.SHORT_SIDE


def test_folder(tiny_clip):
    assert settings(ovseg.load(tiny_clip, "cpu")) == {"clip": "tiny-clip", "recalibration": "CLIP"}


def test_method_on_a_folder_takes_the_protocol_of_the_method(tiny_clip, monkeypatch):
    segmenter = ovseg.load(f"maskclip/{tiny_clip}", "cpu")
    assert settings(segmenter)["recalibration"] == "MaskCLIP" and segmenter.model.size_rule.short_side == 512
    monkeypatch.chdir(tiny_clip.parent)
    assert settings(ovseg.load("naclip/tiny-clip", "cpu")) == {"clip": "tiny-clip", "recalibration": "NACLIP"}


def test_method_on_an_architecture_and_a_file(tmp_path, monkeypatch):
    from open_clip import CLIP, get_model_config

    config = get_model_config("ViT-B-16")
    config["vision_cfg"]["layers"] = config["text_cfg"]["layers"] = 1  # the real one has 600 MB
    monkeypatch.setattr("open_clip.get_model_config", lambda name: dict(config) if name == "ViT-B-16" else None)
    save_file(CLIP(**config).state_dict(), tmp_path / "own.safetensors")
    absolute = ovseg.load(f"sclip/ViT-B-16/{tmp_path}/own.safetensors", "cpu")
    assert settings(absolute) == {"clip": "ViT-B-16/own", "recalibration": "SCLIP"}
    monkeypatch.chdir(tmp_path.parent)
    relative = ovseg.load(f"sclip/ViT-B-16/{tmp_path.name}/own.safetensors", "cpu")
    assert relative.model.weights_hash == absolute.model.weights_hash


def test_config_file_and_folder_with_a_config(tiny_clip, tmp_path):
    own = {"MODEL": {"RECALIBRATION": {"NAME": "GEM", "OPTIONS": {"depth": 2}}, "PROTOCOL": {"SHORT_SIDE": 64}}}
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump({"MODEL": {**own["MODEL"], "CLIP": {"FOLDER": str(tiny_clip)}}}))
    segmenter = ovseg.load(path, "cpu")
    assert settings(segmenter) == {"clip": "tiny-clip", "recalibration": "GEM"}
    assert segmenter.model.size_rule.short_side == 64 and segmenter.model.settings["options"]["blocks"] == 1
    folder = tmp_path / "model"
    shutil.copytree(tiny_clip, folder)
    (folder / "config.yaml").write_text(yaml.safe_dump(own))
    assert settings(ovseg.load(folder, "cpu")) == {"clip": "model", "recalibration": "GEM"}


def test_overrides(tiny_clip):
    overrides = {"MODEL": {"PROTOCOL": {"SHORT_SIDE": 48, "PAMR_STEPS": 1}, "TEXT": {"BACKGROUND": "threshold:0.3"}}}
    segmenter = ovseg.load(tiny_clip, "cpu", overrides=overrides)
    assert segmenter.model.size_rule.short_side == 48 and segmenter.model.rule.pamr_steps == 1
    assert segmenter.words("cat, dog").background.policy == "threshold:0.3"


def test_names_come_before_folders_of_the_current_folder(tmp_path, monkeypatch, tiny_clip):
    shutil.copytree(tiny_clip, tmp_path / "mini")
    monkeypatch.chdir(tmp_path)
    assert resolve("mini").path.name == "mini.yaml"
    own = ovseg.load(tiny_clip, "cpu").model.weights_hash
    for name in ("./mini", "sclip/./mini", str(tmp_path / "mini")):
        assert ovseg.load(name, "cpu").model.weights_hash == own


def test_a_folder_named_like_an_embedded_model_is_not_it(tmp_path, tiny_clip):
    shutil.copytree(tiny_clip, tmp_path / "mini")
    for method in ("", "sclip/"):
        named, other = (resolve(f"{method}{folder}", "common") for folder in (tmp_path / "mini", tiny_clip))
        assert named.config.MODEL.PROTOCOL == other.config.MODEL.PROTOCOL
        assert named.config.MODEL.PROTOCOL != resolve("sclip/mini", "common").config.MODEL.PROTOCOL


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("minni", UnknownNameError, "unknown model 'minni'; did you mean mini"),
        ("scilp/mini", UnknownNameError, "unknown method 'scilp' in 'scilp/mini'; did you mean 'sclip/mini'?"),
        ("sclip/minni", UnknownNameError, "did you mean 'sclip/mini'?"),
        ("sclip", UnknownNameError, "'sclip' is a method without a CLIP; write for example 'sclip/mini'"),
        ("sclip/ViT-B-16", UnknownNameError, "expected for example 'sclip/ViT-B-16/openai'"),
        ("sclip/ViT-B16/openai", UnknownNameError, "unknown CLIP architecture 'ViT-B16'; did you mean ViT-B-16"),
        ("sclip/ViT-B-16/opnai", UnknownNameError, "unknown weights of ViT-B-16 'opnai'; did you mean openai"),
        ("sclip/ViT-B-16/no/such.pt", WeightsError, "weights file no/such.pt does not exist"),
        ("sclip/ViT-B-16//no/such.pt", WeightsError, "weights file /no/such.pt does not exist"),
        ("sclip//no/such/folder", WeightsError, "folder '/no/such/folder' does not exist"),
        ("/no/such/folder", WeightsError, "folder '/no/such/folder' does not exist"),
        ("./nothing", WeightsError, "folder './nothing' does not exist"),
        ("own.yaml", ConfigError, "no config file 'own.yaml'"),
        ("sclip/RN50/openai", ConfigError, "a ConvNeXt or ResNet"),
        ("qqqq", UnknownNameError, "known: .*mini"),
        ("q" * 300, UnknownNameError, "known: .*mini"),
        ("a\0b", UnknownNameError, "unknown model"),
        (f"/{'q' * 300}", WeightsError, "does not exist"),
        (f"{'q' * 300}.yaml", ConfigError, "no config file"),
    ],
)
def test_misspelt_names(name, error, message):
    with pytest.raises(error, match=message.replace("?", r"\?")) as caught:
        ovseg.load(name, "cpu")
    assert "\n" not in str(caught.value)


def test_folders_that_hold_no_model(tiny_clip, tmp_path):
    with pytest.raises(WeightsError, match=r"holds no model; expected open_clip_config\.json"):
        ovseg.load(tmp_path, "cpu")
    (tmp_path / "open_clip_config.json").write_text((tiny_clip / "open_clip_config.json").read_text())
    with pytest.raises(WeightsError, match="holds no weights"):
        ovseg.load(tmp_path, "cpu")
    for got in (f"{tiny_clip}/open_clip_model.safetensors", f"sclip/{tiny_clip}/open_clip_model.safetensors"):
        with pytest.raises(WeightsError, match=r"is a (weights )?file; "):
            ovseg.load(got, "cpu")


def test_weights_that_are_no_weights(tiny_clip, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny_clip, folder)
    file = folder / "open_clip_model.safetensors"
    data = file.read_bytes()
    state = {key: value.clone() for key, value in load_file(file).items()}  # else they live in the file itself
    for content in (data[: len(data) // 2], b"", b"\x00" * 100, b"<html>not found</html>"):
        file.write_bytes(content)
        with pytest.raises(WeightsError, match="cannot be read"):
            ovseg.load(folder, "cpu")
    for foreign, message in (
        ({"encoder.weight": torch.zeros(2)}, "is no CLIP: it holds encoder.weight; expected"),
        ({**state, "visual.proj": torch.zeros(3, 3)}, "has mis-shaped visual.proj"),
        ({key: value for key, value in state.items() if key != "ln_final.bias"}, "misses ln_final.bias"),
    ):
        save_file(foreign, file)
        with pytest.raises(WeightsError, match=message):
            ovseg.load(folder, "cpu")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "MODEL: {PROTOCOL: {STRIDES: 3}}",
            "unknown key .*'MODEL.PROTOCOL.STRIDES'; did you mean MODEL.PROTOCOL.STRIDE",
        ),
        ("MODEL: {PROTOCOL: {SHORT_SIDE: big}}", "SHORT_SIDE"),
        ("MODEL: {PROTOCOL: {SHORT_SIDE: 0}}", "short_side is 0"),
        ("MODEL: {PROTOCOL: {WINDOW: 64, STRIDE: 100}}", "leaves gaps"),
        ("MODEL: {PROTOCOL: {PADDING: odd}}", "window padding is 'odd'"),
        ("MODEL: {PROTOCOL: {LOGIT_SCALE: 0.0}}", "logit_scale 0.0"),
        ("MODEL: {RECALIBRATION: {NAME: sklip}}", "unknown recalibration 'sklip'; did you mean SCLIP"),
        ("MODEL: {RECALIBRATION: {OPTIONS: {residuals: true}}}", "unknown option 'residuals'"),
        ("MODEL: {TEXT: {TEMPLATES: openai81}}", "unknown template set 'openai81'; did you mean openai80"),
        ("MODEL: {TEXT: {BACKGROUND: wrods}}", "unknown background policy 'wrods'"),
        ("MODEL: {META_ARCHITECTURE: GeneralizedRCNN}", "unknown MODEL.META_ARCHITECTURE 'GeneralizedRCNN'"),
        ("_BASE_: nowhere.yaml", "cannot be used"),
        ("[1, 2]", "cannot be used"),
        ("", "cannot be used"),
        ("MODEL: {", "cannot be used"),
        ("MODEL: !!python/object/apply:os.getcwd []", "cannot be used"),
    ],
)
def test_mistakes_in_a_config(tiny_clip, tmp_path, text, message):
    path = tmp_path / "own.yaml"
    path.write_text(text)
    with pytest.raises(OvsegError, match=message) as caught:
        ovseg.load(path, "cpu", overrides={"MODEL": {"CLIP": {"FOLDER": str(tiny_clip)}}})
    assert "\n" not in str(caught.value)


def test_cards_are_json():
    assert json.loads(json.dumps([card.to_json() for card in list_models()]))[0]["name"] == "mini"


@pytest.fixture
def released(tmp_path, monkeypatch):
    """A card of a released file, with an empty cache folder."""
    monkeypatch.setenv("OVSEG_CACHE", str(tmp_path))
    return next(card for card in list_models() if card.name == "san-vit-b-16")


def test_released_weights_that_cannot_be_had(released, tmp_path):
    with pytest.raises(DownloadError) as caught:
        ovseg.load("san-vit-b-16", "cpu")
    message = "Mendel192/san/san_vit_b_16.pth is not on this machine and OVSEG_OFFLINE=1 is set; unset it, or fetch"
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)
    by_hand = replace(released, hub="")
    with pytest.raises(WeightsError, match=r"cannot be fetched from here; fetch san_vit_b_16\.pth from") as caught:
        find_released(by_hand)
    first, second = str(caught.value).splitlines()
    assert "from https://huggingface.co/Mendel192/san" in first
    assert f"put it at {tmp_path}/weights/san_vit_b_16.pth, or give its path as MODEL.WEIGHTS" in second


def test_released_weights_of_the_hub_or_in_the_cache_folder(released, tmp_path, monkeypatch, capsys):
    assert not released.installed
    with HubDouble({"Mendel192/san": {"san_vit_b_16.pth": b"weights"}}) as hub:
        hub.use(monkeypatch, tmp_path)
        path = find_released(released)
        assert path.read_bytes() == b"weights" and released.installed
        assert "licence MIT" in capsys.readouterr().err
        hub.requests.clear()
        assert find_released(released) == path and not hub.requests
        hub.gated["Mendel192/san"] = 401
        monkeypatch.setenv("OVSEG_CACHE", str(tmp_path / "other"))
        with pytest.raises(DownloadError, match="Mendel192/san is gated"):
            find_released(released)
    own = tmp_path / "other/weights/san_vit_b_16.pth"  # by hand
    own.parent.mkdir(parents=True, exist_ok=True)
    own.write_bytes(b"weights")
    assert find_released(released) == own and released.installed
    find_released(replace(released, sha256=hashlib.sha256(b"weights").hexdigest()))
    problem = r"san_vit_b_16\.pth' is not used: its sha256 is [0-9a-f]{64}, expected 00000000; it is damaged"
    with pytest.warns(UserWarning, match=problem), pytest.raises(WeightsError, match="cannot be fetched"):
        find_released(replace(released, sha256="00000000", hub=""))
    own.write_bytes(b"PK half of an archive")
    with pytest.warns(UserWarning, match="is not used: it ends too early"):
        assert not released.installed


TINY_SAN = {
    "MODEL": {
        "TEXT": {"TEMPLATES": "none"},
        "PROTOCOL": {"SHORT_SIDE": 64},
        "SAN": {
            **{"FRONT_BLOCKS": 1, "WIDTH": 24, "DEPTH": 2, "HEADS": 2, "IMAGE_SIZE": 64, "QUERIES": 6, "CHANNELS": 16},
            **{"HIDDEN": 16, "FUSION": ["0->0", "1->1"], "SUPERVISED_BLOCKS": [2]},
        },
    }
}


def test_a_load_reads_each_file_and_builds_the_config_once(released, tmp_path, tiny_clip, monkeypatch):
    own = {"MODEL": {"CLIP": {"FOLDER": str(tiny_clip)}}}
    torch.manual_seed(0)
    model = build(resolve("san/san-vit-b-16.yaml", overrides={"MODEL": {**TINY_SAN["MODEL"], **own["MODEL"]}}), True)
    official = {official_name(key, model.front_blocks): value for key, value in model.state_dict().items()}
    (tmp_path / "weights").mkdir()
    torch.save({"model": official}, tmp_path / "weights/san_vit_b_16.pth")

    read, configs = [], []
    real_read, real_load = config._read, config.load_config
    monkeypatch.setattr(config, "_read", lambda path: read.append(path) or real_read(path))
    monkeypatch.setattr("ovseg.zoo.spec.load_config", lambda *given: configs.append(given) or real_load(*given))
    config._read_shipped.cache_clear()
    card._cards.cache_clear()
    overrides = {"MODEL": {**TINY_SAN["MODEL"], **own["MODEL"]}}
    segmenter = ovseg.load("san-vit-b-16", "cpu", overrides=overrides)
    assert segmenter.model.weights_hash == model.weights_hash and len(configs) == 1
    assert sorted(read) == shipped_configs()
    ovseg.load("san-vit-b-16", "cpu", overrides=overrides)
    assert len(read) == len(set(read))


def test_weights_without_a_place_for_them(tiny_clip):
    with pytest.raises(ConfigError, match=r"MODEL\.WEIGHTS is 'x\.pth', but TrainingFree has no trained part"):
        ovseg.load(f"sclip/{tiny_clip}", "cpu", overrides={"MODEL": {"WEIGHTS": "x.pth"}})


def test_released_weights_given_as_a_path(released, tmp_path):
    missing = {"MODEL": {"WEIGHTS": str(tmp_path / "own.pth")}}
    with pytest.raises(WeightsError, match=r"weights file .*own\.pth does not exist"):
        ovseg.load("san-vit-b-16", "cpu", overrides=missing)
