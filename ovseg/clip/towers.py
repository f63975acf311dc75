"""The one door to image-text models: what ``MODEL.CLIP`` says becomes a tower of the kind that fits it.

A kind of tower is one entry of `KINDS`: which configs it is for, the class that reads them, and what towers of it may
have. A config is that of open_clip (it has ``vision_cfg``) or one of transformers (it has ``model_type``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, Protocol, TypeVar

from ovseg.clip.conv_clip import ConvClip
from ovseg.clip.ensemble import Ensemble
from ovseg.clip.fastvit_clip import FastViTClip, is_fastvit
from ovseg.clip.hf import families
from ovseg.clip.hf.clip import HfClip
from ovseg.clip.open_clip_internals import look
from ovseg.clip.sources import ClipSource, config_of
from ovseg.clip.tokens import (
    ATTENTION,
    CLASS_EMBEDDING,
    CLASS_TOKEN,
    DENSE,
    HEADS_ADD,
    LEVELS,
    POSITIONS,
    STREAM,
    Fitting,
    lacking,
)
from ovseg.clip.tower import Tower
from ovseg.clip.vit_clip import ViTClip
from ovseg.errors import ConfigError

Made = TypeVar("Made", bound=Tower, covariant=True)


class Reader(Protocol[Made]):
    """A class of towers that reads what a source names."""

    def read(self, source: ClipSource, empty: bool = False) -> Made:
        """Build the tower of a source with its weights, or without them, yet to be assigned (device ``meta``)."""
        ...


class Kind(NamedTuple):
    """A kind of tower.

    Attributes:
        word: What to call it, such as ``"a ResNet tower"``.
        fits: Tells by a config, of open_clip or of transformers, whether it is of this kind; the first that fits is it.
        reader: Its class.
        may_have: Of the names of `ovseg.clip.tokens`, what towers of it may have: what is not among them is refused
            before any weights are fetched. A built tower says exactly what it has.
        has_of: Gives what the tower of a config, with a name for messages, has, where that is known without weights;
            what it has not is refused likewise.
    """

    word: str
    fits: Callable[[Mapping[str, Any]], bool]
    reader: Reader[Tower]
    may_have: frozenset[str]
    has_of: Callable[[Mapping[str, Any], str], frozenset[str]] | None = None


def _vision(config: Mapping[str, Any]) -> Mapping[str, Any]:
    found = config.get("vision_cfg")
    return found if isinstance(found, Mapping) else {}


def _is_vit(config: Mapping[str, Any]) -> bool:
    vision = _vision(config)
    return (
        bool(vision)
        and not (_is_conv(config) or is_fastvit(config))
        and not isinstance(vision.get("layers"), list | tuple)
    )


def _is_conv(config: Mapping[str, Any]) -> bool:
    vision = _vision(config)
    timm = str(vision.get("timm_model_name") or "")
    return "convnext" in timm or (not timm and isinstance(vision.get("layers"), list | tuple))


KINDS = (
    Kind(
        "a vision transformer",
        _is_vit,
        ViTClip,
        frozenset({DENSE, STREAM, ATTENTION, CLASS_TOKEN, CLASS_EMBEDDING, HEADS_ADD, POSITIONS}),
        look,
    ),
    Kind(
        "a model of transformers",
        families.fits,
        HfClip,
        families.CLASS_TOWER,
        families.has_of,
    ),
    Kind("a ConvNeXt or ResNet", _is_conv, ConvClip, frozenset({DENSE, LEVELS})),
    Kind("a FastViT", is_fastvit, FastViTClip, FastViTClip.has),
)


def load_tower(
    source: ClipSource,
    needs: Iterable[str] = (),
    who: str = "a model",
    empty: bool = False,
    fitting: Fitting | None = None,
) -> Tower:
    """Load the image-text model that a source names, whatever its kind.

    Args:
        source: What ``MODEL.CLIP`` says; see `ClipSource.of`.
        needs: What the tower must have, of the names of `ovseg.clip.tokens`.
        who: Who needs it, for messages.
        empty: Without weights, which a checkpoint brings; call `refresh` when they are there.
        fitting: Gives what else could run on the tower, for messages; see `Tower.check`.

    Raises:
        ConfigError: No kind fits the config, or the tower lacks something; fitting towers are named.
        UnknownNameError: No such architecture or tag.
        WeightsError: The weights are missing, corrupt, foreign or do not fit.
    """
    if source.members:
        raise ConfigError(f"{who} runs on one CLIP, and {source.name} are several; name one of them")
    wanted, kind = frozenset(needs), kind_of(source)
    has = kind.has_of(config_of(source), source.name) if kind.has_of else kind.may_have
    if unfit := lacking(wanted, has, who, f"{source.name} ({kind.word})", fitting):
        raise unfit
    tower = kind.reader.read(source, empty)
    tower.check(wanted, who, fitting)
    return tower


def load_towers(source: ClipSource, needs: Iterable[str], who: str, fitting: Fitting | None = None) -> Tower:
    """Load the image-text model that a source names, or all of them as an `Ensemble`, for who can do with either.

    Arguments and errors are those of `load_tower`; each member has what is needed.

    Raises:
        ConfigError: There are fewer than two members, or one twice.
    """
    if not source.members:
        return load_tower(source, needs, who, fitting=fitting)
    return Ensemble(load_tower(member, needs, who, fitting=fitting) for member in source.members)


def kind_of(source: ClipSource) -> Kind:
    """Return the kind of tower that a source names; no weights are read.

    Raises:
        ConfigError: No kind fits; says what would.
        UnknownNameError: No such architecture.
        WeightsError: The folder is missing, or its config cannot be read.
    """
    config = config_of(source)
    for kind in KINDS:
        if kind.fits(config):
            return kind
    words = " or ".join(kind.word for kind in KINDS)
    raise ConfigError(f"{source.name} has a config without vision_cfg or model_type; expected {words}")
