"""Where an image-text model comes from: what ``MODEL.CLIP`` says, and the config that stands there."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ovseg.clip.activation import asked
from ovseg.clip.architectures import architecture
from ovseg.clip.folders import folder_config, locate, repository
from ovseg.errors import ConfigError


@dataclass(frozen=True)
class ClipSource:
    """What ``MODEL.CLIP`` says.

    Attributes:
        arch: An architecture of open_clip.
        pretrained: A tag of open_clip, or the path of a weights file.
        folder: A folder with a config and weights, or a repository of the hub; see `ovseg.clip.folders`. It takes the
            place of the two above.
        quick_gelu: Whether its activation is QuickGELU; None: as the weights say, or else the architecture.
        resize_position: Whether position embeddings of another size are fitted by interpolation; else they are refused.
        members: Several that answer together (`ovseg.clip.ensemble`), in the place of all others.
    """

    arch: str = ""
    pretrained: str = ""
    folder: str = ""
    quick_gelu: bool | None = None
    resize_position: bool = False
    members: tuple[ClipSource, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what says two things.

        Raises:
            ConfigError: An activation stands beside a folder, whose config says it, or beside several CLIPs.
        """
        said = f"MODEL.CLIP.ACTIVATION is '{'quick_gelu' if self.quick_gelu else 'gelu'}' beside"
        if self.folder and self.quick_gelu is not None:
            raise ConfigError(
                f"{said} a folder; set quick_gelu in the model_cfg of {self.folder}/open_clip_config.json"
            )
        if self.members and self.quick_gelu is not None:
            raise ConfigError(f"{said} several CLIPs; leave it out: each runs with its own")

    @classmethod
    def of(cls, node: Mapping[str, Any]) -> ClipSource:
        """Read ``MODEL.CLIP`` of a config.

        Raises:
            ConfigError: ``ACTIVATION`` is another word, or beside a folder or members; or a member is no source.
        """
        quick, resize = asked(node["ACTIVATION"]), bool(node["RESIZE_POSITION"])
        if node["MEMBERS"]:
            return cls(quick_gelu=quick, members=tuple(cls.named(str(text), resize) for text in node["MEMBERS"]))
        if node["FOLDER"]:
            return cls(folder=str(node["FOLDER"]), quick_gelu=quick, resize_position=resize)
        return cls(str(node["ARCH"]), str(node["PRETRAINED"]), quick_gelu=quick, resize_position=resize)

    @classmethod
    def named(cls, text: str, resize_position: bool = False) -> ClipSource:
        """Return the source that a text means: a folder, a repository of the hub, or ``ARCHITECTURE/TAG-or-file``.

        Args:
            text: As a member has it.
            resize_position: See the class.

        Raises:
            ConfigError: It is none of them.
            WeightsError: It names no repository behind ``hf:`` or ``hf-hub:``.
        """
        if repository(text) or os.path.isdir(locate(text)):
            return cls(folder=text, resize_position=resize_position)
        architecture_name, _, pretrained = text.partition("/")
        if not architecture_name or not pretrained:
            raise ConfigError(
                f"MODEL.CLIP.MEMBERS has '{text}'; expected a folder, hf:OWNER/NAME, hf-hub:OWNER/NAME or "
                "ARCHITECTURE/TAG such as ViT-B-16/openai"
            )
        return cls(architecture_name, pretrained, resize_position=resize_position)

    @property
    def name(self) -> str:
        """What to call it in messages."""
        if self.members:
            return f"clip:{'+'.join(member.name for member in self.members)}"
        return self.folder or f"{self.arch}/{self.pretrained}"

    @property
    def overrides(self) -> dict[str, Any] | None:
        """Changes to the model config of open_clip."""
        return None if self.quick_gelu is None else {"quick_gelu": self.quick_gelu}


def config_of(source: ClipSource) -> dict[str, Any]:
    """Return the model config of a source, as open_clip or transformers write it.

    Raises:
        UnknownNameError: No such architecture.
        WeightsError: The folder is missing, or its config cannot be read.
    """
    return folder_config(source.folder).model_cfg if source.folder else architecture(source.arch)
