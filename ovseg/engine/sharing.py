"""Sharing a model that was trained here: its folder as a repository of the hub, which `ovseg.load` takes as a model.

What is pushed is made for it and holds nothing of this machine: the weights as they are, the config without data sets
and folders, the classes that were learnt, the hashes of the images that were learnt from (so that a validation on them
is told from one on new ones by whoever goes on), and a model card.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ovseg.checkpoint.hub.uploading import Uploaded, check_target, upload
from ovseg.checkpoint.run_files import CLASSES, CONFIG, EARLIER, LAST, MODEL
from ovseg.checkpoint.trained import FORMAT
from ovseg.engine.identity import trained_on
from ovseg.engine.model_card import CARD, write_card
from ovseg.engine.portable import portable
from ovseg.errors import InputError, WeightsError
from ovseg.system.device import CPU
from ovseg.system.files import file_hash
from ovseg.vocabulary import Vocabulary
from ovseg.zoo import load, load_spec, resolve

if TYPE_CHECKING:
    from ovseg.segmenter import Segmenter

FILES = (CONFIG, CLASSES, EARLIER, MODEL, CARD)
"""All that is ever pushed."""
_PREFIX = "hf:"


@dataclass(frozen=True)
class Shared:
    """What is pushed, or would be.

    Attributes:
        files: By name in the repository; they lie in a folder that goes when the push is done.
        weights_hash: Of the whole model, as results record it.
        left_out: What the folder holds besides, by name.
    """

    files: Mapping[str, Path]
    weights_hash: str
    left_out: tuple[str, ...]

    @property
    def lines(self) -> list[str]:
        """Say in lines what goes and what stays."""
        own = [f"{name}: {path.stat().st_size} bytes, sha256 {file_hash(path)}" for name, path in self.files.items()]
        return [*own, *([f"stays here: {', '.join(self.left_out)}"] if self.left_out else [])]


def push_to_hub(
    folder: str | Path,
    repo: str,
    licence: str = "",
    private: bool = False,
    update: bool = False,
    tell: Callable[[str], None] | None = None,
) -> Uploaded:
    """Share the model in a folder of ``ovseg train`` or ``ovseg export-checkpoint``; read it back by `from_pretrained`.

    It is loaded before anything is sent, and what the hub has afterwards is compared by checksums.

    Args:
        folder: With ``model.safetensors``, ``config.yaml`` and ``classes.json``.
        repo: ``OWNER/NAME`` on the hub that ``HF_ENDPOINT`` names; the token is that of ``hf auth login`` or
            ``HF_TOKEN``.
        licence: Of these weights, such as ``Apache-2.0``; empty: the card says that none is stated.
        private: Nobody but the owners may see it.
        update: The repository may hold files already; its history keeps them.
        tell: Called with lines on what goes and what stays, before it goes.

    Raises:
        InputError: The folder holds no model.
        WeightsError: The model cannot be loaded, or needs files that only this machine has.
        UploadError: The hub does not take it.
    """
    check_target(repo)
    with tempfile.TemporaryDirectory() as place:
        shared = prepare(folder, Path(place), repo, licence)
        if tell:
            for line in shared.lines:
                tell(line)
        return upload(repo, shared.files, f"ovseg: weights {shared.weights_hash}", private, update, FILES)


def from_pretrained(repo: str, revision: str = "main", **options: Any) -> Segmenter:
    """Load a model that `push_to_hub` has shared: ``ovseg.load("hf:OWNER/NAME")`` under the name that others use.

    Args:
        repo: ``OWNER/NAME``.
        revision: Branch, tag or commit.
        options: As for `ovseg.load`.

    Raises:
        OvsegError: As `ovseg.load`.
    """
    return load(f"{_PREFIX}{repo}" if revision == "main" else f"{_PREFIX}{repo}@{revision}", **options)


def prepare(folder: str | Path, into: Path, repo: str, licence: str = "") -> Shared:
    """Write what is pushed of a folder into another one, and load it from there; arguments and errors: `push_to_hub`.

    Args:
        folder: Of the model.
        into: An empty folder.
        repo: For the card.
        licence: Likewise.
    """
    own = _checked(Path(folder))
    shutil.copyfile(own / MODEL, into / MODEL)
    settings = yaml.safe_load((own / CONFIG).read_text(encoding="utf-8"))
    (into / CONFIG).write_text(yaml.safe_dump(portable(settings), sort_keys=True), encoding="utf-8")
    classes = Vocabulary.parse(str(own / CLASSES))
    (into / CLASSES).write_text(json.dumps(classes.to_json(), indent=1), encoding="utf-8")
    if seen := sorted(trained_on(own)):
        (into / EARLIER).write_text(json.dumps(seen), encoding="utf-8")
    segmenter = load_spec(resolve(into), str(CPU), "fp32")
    (into / CARD).write_text(write_card(own, into, segmenter, classes, settings, repo, licence), encoding="utf-8")
    files = {name: into / name for name in FILES if (into / name).is_file()}
    left = sorted(path.name for path in own.iterdir() if path.name not in FILES)
    return Shared(files, segmenter.model.weights_hash, tuple(left))


def _checked(folder: Path) -> Path:
    """Return a folder that holds a model of ours.

    Raises:
        InputError: It does not.
        WeightsError: The weights were written by something else, and may say anything.
    """
    if missing := [name for name in (MODEL, CONFIG, CLASSES) if not (folder / name).is_file()]:
        mend = (
            f"run `ovseg export-checkpoint {folder}` first" if (folder / LAST).is_file() else "give that of a training"
        )
        raise InputError(f"'{folder}' holds no model to share: no {', '.join(missing)}; {mend}")
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(folder / MODEL, "pt") as file:
            said = file.metadata() or {}
    except SafetensorError as error:
        raise WeightsError(f"'{folder / MODEL}' cannot be read: {error}") from error
    if said.keys() != {"format"} or not said["format"].startswith(FORMAT):
        raise WeightsError(
            f"'{folder / MODEL}' was not written by ovseg (it says {dict(said)}); export the checkpoint anew"
        )
    return folder
