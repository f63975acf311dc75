"""Captions of Scenes: names, synonyms and templates, as people would describe a picture."""

from __future__ import annotations

import torch

from ovseg.data.scenes.bank import Bank
from ovseg.data.scenes.composer import SceneBatch
from ovseg.data.scenes.textures import STUFF

TEMPLATES = (
    "{}", "{}", "{}", "a photo of a {}.", "a photo of a {}.", "a picture of the {}.", "an image of {}",
    "there is a {} in the scene.", "a small {}", "a close-up of a {}.", "a photo of the {}.", "this is a {}.",
    "one {}", "the {}", "a cropped photo of a {}.",
)  # fmt: skip


def caption(batch: SceneBatch, bank: Bank, generator: torch.Generator) -> list[str]:
    """Describe each scene by what can be seen in it.

    A scene with objects is described by one or several of them, often with the ground they are on, and now
    and then by its grounds alone; a scene without objects by its grounds. Objects of which less than 35 % is
    visible are not mentioned. Grounds must be named this often, or the model never learns to read them.

    Returns:
        B captions.
    """
    stuff_names = [(name, *synonyms) for name, synonyms in STUFF.items()]
    middle = batch.stuff.shape[-1] // 2
    borders = batch.stuff[:, [-1, 0], middle].tolist()
    draws = torch.rand(len(borders), 8 + batch.concepts.shape[1], generator=generator).tolist()
    captions = []
    for row, draw in enumerate(draws):
        seen = [int(c) for c, v in zip(batch.concepts[row], batch.visible[row], strict=True) if c >= 0 and v >= 0.35]
        names = [
            _pick((bank.concepts[c].name, *bank.concepts[c].synonyms), u) for c, u in zip(seen, draw[8:], strict=False)
        ]
        grounds = [
            _pick(stuff_names[s], u) for s, u in zip(dict.fromkeys(borders[row]), draw[5:], strict=False) if s >= 0
        ]
        if names and draw[1] < 0.5:
            names = [names[int(draw[2] * len(names))]]
        if grounds and (not names or draw[3] < 0.06):
            text = _listed(grounds if draw[0] < 0.5 else grounds[::-1])
        elif grounds and draw[3] < 0.45:
            text = f"{_listed(names)} on {grounds[0]}"
        else:
            text = _listed(names) or "scene"
        captions.append(TEMPLATES[int(draw[4] * len(TEMPLATES))].format(text))
    return captions


def _listed(names: list[str]) -> str:
    """Write ``a, b and c``."""
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)


def _pick(names: tuple[str, ...], draw: float) -> str:
    """The first name three times out of five, else one of the synonyms."""
    if draw < 0.6 or len(names) == 1:
        return names[0]
    return names[1 + int((draw - 0.6) / 0.4 * (len(names) - 1))]
