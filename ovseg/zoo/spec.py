"""What the name of a model stands for: a config file, what is changed in it, and the card."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ovseg.config import TABLES, config_root, load_config, read_chain
from ovseg.errors import EnvironmentProblem
from ovseg.system.values import merge
from ovseg.zoo.card import Card

if TYPE_CHECKING:
    from detectron2.config import CfgNode

    from ovseg.meta_arch.exported.card import FileCard
    from ovseg.vocabulary import Vocabulary

ASKED = "the name or protocol that was asked for"


class Layer(NamedTuple):
    """Nested settings, and where they come from, in words: a file, and what that says of its own source."""

    source: str
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Spec:
    """What the name of a model stands for.

    Attributes:
        path: Its config file, with those that this one is based on.
        layers: What is changed in it, the last one last.
        card: What is known of the model; None for files and folders of the user.
        name: What it is called; of an alias and of ``auto`` that for which they stand.
        asked: As it was given.
        why: Why the name that was given stands for this model; empty where it is its own.
        mend: How to come to what was meant, where this one answers in its place; else empty.
        exported: The file of `ovseg export` that it is, and its card; None for all others.
    """

    path: Path
    layers: tuple[Layer, ...] = ()
    card: Card | None = None
    name: str = ""
    asked: str = ""
    why: str = ""
    mend: str = ""
    exported: tuple[Path, FileCard] | None = None

    @property
    def own_words(self) -> Vocabulary | str:
        """The words that the model segments by when none are given; empty for none."""
        from ovseg.vocabulary import Vocabulary

        if self.exported is not None and (packed := self.exported[1].words):
            return Vocabulary.parse(packed["vocabulary"])
        found: str = self.config.MODEL.TEXT.VOCABULARY
        return found

    def protocol_words(self, protocol: str) -> str:
        """Return the words that the config's entry for a benchmark asks, as `Vocabulary.parse` takes them.

        Empty where it has none, or where what the name or its caller asks for has others.
        """
        entry = None if self.exported is not None else read_entry(self.path, "BENCHMARKS", protocol, self.path)
        found = {} if entry is None else entry.settings["MODEL"].get("TEXT", {})
        words = str(found.get("VOCABULARY", ""))
        return words if words == self.config.MODEL.TEXT.VOCABULARY else ""

    @property
    def changes(self) -> dict[str, Any]:
        """All that is changed in the file, nested."""
        return reduce(merge, (layer.settings for layer in self.layers), {})

    @property
    def settings(self) -> dict[str, Any]:
        """All that its files and the changes say, nested; defaults are not in it."""
        return reduce(merge, (layer.settings for layer in (*read_layers(self.path), *self.layers)), {})

    @property
    def sources(self) -> dict[str, str]:
        """Where the settings come from, by dotted key such as ``MODEL.PROTOCOL.WINDOW``; defaults are not in it."""
        found: dict[str, str] = {}
        for layer in (*read_layers(self.path), *self.layers):
            found |= dict.fromkeys(_leaves(layer.settings), layer.source)
        return found

    @cached_property
    def config(self) -> CfgNode:
        """The whole config, frozen; built when it is first asked for, and once.

        Raises:
            UnknownNameError: A key is unknown; near matches are named.
            ConfigError: A value has the wrong type.
            EnvironmentProblem: Detectron2 or another package is missing.
        """
        architectures()
        from ovseg.meta_arch import complete

        return complete(load_config(self.path, self.changes))


def architectures() -> Any:
    """Import Detectron2, register our architectures with it and return its registry.

    Raises:
        EnvironmentProblem: Detectron2 or another package is missing or broken.
    """
    try:
        with warnings.catch_warnings():  # Detectron2 scripts functions at import, which new PyTorch announces to drop
            warnings.simplefilter("ignore", FutureWarning)
            from detectron2.modeling import META_ARCH_REGISTRY

            import ovseg.meta_arch  # noqa: F401
    except ModuleNotFoundError as error:
        raise EnvironmentProblem(f"{error}; run `ovseg doctor --fix`, which brings what is missing") from error
    except (RuntimeError, OSError, ImportError) as error:  # a library that does not fit: torchvision's to torch, ...
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise EnvironmentProblem(f"an installed package does not import ({reason}); run `ovseg doctor`") from error
    return META_ARCH_REGISTRY


def read_layers(path: Path) -> list[Layer]:
    """Read a config and the files it is based on, the most basic first.

    Raises:
        ConfigError: As `ovseg.config.read_chain`.
    """
    layers, said = [], ""
    for file, settings in read_chain(path):
        said = settings.get("MODEL", {}).get("SOURCE", said)  # files without one share that of their base
        own = {key: value for key, value in settings.items() if key not in TABLES}
        layers.append(Layer(_source(file, said), own))
    return layers


def read_entry(path: Path, table: str, name: str, base: Path) -> Layer | None:
    """Read an entry of ``BENCHMARKS`` or ``EMBEDDED`` of a config, or of those it is based on; None if there is none.

    A config withdraws an entry of its base by null.

    Args:
        path: The config.
        table: Which of the two.
        name: Of the entry.
        base: The config that the entry changes, whose source is the entry's too if it names none.
    """
    said = next((s["MODEL"]["SOURCE"] for _, s in reversed(read_chain(base)) if "SOURCE" in s.get("MODEL", {})), "")
    for file, settings in reversed(read_chain(path)):
        if name in settings.get(table, {}):
            if (entry := settings[table][name]) is None:
                return None
            return Layer(_source(file, entry.get("SOURCE", said), f", {table}.{name}"), {"MODEL": entry})
    return None


def _source(file: Path, said: str, place: str = "") -> str:
    full, root = file.resolve(), config_root().resolve()
    shown = full.relative_to(root).as_posix() if full.is_relative_to(root) else str(file)
    return f"{shown}{place}{f' ({said})' if said else ''}"


def _leaves(node: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in node.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"
