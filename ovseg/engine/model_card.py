"""The card of a shared model: what it is, what it has learnt and from what, how good it was, how to load it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import yaml

from ovseg._version import __version__
from ovseg.checkpoint.hub.network import offline
from ovseg.checkpoint.hub.servers import BREAKS, described, licence_of
from ovseg.checkpoint.run_files import MODEL
from ovseg.checkpoint.trained import trained_step
from ovseg.clip.folders import repository
from ovseg.clip.tags import tag_config, tag_sources
from ovseg.data.registration import dataset_names
from ovseg.system.files import file_hash
from ovseg.zoo.card import COMMERCIAL, NOT_COMMERCIAL, list_models

if TYPE_CHECKING:
    from ovseg.meta_arch.worded_model import WordedModel
    from ovseg.segmenter import Segmenter
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


def write_card(
    folder: Path,
    shared: Path,
    segmenter: Segmenter,
    classes: Vocabulary,
    settings: Mapping[str, Any],
    repo: str,
    licence: str,
) -> str:
    """Return the card as Markdown with a head of YAML, as hubs read it.

    Args:
        folder: Of the run, for its log.
        shared: Of what is pushed.
        segmenter: The model, as it was loaded from there.
        classes: That were learnt.
        settings: The config of the run.
        repo: ``OWNER/NAME``.
        licence: Of the weights, as their author says; empty if nothing was said.
    """
    model, (base, base_licence) = segmenter.model, _base(segmenter, settings)
    step = trained_step(shared / MODEL)
    facts = {
        "architecture": type(model).__name__,
        "CLIP that it runs on (not in this repository)": f"{base}, licence of its weights: {base_licence}",
        "licence of these weights": licence or "not stated by their author",
        "trained": f"{'' if step is None else f'{step} steps on '}{_data(settings)}",
        "weights hash, as results record it": f"`{model.weights_hash}`",
        f"sha256 of `{MODEL}`": f"`{file_hash(shared / MODEL)}`",
        "made with": f"ovseg {__version__}",
    }
    rows = [f"| {key} | {text} |" for key, text in facts.items()]
    names = ["    " + " | ".join(entry.names) for entry in classes]  # indented by four: nothing in them is Markdown
    load = [f'ovseg segment photo.jpg --classes "cat, red chair" --model hf:{repo}', "```", "", "```python"]
    load += ["import ovseg", "", f'segmenter = ovseg.load("hf:{repo}")']
    head = yaml.safe_dump(_head(repo, segmenter, settings, licence), sort_keys=False)
    blocks = [
        f"---\n{head}---",
        f"# {repo.rpartition('/')[2]}",
        "A model for dense open-vocabulary segmentation: any image, any words, a label for every pixel. It was\n"
        "trained with ovseg, which loads it:",
        "\n".join(["```bash", "pip install ovseg", *load, "```"]),
        "\n".join(["| | |", "|---|---|", *rows]),
        f"## Classes that it has learnt ({len(classes)})",
        "It takes any other words, too; `|` stands between names of one class.",
        "\n".join(names),
        "## Validation",
        "\n".join(_metrics(folder / LOG)) or "Nothing was recorded.",
    ]
    return "\n\n".join(blocks) + "\n"


def _head(repo: str, segmenter: Segmenter, settings: Mapping[str, Any], licence: str) -> dict[str, Any]:
    head: dict[str, Any] = {
        "library_name": "ovseg",
        "pipeline_tag": "image-segmentation",
        "tags": ["ovseg", "open-vocabulary-segmentation", type(segmenter.model).__name__.lower()],
    }
    if licence.lower() in _HUBS_KNOW:
        head["license"] = licence.lower()
    elif licence:
        head |= {"license": "other", "license_name": "-".join(re.findall(r"[a-z0-9.]+", licence.lower()))}
    if found := repository(str(settings["MODEL"]["CLIP"].get("FOLDER", ""))):
        head["base_model"] = found.name
    return head


def _base(segmenter: Segmenter, settings: Mapping[str, Any]) -> tuple[str, str]:
    """Return what the CLIP of a model is called, and the licence of its weights in words."""
    node, clip = settings["MODEL"]["CLIP"], cast("WordedModel", segmenter.model).clip
    known = next((card for card in list_models() if card.clip_hash and card.clip_hash == clip.weights_hash), None)
    if known is not None:
        return f"`{known.name}` of the package ovseg", known.weights_licence
    if found := repository(str(node.get("FOLDER", ""))):
        return f"`{node['FOLDER']}`", _licence(found.name, found.revision)
    sources = tag_sources(tag_config(node["ARCH"], node["PRETRAINED"])) if not node.get("MEMBERS") else []
    repos = [source.repo for source in sources if source.repo]
    return f"`{clip.name}`", _licence(repos[0], "main") if repos else "not stated"


def _licence(repo: str, revision: str) -> str:
    if why := offline():
        return f"not looked up ({why})"
    try:
        return licence_of(described(repo, revision)) or "not stated"
    except _SILENT:
        return f"not known: the hub did not tell of {repo}"


def _data(settings: Mapping[str, Any]) -> str:
    """Return what a run was trained on: names of benchmarks; folders are the user's own and not named."""
    known = dataset_names()
    named = dict.fromkeys(name if name in known else _OWN for name in settings.get("DATASETS", {}).get("TRAIN", ()))
    return ", ".join(named) or _OWN


def _metrics(log: Path) -> Iterator[str]:
    """Yield the lines of the last validation that a run has recorded."""
    rows = map(json.loads, log.read_text(encoding="utf-8").splitlines()) if log.is_file() else ()
    last: dict[str, Any] = next((row for row in reversed([*rows]) if "loss" not in row), {})
    found = {match.groups(): value for key, value in last.items() if (match := _ROW.fullmatch(key))}
    known = dataset_names()
    for (name, share, key), value in found.items():
        if key in _SHOWN:
            data = f"{name if name in known else _OWN}{share or ''}"
            yield f"- {data}, after {last['step'] + 1} steps: {_SHOWN[key]} {value:.2%}"
        elif key == _TRAINED_ON and value:
            yield f"- {value} of these images were trained on: this is no measure of how new ones fare"
