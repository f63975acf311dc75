"""A trained model goes to a hub and comes back: bit for bit, with nothing of the machine that it came from."""

from __future__ import annotations

import getpass
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import ovseg
from ovseg.checkpoint.hub import local_repository
from ovseg.cli import main
from ovseg.engine.identity import trained_on
from ovseg.engine.portable import portable
from ovseg.engine.run import train
from ovseg.engine.sharing import prepare
from ovseg.errors import DownloadError, InputError, UploadError, WeightsError
from tests.conftest import TINY_TRAINING, write_own_data
from tests.hub_double import HubDouble, sha256

CLIP, REPO = "authors/tiny-clip", "somebody/shapes"
NAMES = {"README.md", "classes.json", "config.yaml", "model.safetensors", "trained_before.json"}


def serve(tiny_clip: Path, patch: pytest.MonkeyPatch, cache: Path) -> HubDouble:
    """Start a hub that has the CLIP; this process writes with a token that may."""
    double = HubDouble({CLIP: {path.name: path.read_bytes() for path in tiny_clip.iterdir()}}, licence="apache-2.0")
    double.use(patch, cache)
    patch.setenv("HF_TOKEN", double.token)
    patch.setattr("huggingface_hub._commit_api.is_xet_available", lambda: False)  # which the double is not
    return double


@pytest.fixture(scope="module")
def trained(tiny_clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a training of two steps on the CLIP of a hub, with a validation; made once."""
    folder = tmp_path_factory.mktemp("trained")
    data = write_own_data(folder / "own")
    (folder / "tiny.yaml").write_text(TINY_TRAINING.format(clip=f"hf-hub:{CLIP}", data=data, output=folder / "run"))
    with pytest.MonkeyPatch.context() as patch, serve(tiny_clip, patch, folder / "cache"):
        train(str(folder / "tiny.yaml"), {"SOLVER": {"MAX_ITER": 2}, "DATASETS": {"TEST": ["25%"]}})
    return folder / "run"


@pytest.fixture
def hub(tiny_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubDouble]:
    """A hub that this process uses."""
    with serve(tiny_clip, monkeypatch, tmp_path / "cache") as double:
        yield double


@pytest.fixture
def run(hub: HubDouble, trained: Path, tmp_path: Path) -> Path:
    """A copy of the folder of a training."""
    return shutil.copytree(trained, tmp_path / "run")


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Path]:
    """Go to another machine: one with an empty cache."""

    def go() -> Path:
        monkeypatch.setenv("OVSEG_CACHE", str(tmp_path / "elsewhere"))
        monkeypatch.setenv("HF_HOME", str(tmp_path / "elsewhere/hf"))
        return tmp_path / "elsewhere"

    return go


def test_it_comes_back_bit_for_bit(
    hub: HubDouble, run: Path, elsewhere: Callable[[], Path], capsys: pytest.CaptureFixture[str], pixels: np.ndarray
) -> None:
    own = ovseg.load(str(run), "cpu")
    first = own(pixels)
    assert main(["push", str(run), REPO, "--licence", "Apache-2.0"]) == 0
    said = capsys.readouterr()
    assert (
        said.out
        == f"{hub.endpoint}/{REPO} (public, commit {hub.commit(REPO)}): ovseg segment IMAGE --model hf:{REPO}\n"
    )
    assert "model.safetensors: " in said.err and "stays here: data.jsonl, held_out.json, last.pt, log.jsonl" in said.err
    assert hub.repos[REPO].keys() == NAMES | {".gitattributes"}
    assert hub.repos[REPO]["model.safetensors"] == (run / "model.safetensors").read_bytes()
    shutil.rmtree(run)
    elsewhere()
    back = ovseg.load(f"hf:{REPO}", "cpu")
    assert back.model.weights_hash == own.model.weights_hash and back.name == f"hf:{REPO}"
    for key, value in own.model.state_dict().items():
        assert torch.equal(value, back.model.state_dict()[key]), key
    assert back.model.settings == own.model.settings
    second = back(pixels)
    assert second.classes.names == ["glorp", "blix"] and np.array_equal(first.scores, second.scores)
    hub.requests.clear()
    assert ovseg.from_pretrained(REPO, device="cpu").model.weights_hash == own.model.weights_hash
    at = ovseg.from_pretrained(REPO, revision=hub.commit(REPO), device="cpu")
    assert at.model.weights_hash == own.model.weights_hash


@pytest.mark.slow
def test_a_model_of_segments_comes_back_too(
    hub: HubDouble, elsewhere: Callable[[], Path], tiny_convnext: Path, panoptic_config: Path, pixels: np.ndarray
) -> None:
    hub.repos["authors/convnext"] = {path.name: path.read_bytes() for path in tiny_convnext.iterdir()}
    clip = {"CLIP": {"FOLDER": "hf-hub:authors/convnext"}, "FCCLIP": {"TRAINED_VOCABULARY": "coco80"}}
    train(str(panoptic_config), {"SOLVER": {"MAX_ITER": 2}, "DATASETS": {"TEST": []}, "MODEL": clip})
    run = panoptic_config.parent / "run"
    own, _ = ovseg.load(str(run), "cpu"), ovseg.push_to_hub(run, REPO)
    elsewhere()
    back = ovseg.load(f"hf:{REPO}", "cpu")
    assert back.model.weights_hash == own.model.weights_hash and back.model.settings == own.model.settings
    first, second = own(pixels), back(pixels)
    assert np.array_equal(first.labels, second.labels) and np.array_equal(first.panoptic.ids, second.panoptic.ids)
    assert "base_model: authors/convnext\n" in hub.repos[REPO]["README.md"].decode()
    assert b"coco80" not in hub.repos[REPO]["config.yaml"]  # the words beside the weights are those that it has learnt


def test_nothing_of_the_machine_goes(hub: HubDouble, run: Path, trained: Path, tmp_path: Path) -> None:
    ovseg.push_to_hub(run, REPO)
    for name, data in hub.repos[REPO].items():
        for word in (str(tmp_path), str(trained.parent), str(Path.home()), "own/", "00.jpg", "/tmp"):
            assert word.encode() not in data, (name, word)
        if len(user := getpass.getuser()) > 4:
            assert user.encode() not in data, name
    config = yaml.safe_load(hub.repos[REPO]["config.yaml"])
    assert not {"DATASETS", "OUTPUT_DIR", "DATALOADER"} & config.keys() and "DEVICE" not in config["MODEL"]
    assert config["MODEL"]["CLIP"]["FOLDER"] == f"hf-hub:{CLIP}" and config["SOLVER"]["MAX_ITER"] == 2
    assert set(json.loads(hub.repos[REPO]["trained_before.json"])) == trained_on(run) != set()


@pytest.mark.slow
def test_whoever_goes_on_from_it_knows_what_it_was_trained_on(
    hub: HubDouble, run: Path, elsewhere: Callable[[], Path]
) -> None:
    hashes = trained_on(run)
    ovseg.push_to_hub(run, REPO)
    place = elsewhere()
    ovseg.load(f"hf:{REPO}", "cpu")
    folder = local_repository(REPO, "ovseg")
    assert folder is not None and folder.is_relative_to(place) and trained_on(folder) == hashes


def test_the_card(hub: HubDouble, run: Path) -> None:
    weights = ovseg.load(str(run), "cpu").model.weights_hash
    ovseg.push_to_hub(run, REPO, licence="CC-BY-4.0")
    card = hub.repos[REPO]["README.md"].decode()
    head = yaml.safe_load(card.split("---\n")[1])
    assert head["license"] == "cc-by-4.0" and head["library_name"] == "ovseg" and head["base_model"] == CLIP
    for line in (
        "# shapes",
        f'ovseg segment photo.jpg --classes "cat, red chair" --model hf:{REPO}',
        f"| weights hash, as results record it | `{weights}` |",
        f"| sha256 of `model.safetensors` | `{sha256((run / 'model.safetensors').read_bytes())}` |",
        f"`hf-hub:{CLIP}`, licence of its weights: apache-2.0",
        "| trained | 2 steps on own data |",
        "    glorp | glorps\n    blix\n",
        "- own data (25% held out), after 2 steps: mIoU over the classes present ",
    ):
        assert line in card, line


@pytest.mark.slow
@pytest.mark.parametrize(
    ("licence", "head"),
    [
        ("", {}),
        ("apache-2.0", {"license": "apache-2.0"}),
        ("GPL-3.0", {"license": "gpl-3.0"}),
        ("MIT-0", {"license": "other", "license_name": "mit-0"}),
        ("Own terms: ask me!", {"license": "other", "license_name": "own-terms-ask-me"}),
    ],
)
def test_licences_as_hubs_write_them(hub: HubDouble, run: Path, tmp_path: Path, licence: str, head: dict) -> None:
    (tmp_path / "shared").mkdir()
    card = prepare(run, tmp_path / "shared", REPO, licence).files["README.md"].read_text()
    found = yaml.safe_load(card.split("---\n")[1])
    assert {key: text for key, text in found.items() if key.startswith("license")} == head
    assert f"| licence of these weights | {licence or 'not stated by their author'} |" in card


@pytest.mark.slow
def test_a_dry_run_sends_nothing(hub: HubDouble, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["push", str(run), REPO, "--dry-run"]) == 0
    assert "# shapes" in capsys.readouterr().out and REPO not in hub.repos and not hub.asked("POST")


@pytest.mark.slow
def test_private_repositories_are_for_who_has_a_token(
    hub: HubDouble, run: Path, elsewhere: Callable[[], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ovseg.push_to_hub(run, REPO, private=True).private and hub.private == {REPO}
    elsewhere()
    monkeypatch.setenv("HF_TOKEN", "")
    with pytest.raises(DownloadError, match=r"has no repository 'somebody/shapes' \(401\), or it is private"):
        ovseg.load(f"hf:{REPO}", "cpu")
    hub.readers.add("hf_reader")
    monkeypatch.setenv("HF_TOKEN", "hf_reader")
    assert ovseg.load(f"hf:{REPO}", "cpu").name == f"hf:{REPO}"


@pytest.mark.slow
def test_a_repository_is_updated_when_that_is_said(hub: HubDouble, run: Path) -> None:
    hub.repos[REPO] = {".gitattributes": b"", "notes.txt": b"mine", "trained_before.json": b"[]"}
    with pytest.raises(UploadError, match=r"has 'somebody/shapes' already, with notes.txt, trained_before.json; say"):
        ovseg.push_to_hub(run, REPO)
    with pytest.raises(UploadError, match=r"is there already and everybody can see it; make it private"):
        ovseg.push_to_hub(run, REPO, private=True, update=True)
    (run / "data.jsonl").unlink()  # an earlier version did not record it
    done = ovseg.push_to_hub(run, REPO, update=True)
    assert done.commit == hub.commit(REPO) and hub.repos[REPO]["notes.txt"] == b"mine"
    assert "trained_before.json" not in hub.repos[REPO]
    assert ovseg.push_to_hub(run, REPO, update=True).commit == done.commit  # nothing has changed


@pytest.mark.slow
def test_a_push_that_broke_off_is_gone_on_with(hub: HubDouble, run: Path) -> None:
    """The repository was made, and holds nothing."""
    hub.repos[REPO] = {".gitattributes": b""}
    assert ovseg.push_to_hub(run, REPO).commit == hub.commit(REPO)


@pytest.mark.parametrize(
    ("token", "line"),
    [
        ("", r"does not know who you are \(401\); say it: `hf auth login` or HF_TOKEN"),
        (
            "hf_reader",
            r"your token may not write to 'somebody/shapes' \(403: You don't have the rights.*for 'somebody'",
        ),
    ],
)
def test_who_may_not_write(
    hub: HubDouble,
    run: Path,
    token: str,
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(UploadError, match=line):
        ovseg.push_to_hub(run, REPO)
    capsys.readouterr()
    assert main(["push", str(run), REPO]) == 2
    errors = [text for text in capsys.readouterr().err.splitlines() if text.startswith("error: ")]
    assert len(errors) == 1 and REPO not in hub.repos


def test_no_network(hub: HubDouble, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("OVSEG_OFFLINE", "1")
        with pytest.raises(
            UploadError, match=r"'somebody/shapes' cannot be pushed to: OVSEG_OFFLINE=1 is set; unset it"
        ):
            ovseg.push_to_hub(run, REPO)
    ovseg.load(str(run), "cpu")  # its CLIP is here
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody is there
    with pytest.raises(UploadError, match=r"the push to http://127.0.0.1:9 broke off \(.*\); nothing was committed"):
        ovseg.push_to_hub(run, REPO)


@pytest.mark.slow
def test_what_the_hub_keeps_is_compared(hub: HubDouble, run: Path) -> None:
    hub.mangles = {"model.safetensors"}
    with pytest.raises(UploadError, match=r"has model.safetensors as \w{64}, expected \w{64}; push again \(--update\)"):
        ovseg.push_to_hub(run, REPO)


@pytest.mark.parametrize("name", ["shapes", "a/b/c", "a/..", "über/x", ""])
def test_names_that_are_none(hub: HubDouble, run: Path, name: str) -> None:
    with pytest.raises(UploadError, match=r"is no repository; expected OWNER/NAME|come from a repository"):
        ovseg.push_to_hub(run, name)
    assert not hub.asked("POST")


def test_folders_that_hold_no_model(hub: HubDouble, run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no model to share: no model.safetensors, config.yaml, classes.json"):
        ovseg.push_to_hub(tmp_path, REPO)
    (run / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"no model.safetensors; run `ovseg export-checkpoint"):
        ovseg.push_to_hub(run, REPO)
    save_file({"a": torch.zeros(2)}, run / "model.safetensors", {"format": "pt", "path": "/home/me"})
    with pytest.raises(WeightsError, match="was not written by ovseg"):
        ovseg.push_to_hub(run, REPO)


def test_a_model_on_files_of_this_machine_is_refused(hub: HubDouble, run: Path, tiny_clip: Path) -> None:
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace(f"hf-hub:{CLIP}", str(tiny_clip)))
    with pytest.raises(WeightsError, match=r"MODEL.CLIP.FOLDER is '.*tiny-clip', which only this machine has"):
        ovseg.push_to_hub(run, REPO)
    assert not hub.asked("POST")


def test_places_in_a_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assets = Path(ovseg.__file__).parent / "assets/mini"
    model = {"CLIP": {"FOLDER": str(assets)}, "FCCLIP": {"TRAINED_VOCABULARY": str(tmp_path)}, "DEVICE": "cuda:1"}
    found = portable({"MODEL": model, "OUTPUT_DIR": str(tmp_path), "SEED": 3, "DATASETS": {"TRAIN": ["x"]}})
    assert found == {"MODEL": {"CLIP": {"FOLDER": "mini"}, "FCCLIP": {"TRAINED_VOCABULARY": ""}}, "SEED": 3}
    monkeypatch.chdir(tmp_path)
    for name in ("words.json", "none", "clips"):
        (tmp_path / name).mkdir()
    kept = {"CLIP": {"FOLDER": "mini", "ARCH": "ViT-B-16", "PRETRAINED": "openai"}, "PROTOCOL": {"PADDING": "none"}}
    assert portable({"MODEL": kept}) == {"MODEL": kept}
    for section, key, text in (
        ("TEXT", "AUXILIARY", "words.json"),
        ("CLIP", "FOLDER", "clips"),
        ("CLIP", "PRETRAINED", "/data/own.pt"),
        ("CLIP", "PRETRAINED", r"C:\weights\own.pt"),
        ("RECALIBRATION", "WEIGHTS", "~/own.pt"),
    ):
        with pytest.raises(WeightsError, match=rf"MODEL.{section}.{key} is '.*', which only this machine has"):
            portable({"MODEL": {section: {key: text}}})
    with pytest.raises(WeightsError, match=r"MODEL.CLIP.MEMBERS is 'clips'"):
        portable({"MODEL": {"CLIP": {"MEMBERS": ["mini", "clips"]}}})


@pytest.mark.slow
def test_downloads_know_shared_models(
    hub: HubDouble, run: Path, elsewhere: Callable[[], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    ovseg.push_to_hub(run, REPO)
    capsys.readouterr()
    elsewhere()
    assert main(["download", f"hf:{REPO}"]) == 0
    said = capsys.readouterr().out
    assert f"model hf:{REPO} is here: " in said and f"model hf-hub:{CLIP} is here: " in said
    hub.requests.clear()
    ovseg.load(f"hf:{REPO}", "cpu")
    assert not hub.requests
    assert load_file(local_repository(REPO, "ovseg") / "model.safetensors").keys()
