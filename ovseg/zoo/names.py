"""What the name of a model stands for: a config file, and the changes to it that the name asks for."""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import Any

from ovseg.checkpoint.run_files import CLASSES, CONFIG, LAST, MODEL
from ovseg.config import config_root, find_config, read_chain
from ovseg.errors import UnknownNameError, VocabularyError, WeightsError, unknown_name
from ovseg.system.values import merge
from ovseg.zoo.aliases import AUTO, aliases
from ovseg.zoo.auto import choose
from ovseg.zoo.card import PACKAGE, Card, list_models
from ovseg.zoo.clip_names import CLIP_CONFIGS, PATH_START, clip, clip_source, is_clip
from ovseg.zoo.exported import exported_spec, is_exported
from ovseg.zoo.shared import shared_folder
from ovseg.zoo.spec import ASKED, Layer, Spec, architectures, read_entry, read_layers

COMMON = "common"


def resolve(model: str | Path, protocol: str = "", overrides: dict[str, Any] | None = None) -> Spec:
    """Find what the name of a model stands for; the one way of the API, commands and training.

    Names of cards, aliases and methods come before folders of that name in the current folder (``./mini`` is one).

    Args:
        model: See the top of `ovseg.zoo`.
        protocol: A benchmark for which there are published settings, ``common`` (settings under which all methods can
            be compared), or empty for the model's own.
        overrides: Nested changes to the config, over all others.

    Raises:
        UnknownNameError: There is no such name or protocol; near matches are in the message.
        ConfigError: There is no such config file.
        WeightsError: It is a path, and leads to no folder with a model; or ``auto`` was to fetch one and could not.
        EnvironmentProblem: Detectron2 or another package is missing.
    """
    architectures()  # says what is missing before anything else is done
    if is_exported(str(model)):
        return exported_spec(str(model), protocol, overrides)
    name, why, mend = _stands_for(str(model))
    spec = _find(name, "" if protocol == COMMON else protocol)
    *below, asked = spec.layers
    common = _common(spec) if protocol == COMMON else ()
    given = (Layer(ASKED, overrides),) if overrides else ()
    whole = Spec(spec.path, (*below, *common, asked, *given), spec.card, name)
    learnt = _learnt_words(whole.settings.get("MODEL", {}))
    layers = (*below, *common, asked, *learnt, *given)
    return Spec(spec.path, layers, spec.card, name, str(model), why, mend)


def _stands_for(asked: str) -> tuple[str, str, str]:
    """Return the name that is meant, why, and where it stands in for what is not here the way to that."""
    if asked == AUTO:
        choice = choose()
        return choice.name, choice.why, choice.mend
    alias = aliases().get(asked)
    return (alias.model, alias.means, "") if alias and alias.model != asked else (asked, "", "")


def _find(model: str, protocol: str) -> Spec:
    """Resolve a name; the last layer of the result is what the name asks for."""
    method, _, rest = model.partition("/")
    if method.casefold() in _methods():
        return _with_method(method, rest, protocol)
    card = None
    if shared := shared_folder(model):
        path, asked = _folder(str(shared))
    elif is_clip(model):
        return _with_method("clip", model, protocol)
    elif model.endswith((".yaml", ".yml")):
        path, asked = find_config(model), _words_beside(find_config(model), CONFIG)
    elif card := _card(model):
        path, asked = config_root() / card.config, _weights_of(card)
    else:
        path, asked = _folder(model)
    return Spec(path, (*_benchmark(path, model, protocol), Layer(ASKED, asked)), card)


def _folder(model: str) -> tuple[Path, dict[str, Any]]:
    """Resolve a folder with a CLIP, or with a config of its own."""
    place = os.path.expanduser(model)
    if not os.path.isdir(place):  # pathlib raises where a name is too long for a file
        raise _not_found(model, Path(place))
    # Absolute, for a bare name in a config, which "./mini" is as a path, is that of an embedded CLIP.
    folder = Path(place).resolve()
    changes = clip(FOLDER=str(folder)) if any((folder / name).is_file() for name in CLIP_CONFIGS) else {}
    if (folder / "config.yaml").is_file():
        return folder / "config.yaml", merge(changes, _trained(folder))
    if not changes:
        raise WeightsError(f"folder '{model}' holds no model; expected {' or '.join(CLIP_CONFIGS)} and weights in it")
    return config_root() / "training_free/clip.yaml", changes


def _common(spec: Spec) -> list[Layer]:
    """Return the settings common to all methods; an embedded model brings the size it was made for.

    Models that propose masks keep their own: windows, logit scales and refinements mean nothing to them.
    """
    kinds = [settings.get("MODEL", {}).get("META_ARCHITECTURE") for _, settings in read_chain(spec.path)]
    if any(kind not in (None, "TrainingFree") for kind in kinds):
        return []
    files = [config_root() / "training_free/common.yaml"]
    if card := embedded_clip(spec):
        files.append(config_root() / card.base)
    layers = (read_layers(file)[-1] for file in files)
    return [Layer(layer.source, {"MODEL": layer.settings["MODEL"]}) for layer in layers]


def _card(model: str) -> Card | None:
    return next((card for card in list_models() if card.name == model), None)


def embedded_clip(spec: Spec) -> Card | None:
    """Return the card of the embedded CLIP that a name asks for, alone or under a method; None where it is another."""
    folder = spec.changes.get("MODEL", {}).get("CLIP", {}).get("FOLDER")
    return next((card for card in _clips().values() if str(PACKAGE / card.folder) == folder), None)


def _clips() -> dict[str, Card]:
    """Return the cards of embedded CLIPs, which every method can run on."""
    return {card.name: card for card in list_models() if card.weights == "embedded" and card.base}


def _trained(folder: Path) -> dict[str, Any]:
    """Return the weights and words that a training has left in a folder, where it has; its checkpoint if it is on."""
    found = next((folder / name for name in (MODEL, LAST) if (folder / name).is_file()), None)
    return merge({"MODEL": {"WEIGHTS": str(found)} if found else {}}, _words_beside(folder / MODEL, MODEL))


def _learnt_words(model: dict[str, Any]) -> tuple[Layer, ...]:
    """Return the words that weights have learnt: they belong to the weights, whatever config these are put into.

    Args:
        model: The settings below ``MODEL``.
    """
    weights = str(model.get("WEIGHTS", ""))
    file = Path(os.path.expanduser(weights))
    found = _words_beside(file, MODEL, LAST) if weights else {}
    if not found:
        return ()
    sections = {kind: section for kind, section in model.items() if isinstance(section, dict)}
    others = {
        kind: {"TRAINED_VOCABULARY": _head_words(file.parent, kind) if section.get("ADAPTER") else ""}
        for kind, section in sections.items()
        if section.get("TRAINED_VOCABULARY") or section.get("ADAPTER")
    }
    return (Layer(f"{CLASSES} beside {weights}", {"MODEL": {**found["MODEL"], **others}}),)


def _head_words(run: Path, kind: str) -> str:
    """Return the words of the head that an adapter stands on: those of a run, which may be that of an adapter itself.

    Args:
        run: Its folder.
        kind: The architecture.
    """
    from ovseg.vocabulary import Vocabulary

    settings: dict[str, Any] = {}
    for _, part in read_chain(run / CONFIG) if (run / CONFIG).is_file() else ():
        settings = merge(settings, part)
    section = settings.get("MODEL", {}).get(kind, {})
    if section.get("ADAPTER") and (known := str(section.get("TRAINED_VOCABULARY", ""))):
        return known
    try:
        return Vocabulary.parse(str(run / CLASSES)).format()
    except VocabularyError:  # a name with a comma
        return str(run / CLASSES)


def _words_beside(file: Path, *names: str) -> dict[str, Any]:
    """Return the words that a training has learnt, for a file of its folder that has one of these names."""
    words = file.parent / CLASSES
    return {"MODEL": {"TEXT": {"VOCABULARY": str(words)}}} if file.name in names and words.is_file() else {}


def _methods() -> dict[str, str]:
    """Return the registered spelling of every method by its casefolded name."""
    from ovseg.recalibration import list_recalibrations

    return {name.casefold(): name for name in list_recalibrations()}


def _clip_of(card: Card) -> dict[str, Any]:
    return clip(FOLDER=str(PACKAGE / card.folder))


def _weights_of(card: Card) -> dict[str, Any]:
    """Return the CLIP of an embedded model and, where there is one, the head that was trained on it."""
    if not card.folder:
        return {}
    head = {"MODEL": {"WEIGHTS": str(PACKAGE / card.folder / card.file)}} if card.file else {}
    return merge(_clip_of(card), head)


def _with_method(method: str, rest: str, protocol: str) -> Spec:
    """Resolve a method on the CLIP that ``rest`` names; see `ovseg.zoo.clip_names`.

    On the CLIP of a card it has the settings of that CLIP, and over them what its own file says under ``EMBEDDED``.
    """
    if not rest:
        raise UnknownNameError(
            f"'{method}' is a method without a CLIP; write for example '{method}/mini' or '{method}/ViT-B-16/openai'"
        )
    clips, path = _clips(), method_config(method)
    asked = clip_source(method, rest, {name: str(PACKAGE / card.folder) for name, card in clips.items()})
    table = _benchmark(path, method.casefold(), protocol)
    if not protocol:
        asked = merge(asked, {"MODEL": {"RECALIBRATION": {"NAME": _methods()[method.casefold()]}}})
    if rest in clips and not protocol:
        base = config_root() / clips[rest].base
        entry = read_entry(path, "EMBEDDED", rest, base)
        path, table = base, [entry] if entry else []
    return Spec(path, (*table, Layer(ASKED, asked)), _card(f"{method.casefold()}/ARCHITECTURE/TAG"))


def method_config(method: str) -> Path:
    """Return the config file of a method; one of the user has none, and takes what all share."""
    own = config_root() / "training_free" / f"{method.casefold()}.yaml"
    return own if own.is_file() else own.with_name("base.yaml")


def _benchmark(path: Path, model: str, protocol: str) -> list[Layer]:
    """Return the published settings of a config for a benchmark; none without one."""
    if not protocol:
        return []
    if (entry := read_entry(path, "BENCHMARKS", protocol, path)) is None:
        raise unknown_name(f"protocol of {model}", protocol, [COMMON, *list_protocols(path)])
    return [entry]


def list_protocols(path: Path) -> list[str]:
    """Return the benchmarks for which a config has settings, by the names of their vocabulary presets or data sets."""
    entries: dict[str, Any] = {}
    for _, settings in read_chain(path):
        entries |= settings.get("BENCHMARKS", {})
    return sorted(name for name, entry in entries.items() if entry is not None)


def _not_found(model: str, path: Path) -> Exception:
    if os.path.isfile(path):
        return WeightsError(f"'{model}' is a file; expected a folder, a .yaml, or METHOD/ARCHITECTURE/FILE for weights")
    if model.startswith(PATH_START):
        return WeightsError(f"folder '{model}' does not exist; check the path (relative paths start at {Path.cwd()})")
    method, slash, rest = model.partition("/")
    near = difflib.get_close_matches(method.casefold(), _methods(), n=1, cutoff=0.5) if slash else []
    if near:
        return UnknownNameError(f"unknown method '{method}' in '{model}'; did you mean '{near[0]}/{rest}'?")
    ready = [card.name for card in list_models() if card.weights != "open_clip"]
    known = [*ready, *aliases(), *(f"{name}/mini" for name in _methods())]
    return unknown_name("model", model, known, first=list(aliases()))
