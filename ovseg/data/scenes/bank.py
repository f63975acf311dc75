"""The cut-outs, textures and photographs that Scenes are composed of, gathered once into one file.

Things are the 3D emoji of npm ``@lobehub/fluent-emoji-3d`` (MIT) and the Noto drawings of ``emoji-datasource-google``
(images Apache-2.0); photographic cut-outs are the stamps of Debian's ``tuxpaint-stamps-default`` (GPL-2, used for the
``photo`` split only, never committed); photographs and three textures come from scikit-image (CC0 or public domain).
"""

from __future__ import annotations

import json
import re
import subprocess
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ovseg.data.scenes.concepts import Concept, read_concepts
from ovseg.data.scenes.textures import STUFF, make_texture
from ovseg.errors import EnvironmentProblem, InputError
from ovseg.system.files import atomic_write, file_hash

SPRITE = 128
TEXTURES_PER_CLASS = 24
PHOTOS = ("astronaut", "camera", "rocket", "hubble_deep_field", "moon", "retina", "coins")
RULES = Path(__file__).with_name("concepts.json")
"""Which drawings are kept, dropped and renamed."""

NPM_PACKAGES = {
    "@lobehub/fluent-emoji-3d": ("1.1.0", "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58"),
    "emoji-datasource-google": ("16.0.0", "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438"),
    "emoji-datasource": ("16.0.0", "2006725061dc0098daa832d65f854a7bec0740af2eb47cb5b23d89f7e2c849f9"),
}
"""Package -> version and sha256 of its archive."""


@dataclass
class Bank:
    """Everything that a composer needs, as tensors.

    Attributes:
        concepts: The thing classes; `sprite_concept` indexes them.
        sprites: (N, 4, 128, 128) uint8, straight RGBA, cropped to the drawing and centred.
        sprite_concept: (N,) int64.
        textures: (M, 3, 256, 256) uint8, in the order of `STUFF`, 24 of each.
        photos: (P, 3, 256, 384) uint8 photographs for unlabelled backgrounds.
    """

    concepts: list[Concept]
    sprites: Tensor
    sprite_concept: Tensor
    textures: Tensor
    photos: Tensor

    @property
    def texture_class(self) -> Tensor:
        """(M,) index of each texture's stuff class."""
        return torch.arange(len(STUFF)).repeat_interleave(TEXTURES_PER_CLASS)

    def save(self, path: Path) -> None:
        """Write the bank as one safetensors file with the concepts in its metadata."""
        from safetensors.torch import save_file

        tensors = {k: getattr(self, k) for k in ("sprites", "sprite_concept", "textures", "photos")}
        meta = [vars(concept) for concept in self.concepts]
        with atomic_write(path) as temporary:
            save_file(tensors, temporary, {"concepts": json.dumps(meta)})

    @classmethod
    def load(cls, path: Path) -> Bank:
        """Read a bank written by `save`.

        Raises:
            InputError: The file is missing, corrupt or no bank.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, "pt") as file:
                concepts = [Concept(**entry) for entry in json.loads(file.metadata()["concepts"])]
                return cls(concepts, *(file.get_tensor(k) for k in ("sprites", "sprite_concept", "textures", "photos")))
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"'{path}' is no bank of Scenes ({error}); delete it and run `ovseg datasets scenes --only-bank`"
            ) from error


def fetch_packages(folder: Path, say: Callable[[str], None] = print) -> dict[str, Path]:
    """Download, check and unpack the npm packages of the drawings, once.

    Args:
        folder: Where they are kept.
        say: Takes one line for each download.

    Returns:
        Package name to the unpacked folder.

    Raises:
        EnvironmentProblem: npm is missing, the registry does not answer, or an archive is not the one that was tested.
    """
    unpacked = {}
    folder.mkdir(parents=True, exist_ok=True)
    for name, (version, sha256) in NPM_PACKAGES.items():
        target = folder / name.replace("@", "").replace("/", "-")
        if not (target / "package").is_dir():
            say(f"downloading {name} {version}")
            command = ["npm", "pack", "--silent", f"{name}@{version}", "--pack-destination", str(folder)]
            partial = target.with_name(f"{target.name}.partial")  # what is unpacked by half must not look complete
            try:
                archive = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1]
                check_archive(folder / archive, sha256)
                with tarfile.open(folder / archive) as tar:
                    tar.extractall(partial, filter="data")
            except (OSError, EOFError, IndexError, tarfile.TarError, subprocess.CalledProcessError) as error:
                raise EnvironmentProblem(
                    f"`{' '.join(command)}` failed; install npm (for example `apt install npm`) and check the network"
                ) from error
            partial.rename(target)
            (folder / archive).unlink()
        unpacked[name] = target / "package"
    return unpacked


def check_archive(path: Path, sha256: str) -> None:
    """Compare an archive with its pinned checksum; another one is removed.

    Raises:
        EnvironmentProblem: It is not the one that was tested.
    """
    got = file_hash(path)
    if got != sha256:
        path.unlink()
        raise EnvironmentProblem(
            f"{path.name} has sha256 {got}, expected {sha256}; check which registry npm uses, empty its cache with "
            "`npm cache clean --force`, and run this again"
        )


def fetch_stamps(folder: Path) -> Path:
    """Download and unpack Debian's photographic stamps; return the folder of the stamps.

    Raises:
        EnvironmentProblem: apt-get or dpkg is missing or fails.
    """
    stamps = folder / "usr/share/tuxpaint/stamps"
    if not stamps.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        try:
            subprocess.run(
                ["apt-get", "download", "tuxpaint-stamps-default"], cwd=folder, check=True, capture_output=True
            )
            package = next(folder.glob("tuxpaint-stamps-default*.deb"))
            subprocess.run(["dpkg", "-x", package.name, "partial"], cwd=folder, check=True, capture_output=True)
            (folder / "partial/usr").rename(folder / "usr")
        except (OSError, subprocess.CalledProcessError, StopIteration) as error:
            raise EnvironmentProblem(
                "cannot fetch Debian's tuxpaint-stamps-default; run `apt-get update` first, or leave out split photo"
            ) from error
    return stamps


def read_sprite(path: Path) -> Tensor | None:
    """Read a cut-out: crop to its visible part, pad to a square, resize to (4, 128, 128) uint8; None if it is empty."""
    image = Image.open(path).convert("RGBA")
    box = image.getchannel("A").point(lambda a: 255 if a > 24 else 0).getbbox()
    if box is None:
        return None
    image = image.crop(box)
    side = max(image.size)
    square = Image.new("RGBA", (side, side))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    square = square.resize((SPRITE, SPRITE), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(square)).permute(2, 0, 1).contiguous()


def _background_photos() -> Tensor:
    try:
        from skimage import data
    except ImportError as error:
        raise EnvironmentProblem(
            "the photographs behind Scenes are those of scikit-image; run `pip install 'ovseg[train]'`"
        ) from error
    rows = []
    for name in PHOTOS:
        image = Image.fromarray(np.asarray(getattr(data, name)())).convert("RGB").resize((384, 256))
        rows.append(torch.from_numpy(np.array(image)).permute(2, 0, 1))
    return torch.stack(rows)


def build_bank(cache: Path, rules: Path = RULES, say: Callable[[str], None] = print) -> Bank:
    """Gather the drawings, textures and photographs (about a minute; needs npm the first time).

    Args:
        cache: Folder for downloads.
        rules: What is kept, dropped and renamed.
        say: Takes one line for each download.
    """
    photos = _background_photos()
    packages = fetch_packages(cache, say)
    concepts = read_concepts(packages["emoji-datasource"] / "emoji.json", rules)
    sprites, owners = [], []
    for index, concept in enumerate(concepts):
        for stem in concept.images:
            for path in (
                packages["@lobehub/fluent-emoji-3d"] / f"assets/{stem}.webp",
                packages["emoji-datasource-google"] / f"img/google/64/{stem}.png",
            ):
                sprite = read_sprite(path) if path.exists() else None
                if sprite is not None:
                    sprites.append(sprite)
                    owners.append(index)
    textures = [make_texture(name, seed) for name in STUFF for seed in range(TEXTURES_PER_CLASS)]
    texture_tensor = torch.from_numpy(np.stack(textures)).permute(0, 3, 1, 2).contiguous()
    return Bank(concepts, torch.stack(sprites), torch.tensor(owners), texture_tensor, photos)


def photo_bank(bank: Bank, stamps: Path) -> Bank:
    """The same bank with photographic cut-outs in place of the drawings: the cross-domain split.

    A stamp belongs to the concept whose name or synonym is the last noun group of its English description
    ("A red kangaroo." is a kangaroo); stamps that name no concept are left out.

    Raises:
        InputError: No stamp matches any concept.
    """
    names = {name: i for i, c in enumerate(bank.concepts) for name in (c.name, *c.synonyms)}
    sprites, owners = [], []
    for path in sorted(stamps.rglob("*.png")):
        text = path.with_suffix(".txt")
        owner = match_description(text.read_text(errors="replace").split("\n")[0], names) if text.exists() else None
        sprite = read_sprite(path) if owner is not None else None
        if sprite is not None and owner is not None:
            sprites.append(sprite)
            owners.append(owner)
    if not sprites:
        raise InputError(f"no stamp under '{stamps}' names a concept of Scenes; expected tuxpaint-stamps-default")
    return Bank(bank.concepts, torch.stack(sprites), torch.tensor(owners), bank.textures, bank.photos)


def match_description(description: str, names: dict[str, int]) -> int | None:
    """Find the concept that a description like "A grey wolf." ends with, longest name first."""
    words = re.sub(r"[^a-z -]", "", description.lower()).split()
    for start in range(len(words)):
        phrase = " ".join(words[start:])
        if phrase in names:
            return names[phrase]
    return None
