"""The weights of a CLIP, in whatever layout they come: `recognise` tells it by the names of their tensors."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from ovseg.checkpoint import eva, hugging_face, pixelclip, slip
from ovseg.checkpoint.files import a_mapping, only_tensors
from ovseg.checkpoint.foreign import look_of
from ovseg.checkpoint.nesting import unwrap
from ovseg.checkpoint.shards import read_whole
from ovseg.errors import WeightsError
from ovseg.system.values import some

OPEN_CLIP, OPENAI = "open_clip's", "OpenAI's"
_LEFT_OUT = "left out what a training keeps beside it"
_OPENAI_EXTRAS = ("input_resolution", "context_length", "vocab_size")
_TOWER = re.compile(r"((?:[\w-]+\.)*?)(?:visual|vision_model)\.")
_AVERAGE = re.compile(r"(?<![a-z])ema(?![a-z])|average|avg|shadow", re.IGNORECASE)
_OF_TRAINING = re.compile(
    r"(?:\w+\.)*?\w*(?:loss|criterion|metric)|(?:n_averaged|initted|step)$", re.IGNORECASE
)  # of losses, and what averages count


class ClipWeights(NamedTuple):
    """The weights of a CLIP.

    Attributes:
        tensors: By the names of open_clip, or those that they came by; see `recognise` and `bare`.
        layout: In which layout they came: `OPEN_CLIP`, `OPENAI`, SLIP's, or one of `ovseg.checkpoint.hugging_face`.
        remarks: What the file says of itself besides, in words: the metadata of safetensors, texts beside the weights.
        notes: What was chosen or left out, for results.
    """

    tensors: dict[str, Tensor]
    layout: str
    remarks: dict[str, str]
    notes: tuple[str, ...] = ()


def read_clip(path: str | Path) -> ClipWeights:
    """Read the weights of a CLIP: a file, or the index of one that is cut into shards; no code of it runs.

    Raises:
        WeightsError: It is missing, truncated, would run code, or is no CLIP; says what it looks like.
    """
    raw = read_whole(Path(path))
    return recognise(raw.content, path, raw.scripted, raw.remarks)


def recognise(
    raw: Any, path: str | Path, scripted: bool = False, remarks: Mapping[str, str] | None = None
) -> ClipWeights:
    """Recognise the layout of a CLIP by its names, and bring it to open_clip's; see `bare` for what is taken off.

    Args:
        raw: As it was read.
        path: Of the file, for messages.
        scripted: Whether it is an archive of TorchScript, as OpenAI's are.
        remarks: What it says of itself besides.

    Raises:
        WeightsError: It is no CLIP, or two; says what it looks like.
    """
    found = bare(raw, path)
    state, notes = dict(found.tensors), list(found.notes)
    openai = scripted or any(key in state for key in _OPENAI_EXTRAS)
    for key in _OPENAI_EXTRAS:
        state.pop(key, None)
    kind = hugging_face.kind_of(state)
    if slip.is_slip(state):
        state, left = slip.to_open_clip(state)
        kind = slip.SLIP
        notes += [f"{Path(path).name}: {_LEFT_OUT}: {some(left)}"] if left else []
    elif eva.is_eva(state):
        state, kind = eva.to_open_clip(state), eva.EVA
    elif kind:
        state = hugging_face.to_open_clip(state, kind)
    elif any(key.startswith("vision_model.") for key in state) or look_of(state):
        raise _foreign(path, state)
    said = {**(remarks or {}), **found.remarks}
    return ClipWeights(state, kind or (OPENAI if openai else OPEN_CLIP), said, tuple(notes))


def bare(raw: Any, path: str | Path) -> ClipWeights:
    """Return the tensors of the one CLIP of a checkpoint by its own names, whatever their layout is.

    Taken off, in any order and depth: the names under which a training keeps weights (`ovseg.checkpoint.nesting`), and
    what stands before all names of the CLIP, such as ``module.``, ``_orig_mod.``, ``model.`` or ``clip_model.``. Of
    two copies the averaged one is taken. What a loss keeps beside the CLIP is left out, and a note.

    Args:
        raw: As it was read.
        path: Of the file, for messages.

    Raises:
        WeightsError: It is no CLIP, or two; says what it looks like.
    """
    found = unwrap(a_mapping(raw, path))
    if any(isinstance(value, Mapping) for value in found.state.values()) or not found.state:
        raise _foreign(path, _flat(a_mapping(raw, path)))
    own, left = only_tensors(found.state, path), []
    if pixelclip.is_pixelclip(own):
        own, left = pixelclip.clip_of(own)
    state, notes = _bared(own, path)
    notes += [f"{_LEFT_OUT}: {some(left)}"] if left else []
    return ClipWeights(state, "", found.remarks, tuple(f"{Path(path).name}: {note}" for note in (*found.notes, *notes)))


def _bared(state: dict[str, Tensor], path: str | Path) -> tuple[dict[str, Tensor], list[str]]:
    """Return the one CLIP of a state dict without what stands before its names, and notes on what is left out."""
    starts = {match[1] for key in state if (match := _TOWER.match(key))}
    if not starts:
        raise _foreign(path, state)
    averaged = [start for start in starts if _AVERAGE.search(start)]
    notes = []
    if len(starts) > 1:
        if len(averaged) != 1 or len(starts) > 2:
            shown = some([f"'{start}'" for start in sorted(starts)])
            raise WeightsError(f"{path} holds several CLIPs, under {shown}; expected one: save that alone")
        other = next(iter(starts - set(averaged)))
        notes.append(f"its average '{averaged[0]}' is taken, not '{other}'")
    start = averaged[0] if len(starts) > 1 else next(iter(starts))
    beside = [key for key in state if not key.startswith(tuple(starts))]
    if strange := [key for key in beside if not _OF_TRAINING.match(key)]:
        look = look_of(state) or f"it has {some(strange)} beside it"
        raise WeightsError(f"{path} is no CLIP alone, though there is one under '{start}': {look}")
    if beside:
        notes.append(f"{_LEFT_OUT}: {some(beside)}")
    own = {key: value for key, value in state.items() if key.startswith(start)}
    return {key.removeprefix(start): value for key, value in own.items()}, notes


def _flat(raw: Mapping[Any, Any], deep: int = 3) -> list[str]:
    """Return the names in a mapping and in those inside of it."""
    inner = [_flat(value, deep - 1) for value in raw.values() if isinstance(value, Mapping) and deep]
    return [*map(str, raw), *(name for names in inner for name in names)]


def _foreign(path: str | Path, names: Iterable[str]) -> WeightsError:
    known = list(names)
    look = look_of(known) or (f"it holds {some(known)}" if known else "it holds nothing")
    return WeightsError(
        f"{path} is no CLIP: {look}; expected the weights of an image and a text tower, in the layout of open_clip, "
        "OpenAI or transformers"
    )
