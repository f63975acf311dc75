"""The concepts of Scenes: which emoji are used, what they are called, and which of them stay unseen in training."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NOVEL_PERCENT = 12
MIXED_SUBCATEGORIES = {"time", "sky & weather", "sound", "place-map"}


@dataclass
class Concept:
    """One thing class: its name, its synonyms, its group and the emoji images that draw it."""

    name: str
    group: str
    synonyms: list[str] = field(default_factory=list)
    images: list[str] = field(default_factory=list)

    @property
    def novel(self) -> bool:
        """Whether the concept is kept out of every training image (a stable 12 % by hash of the name)."""
        return int(hashlib.sha256(self.name.encode()).hexdigest(), 16) % 100 < NOVEL_PERCENT


def read_concepts(emoji_json: Path, rules_json: Path) -> list[Concept]:
    """Turn the emoji table into concepts, in a stable order (by group, then name).

    Args:
        emoji_json: ``emoji.json`` of the npm package ``emoji-datasource``.
        rules_json: ``ovseg/data/scenes/concepts.json``: what is kept, dropped and renamed.
    """
    rules = json.loads(rules_json.read_text())
    concepts: dict[str, Concept] = {}
    for emoji in json.loads(emoji_json.read_text()):
        unicode_name = str(emoji["name"] or "").lower()
        if not _kept(emoji, unicode_name, rules):
            continue
        name = _display_name(unicode_name, emoji["subcategory"], rules["rename"])
        concept = concepts.setdefault(name, Concept(name, emoji["category"]))
        concept.images.append(Path(emoji["image"]).stem)
        words = [
            _plain(unicode_name),
            *(_plain(short) for short in emoji["short_names"]),
            *rules["synonyms"].get(name, []),
        ]
        concept.synonyms += words
    taken = set(concepts)
    for concept in concepts.values():
        unique = dict.fromkeys(concept.synonyms)
        concept.synonyms = [s for s in unique if s not in taken and re.fullmatch(r"[a-z][a-z -]+", s)][:3]
        taken.update(concept.synonyms)
    return sorted(concepts.values(), key=lambda concept: (concept.group, concept.name))


def _kept(emoji: dict[str, Any], name: str, rules: dict[str, Any]) -> bool:
    if name in rules["extra"]:
        return True
    if emoji["category"] not in rules["categories"] or name in rules["drop"]:
        return False
    if emoji["subcategory"] in MIXED_SUBCATEGORIES:
        return name in rules["keep_from_sky_time_sound"]
    return emoji["subcategory"] not in rules["drop_subcategories"]


def _display_name(unicode_name: str, subcategory: str, rename: dict[str, str]) -> str:
    name = unicode_name.removeprefix("oncoming ")
    if subcategory.startswith("animal"):
        name = name.removesuffix(" face")
    return _plain(rename.get(name, rename.get(unicode_name, name)))


def _plain(text: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"[_]", " ", re.sub(r"\d+$", "", text))).strip()
