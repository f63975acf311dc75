"""What the name of a model stands for: a config file, and the changes to it that the name asks for."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import yaml

from ovseg.config import config_root
from ovseg.errors import UnknownNameError, WeightsError, unknown_name
from ovseg.mappings import merge
from ovseg.zoo.card import PACKAGE, Card, list_models
from ovseg.zoo.sources import read_chain

COMMON = "common"
_PATH_START = ("/", "./", "../", "~", ".\\", "..\\")


def resolve(model: str, protocol: str = "") -> tuple[Path, dict[str, Any]]:
    """Find the config file of a model name, and the nested changes to it.

    Names of cards and methods come before folders of the same name in the current folder (``./mini`` is the folder).

    Args:
        model: See the top of `ovseg.zoo`.
        protocol: A benchmark for which the method has published settings, ``common`` (settings under which all methods
            can be compared), or empty for the model's own.

    Raises:
        UnknownNameError: There is no such name or protocol; near matches are in the message.
        WeightsError: It is a path, and leads to no folder with a model.
    """
    if protocol == COMMON:
        path, changes = resolve(model)
        return path, merge(_common(model, path), changes)
    embedded = _embedded()
    method, _, rest = model.partition("/")
    if method.casefold() in _methods():
        return _with_method(method, rest, _clips(), protocol)
    if protocol:
        raise UnknownNameError(f"protocol '{protocol}' needs a model of the form METHOD/CLIP, got '{model}'")
    if model.endswith((".yaml", ".yml")):
        return Path(model).expanduser(), {}
    if model in embedded:
        return config_root() / embedded[model].config, _weights_of(embedded[model])
    if card := released_card(model):
        return config_root() / card.config, {}
    folder = Path(model).expanduser()
    if not folder.is_dir():
        raise _not_found(model, folder, embedded)
    changes = {} if not (folder / "open_clip_config.json").is_file() else _clip(FOLDER=str(folder))
    if (folder / "config.yaml").is_file():
        return folder / "config.yaml", merge(changes, _trained(folder))
    if not changes:
        raise WeightsError(f"folder '{model}' holds no model; expected open_clip_config.json (and weights) in it")
    return config_root() / "training_free/clip.yaml", changes


def _common(model: str, path: Path) -> dict[str, Any]:
    """Return the settings common to all methods; an embedded model brings the size it was made for.

    Models that propose masks keep their own: windows, logit scales and refinements mean nothing to them.
    """
    kinds = [settings.get("MODEL", {}).get("META_ARCHITECTURE") for _, settings in read_chain(path)]
    if any(kind not in (None, "TrainingFree") for kind in kinds):
        return {}
    files = [config_root() / "training_free/common.yaml"]
    folders = {card.folder for name, card in _embedded().items() if name in model.split("/")}
    files += [config_root() / card.base for card in _clips().values() if card.folder in folders]
    settings: dict[str, Any] = {}
    for file in files:
        settings = merge(settings, yaml.safe_load(file.read_text(encoding="utf-8")))
    return {"MODEL": settings["MODEL"]}


def _embedded() -> dict[str, Card]:
    return {card.name: card for card in list_models() if card.weights == "embedded"}


def _clips() -> dict[str, Card]:
    """Return the cards of embedded CLIPs, which every method can run on."""
    return {name: card for name, card in _embedded().items() if card.base}


def released_card(model: str) -> Card | None:
    """Return the card of a released model, or None if the name is another."""
    return next((card for card in list_models() if card.weights == "released" and card.name == model), None)


def _trained(folder: Path) -> dict[str, Any]:
    """Return the weights and words that a training has left in a folder, where it has."""
    weights, words = folder / "model.safetensors", folder / "classes.json"
    found: dict[str, Any] = {"WEIGHTS": str(weights)} if weights.is_file() else {}
    return {"MODEL": {**found, **({"TEXT": {"VOCABULARY": str(words)}} if words.is_file() else {})}}


def _methods() -> dict[str, str]:
    """Return the registered spelling of every method by its casefolded name."""
    from ovseg.recalibration import list_recalibrations

    return {name.casefold(): name for name in list_recalibrations()}


def _clip(**options: str) -> dict[str, Any]:
    return {"MODEL": {"CLIP": options}}


def _clip_of(card: Card) -> dict[str, Any]:
    return _clip(FOLDER=str(PACKAGE / card.folder))


def _weights_of(card: Card) -> dict[str, Any]:
    """Return the CLIP of an embedded model and, where there is one, the head that was trained on it."""
    head = {"MODEL": {"WEIGHTS": str(PACKAGE / card.folder / card.file)}} if card.file else {}
    return merge(_clip_of(card), head)


def _with_method(method: str, rest: str, embedded: dict[str, Card], protocol: str) -> tuple[Path, dict[str, Any]]:
    """Resolve a method on the CLIP that ``rest`` names: a card's, a folder's, or ``ARCHITECTURE/TAG-or-file``.

    A method may have a config of its own for a card, ``training_free/METHOD/CARD.yaml``.
    """
    if not rest:
        raise UnknownNameError(
            f"'{method}' is a method without a CLIP; write for example '{method}/mini' or '{method}/ViT-B-16/openai'"
        )
    name = {"MODEL": {"RECALIBRATION": {"NAME": _methods()[method.casefold()]}}}
    folder = config_root() / "training_free"
    if protocol:
        clip = _clip_of(embedded[rest]) if rest in embedded else _clip_source(method, rest, embedded)
        return _benchmark(folder, method.casefold(), protocol), clip
    if rest in embedded:
        own = folder / method.casefold() / f"{rest}.yaml"
        base = own if own.is_file() else config_root() / embedded[rest].base
        return base, merge(_clip_of(embedded[rest]), name)
    own = folder / f"{method.casefold()}.yaml"
    base = own if own.is_file() else folder / "base.yaml"
    return base, merge(_clip_source(method, rest, embedded), name)


def _benchmark(folder: Path, method: str, protocol: str) -> Path:
    """Return the file of a method's settings for a benchmark."""
    own = folder / method / f"{protocol}.yaml"
    if not own.is_file():
        raise unknown_name(f"protocol of {method}", protocol, [COMMON, *list_protocols(method)])
    return own


def list_protocols(method: str) -> list[str]:
    """Return the benchmarks for which a method has settings, by the names of their vocabulary presets."""
    cards = {card.name for card in list_models()}
    files = (config_root() / "training_free" / method.casefold()).glob("*.yaml")
    return sorted(file.stem for file in files if file.stem not in cards)


def _clip_source(method: str, rest: str, embedded: dict[str, Card]) -> dict[str, Any]:
    path = Path(rest).expanduser()
    if path.is_dir():
        return _clip(FOLDER=str(path))
    if path.is_file():
        raise WeightsError(f"'{rest}' is a weights file; say its architecture too: '{method}/ViT-B-16/{rest}'")
    if rest.startswith(_PATH_START):
        raise WeightsError(f"folder '{rest}' does not exist; check the path (relative paths start at {Path.cwd()})")
    architecture, slash, pretrained = rest.partition("/")
    if slash and pretrained:
        expanded = str(Path(pretrained).expanduser()) if pretrained.startswith("~") else pretrained
        return _clip(ARCH=architecture, PRETRAINED=expanded)
    near = difflib.get_close_matches(rest, embedded, n=1, cutoff=0.5)
    hint = f"did you mean '{method}/{near[0]}'?" if near else f"expected for example '{method}/ViT-B-16/openai'"
    raise UnknownNameError(
        f"'{rest}' in '{method}/{rest}' names neither a card nor a folder nor ARCHITECTURE/TAG; {hint}"
    )


def _not_found(model: str, path: Path, embedded: dict[str, Card]) -> Exception:
    if path.is_file():
        return WeightsError(f"'{model}' is a file; expected a folder, a .yaml, or METHOD/ARCHITECTURE/FILE for weights")
    if model.startswith(_PATH_START):
        return WeightsError(f"folder '{model}' does not exist; check the path (relative paths start at {Path.cwd()})")
    method, slash, rest = model.partition("/")
    near = difflib.get_close_matches(method.casefold(), _methods(), n=1, cutoff=0.5) if slash else []
    if near:
        return UnknownNameError(f"unknown method '{method}' in '{model}'; did you mean '{near[0]}/{rest}'?")
    released = [card.name for card in list_models() if card.weights == "released"]
    return unknown_name("model", model, [*embedded, *released, *(f"{name}/mini" for name in _methods())])
