"""Classes and their words: vocabularies, prompt templates, background policies, text embeddings and their cache.

`Vocabulary` needs neither PyTorch nor Detectron2; what does is imported at its first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ovseg.vocabulary.preset_files import list_presets
from ovseg.vocabulary.templates import TEMPLATES, resolve_templates
from ovseg.vocabulary.text_options import TextOptions
from ovseg.vocabulary.vocabulary import ClassEntry, Vocabulary

if TYPE_CHECKING:
    from ovseg.vocabulary.background import BACKGROUND_REGISTRY, Background, parse_background
    from ovseg.vocabulary.cache import CacheEntry, TextCache
    from ovseg.vocabulary.embedder import TextEmbedder
    from ovseg.vocabulary.queries import Queries

_LAZY = {
    "BACKGROUND_REGISTRY": "background",
    "Background": "background",
    "parse_background": "background",
    "CacheEntry": "cache",
    "TextCache": "cache",
    "Queries": "queries",
    "TextEmbedder": "embedder",
}

__all__ = [
    "BACKGROUND_REGISTRY",
    "TEMPLATES",
    "Background",
    "CacheEntry",
    "ClassEntry",
    "Queries",
    "TextCache",
    "TextEmbedder",
    "TextOptions",
    "Vocabulary",
    "list_presets",
    "parse_background",
    "resolve_templates",
]


def __getattr__(name: str) -> Any:
    """Import the heavier names when they are asked for."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
