"""Heads that we teach: the layout of the authors, and what a head was taught with, which theirs do not say."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import nn

from ovseg.checkpoint.hashing import hash_tensors
from ovseg.errors import WeightsError
from ovseg.system.files import atomic_write
from ovseg.system.values import dump

_KEY = "talk2dino"  # one entry: safetensors writes several in any order, and the same weights are to be the same bytes


@dataclass(frozen=True)
class Taught:
    """What a head was taught with.

    Attributes:
        activation: Of the projection.
        clip: Hash of the weights of the CLIP that read the captions.
        backbone: Hash of those of the vision transformer that saw the images.
    """

    activation: str
    clip: str
    backbone: str

    def check(self, activation: str, clip: str, backbone: nn.Module, source: str) -> None:
        """Refuse to run a head with something else than what it was taught with.

        Args:
            activation: That the config asks for.
            clip: Hash of its CLIP.
            backbone: Its vision transformer.
            source: What to call the head in messages.

        Raises:
            WeightsError: It is something else; says what.
        """
        if activation != self.activation:
            raise WeightsError(
                f"{source} was taught with activation {self.activation} and the config has {activation}; set "
                f"MODEL.Talk2DINO.ACTIVATION {self.activation}"
            )
        own = {"MODEL.CLIP": (self.clip, clip), "MODEL.Talk2DINO.BACKBONE": (self.backbone, hash_of(backbone))}
        for key, (wanted, got) in own.items():
            if wanted != got:
                raise WeightsError(
                    f"{source} was taught with weights {wanted} of {key} and these are {got}; take those"
                )


def hash_of(backbone: nn.Module) -> str:
    """Return the hash of the weights of a vision transformer."""
    return hash_tensors(backbone.state_dict().items())


def write_head(projection: nn.Module, taught: Taught, path: Path) -> None:
    """Write a head as safetensors (atomically)."""
    from safetensors.torch import save_file

    state = {key: value.detach().cpu().contiguous() for key, value in projection.state_dict().items()}
    with atomic_write(path) as temporary:
        save_file(state, temporary, {_KEY: dump(asdict(taught))})


def read_taught(path: str | Path) -> Taught | None:
    """Return what a head was taught with; None where its file does not say, as those of the authors.

    Raises:
        WeightsError: It says something that cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            said = (file.metadata() or {}).get(_KEY)
    except (OSError, SafetensorError):
        return None
    try:
        return None if said is None else Taught(**json.loads(said))
    except (TypeError, ValueError) as error:
        raise WeightsError(f"{path} does not say what it was taught with ({error}); fetch or export it anew") from error
