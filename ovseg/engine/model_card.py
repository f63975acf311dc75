"""The card of a shared model: what it is, what it has learnt and from what, how good it was, how to load it."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ovseg._version import __version__
from ovseg.checkpoint.hub.network import offline
from ovseg.checkpoint.hub.servers import BREAKS, described, licence_of
from ovseg.checkpoint.run_files import MODEL
from ovseg.checkpoint.trained import trained_step
from ovseg.clip.folders import repository
from ovseg.clip.sources import ClipSource
from ovseg.clip.tags import tag_config, tag_sources
from ovseg.data.registration import dataset_names
from ovseg.system.files import file_hash
from ovseg.zoo.card import COMMERCIAL, NOT_COMMERCIAL, list_models

if TYPE_CHECKING:
    from ovseg.meta_arch.worded_model import WordedModel
    from ovseg.vocabulary import Vocabulary

CARD = "README.md"
LOG = "log.jsonl"
_OWN = "own data"
_HUBS_KNOW = {one.lower() for one in COMMERCIAL | NOT_COMMERCIAL} | {"agpl-3.0", "gpl-3.0", "lgpl-3.0", "openrail"}
_HUBS_KNOW -= {"0bsd", "mit-0", "polyform-noncommercial-1.0.0"}  # the list of the Hugging Face hub has not these
_SHOWN = {
    "miou_present": "mIoU over the classes present",
    "miou_all": "mIoU over all classes",
    "pixel_accuracy": "pixel accuracy",
    "panoptic/pq": "PQ",
    "instance/ap": "AP",
}
_TRAINED_ON = "images_trained_on"
_SILENT: tuple[type[Exception], ...] = (*BREAKS, ValueError)  # of a hub that does not tell
_ROW = re.compile(r"(.+?)( \([\d.]+\s*% held out\))?/((?:(?:panoptic|instance|prompt|referring)/)?\w+)")


@dataclass(frozen=True)
class About:
    """What a card says beside what the model says itself.

    Attributes:
        repo: ``OWNER/NAME``.
        licence: Of the weights, as their author says; empty if nothing was said.
        run: Folder of the training, for its log.
        weights: The file that is pushed.
        classes: That were learnt.
        clip: Where the CLIP below it comes from.
        data: What it was trained on, as the config names it.
    """

    repo: str
    licence: str
    run: Path
    weights: Path
    classes: Vocabulary
    clip: ClipSource
    data: tuple[str, ...]


def write_card(about: About, model: WordedModel) -> str:
    """Return the card as Markdown with a head of YAML, as hubs read it.

    Args:
        about: What it says.
        model: As it was loaded from what is pushed.
    """
    repo, step, base = about.repo, trained_step(about.weights), _base(about.clip, model)
    facts = {
        "architecture": type(model).__name__,
        "CLIP that it runs on (not in this repository)": f"{base[0]}, licence of its weights: {base[1]}",
        "licence of these weights": about.licence or "not stated by their author",
        "trained": f"{'' if step is None else f'{step} steps on '}{_data(about.data)}",
        "weights hash, as results record it": f"`{model.weights_hash}`",
        f"sha256 of `{MODEL}`": f"`{file_hash(about.weights)}`",
        "made with": f"ovseg {__version__}",
    }
    rows = [f"| {key} | {text} |" for key, text in facts.items()]
    names = ["    " + " | ".join(entry.names) for entry in about.classes]  # indented: nothing in them is Markdown
    load = [f'ovseg segment photo.jpg --classes "cat, red chair" --model hf:{repo}', "```", "", "```python"]
    load += ["import ovseg", "", f'segmenter = ovseg.load("hf:{repo}")']
    head = yaml.safe_dump(_head(about, model), sort_keys=False)
    blocks = [
        f"---\n{head}---",
        f"# {repo.rpartition('/')[2]}",
        "A model for dense open-vocabulary segmentation: any image, any words, a label for every pixel. It was\n"
        "trained with ovseg, which loads it:",
        "\n".join(["```bash", "pip install ovseg", *load, "```"]),
        "\n".join(["| | |", "|---|---|", *rows]),
        f"## Classes that it has learnt ({len(about.classes)})",
        "It takes any other words, too; `|` stands between names of one class.",
        "\n".join(names),
        "## Validation",
        "\n".join(_metrics(about.run / LOG)) or "Nothing was recorded.",
    ]
    return "\n\n".join(blocks) + "\n"


def _head(about: About, model: WordedModel) -> dict[str, Any]:
    licence = about.licence.lower()
    head: dict[str, Any] = {
        "library_name": "ovseg",
        "pipeline_tag": "image-segmentation",
        "tags": ["ovseg", "open-vocabulary-segmentation", type(model).__name__.lower()],
    }
    if licence in _HUBS_KNOW:
        head["license"] = licence
    elif licence:
        head |= {"license": "other", "license_name": "-".join(re.findall(r"[a-z0-9.]+", licence))}
    if found := repository(about.clip.folder):
        head["base_model"] = found.name
    return head


def _base(clip: ClipSource, model: WordedModel) -> tuple[str, str]:
    """Return what the CLIP of a model is called, and the licence of its weights in words."""
    known = next((card for card in list_models() if card.clip_hash and card.clip_hash == model.clip.weights_hash), None)
    if known is not None:
        return f"`{known.name}` of the package ovseg", known.weights_licence
    if found := repository(clip.folder):
        return f"`{clip.folder}`", _licence(found.name, found.revision)
    sources = [] if clip.members else tag_sources(tag_config(clip.arch, clip.pretrained))
    repos = [source.repo for source in sources if source.repo]
    return f"`{clip.name}`", _licence(repos[0], "main") if repos else "not stated"


def _licence(repo: str, revision: str) -> str:
    if why := offline():
        return f"not looked up ({why})"
    try:
        return licence_of(described(repo, revision)) or "not stated"
    except _SILENT:
        return f"not known: the hub did not tell of {repo}"


def _data(names: Sequence[str]) -> str:
    """Return what a run was trained on: names of benchmarks; folders are the user's own and not named."""
    known = dataset_names()
    named = dict.fromkeys(name if name in known else _OWN for name in names)
    return ", ".join(named) or _OWN


def _metrics(log: Path) -> Iterator[str]:
    """Yield the lines of the last validation that a run has recorded."""
    last: dict[str, Any] = {}
    for line in log.read_text(encoding="utf-8").splitlines() if log.is_file() else ():
        with contextlib.suppress(ValueError):  # of the half line that a kill has left
            row = json.loads(line)
            last = last if "loss" in row else row
    found = {match.groups(): value for key, value in last.items() if (match := _ROW.fullmatch(key))}
    known = dataset_names()
    for (name, share, key), value in found.items():
        if key in _SHOWN:
            data = f"{name if name in known else _OWN}{share or ''}"
            yield f"- {data}, after {last['step'] + 1} steps: {_SHOWN[key]} {value:.2%}"
        elif key == _TRAINED_ON and value:
            yield f"- {value} of these images were trained on: this is no measure of how new ones fare"
