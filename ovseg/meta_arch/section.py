"""``MODEL.<architecture>`` of a config: options by the signatures of what an architecture is made of.

An architecture says what makes its parts (``made_of``). Options are the keyword-only parameters of these, and of its
own constructor; keys of the config are their names in capitals, types and defaults stand in the signatures alone. The
same name in two signatures is one option.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY

from ovseg.config import RENAMED
from ovseg.errors import ConfigError, unknown_name
from ovseg.system.registry import Kind, Options, check_options, options_of
from ovseg.system.values import plain

ARCHITECTURES: Kind[Any] = Kind("MODEL.META_ARCHITECTURE", META_ARCH_REGISTRY, lambda one: hasattr(one, "answer"))
"""Architectures that are asked by words; Detectron2 registers its own beside them."""


class Sectioned:
    """An architecture with options of its own.

    Attributes:
        made_of: By argument of the constructor, what makes it; whatever is no option is given to `Section.make`.
        unrecorded: Of these, parts whose options make no results, or are recorded in another form.
        needs_clip: Whether released weights leave the CLIP, or its text tower, to ``MODEL.CLIP``.
    """

    made_of: ClassVar[Mapping[str, Callable[..., Any]]]
    unrecorded: ClassVar[tuple[str, ...]] = ("criterion",)
    needs_clip: ClassVar[bool] = False

    @classmethod
    def beside(cls, cfg: CfgNode) -> tuple[str, ...]:
        """Return the backbones of a config, by names as of guides, that stay as they are beside a head and CLIP.

        Weights of models that have some are a head alone; none for most, whose weights bring all along.
        """
        return ()

    @classmethod
    def has_head(cls, cfg: CfgNode) -> bool:
        """Tell whether a config has a trained part, which would be random without weights; so it is for most."""
        return True


class Section:
    """The options of an architecture, checked and complete.

    Attributes:
        options: All of them by name, with defaults filled in.
        own: Those of the architecture's own constructor.
    """

    def __init__(self, architecture: type[Sectioned], cfg: CfgNode) -> None:
        """Read what a config says.

        Raises:
            ConfigError: No such option (near matches are named), or a value of a wrong type.
        """
        known, name = section_options(architecture), architecture.__name__
        if old := next((old for old, new in RENAMED.items() if new == name and old in cfg.MODEL), ""):
            raise ConfigError(f"MODEL.{old} is called MODEL.{name} now; rename it")
        given = check_options(f"MODEL.{name}", known, lower_keys(cfg.MODEL.get(name, {}), f"MODEL.{name}"))
        self.options = {option: given.get(option, one.default) for option, one in known.items()}
        self._made_of, self._unrecorded = architecture.made_of, architecture.unrecorded
        self.own = self._of(architecture)

    @property
    def of_results(self) -> dict[str, Any]:
        """The options that make results, as JSON values."""
        found = dict(self.own)
        for part, maker in self._made_of.items():
            found |= {} if part in self._unrecorded else self._of(maker)
        return plain(found)

    def make(self, part: str, *given: Any) -> Any:
        """Make a part of its options and what else it is given."""
        maker = self._made_of[part]
        return maker(*given, **self._of(maker))

    def _of(self, maker: Callable[..., Any]) -> dict[str, Any]:
        return {option: self.options[option] for option in options_of(maker)}


def section_options(architecture: type[Sectioned]) -> Options:
    """Return all options of an architecture.

    Raises:
        TypeError: An option has two types or defaults, or none.
    """
    found: Options = {}
    makers: list[Callable[..., Any]] = [*architecture.made_of.values(), architecture]
    for maker in makers:
        for name, option in options_of(maker).items():
            same = found.setdefault(name, option)
            if (same.default, same.annotation) != (option.default, option.annotation) or same.default is same.empty:
                raise TypeError(f"option {name} of {architecture.__name__} is '{same}' and '{option}'")
    return found


def complete(cfg: CfgNode) -> CfgNode:
    """Check the section of a config's architecture, and fill in the defaults of what it does not say; returns it.

    Raises:
        UnknownNameError: There is no such architecture.
        ConfigError: No such option, or a value of a wrong type.
    """
    known, name = ARCHITECTURES.all(), cfg.MODEL.META_ARCHITECTURE
    if name not in known:
        raise unknown_name(ARCHITECTURES.word, name, known)
    if issubclass(known[name], Sectioned):
        frozen = cfg.is_frozen()
        cfg.defrost()
        options = Section(known[name], cfg).options
        cfg.MODEL[name] = CfgNode({option.upper(): value for option, value in options.items()})
        if frozen:
            cfg.freeze()
    elif name in cfg.MODEL:
        raise ConfigError(f"{name} has no options of its own, for it declares none (made_of); leave MODEL.{name} out")
    return cfg


def lower_keys(node: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return options as keyword arguments: a config writes their names in capitals.

    Raises:
        ConfigError: A key is there twice, in capitals and not.
    """
    found = {key.lower(): value for key, value in node.items()}
    if len(found) < len(node):
        raise ConfigError(f"{where} has a key in capitals and in small letters; expected one of {', '.join(node)}")
    return found
