"""ovseg: dense open-vocabulary segmentation. Any image, any words, a label for every pixel.

>>> import ovseg
>>> segmenter = ovseg.load()
>>> result = segmenter("photo.jpg", ["cat", "red chair|armchair", "window"])
>>> result.overlay().save("overlay.png")
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ovseg._version import __version__

if TYPE_CHECKING:
    from ovseg.engine.sharing import from_pretrained, push_to_hub
    from ovseg.result.segmentation import Segmentation
    from ovseg.segmenter import Segmenter
    from ovseg.vocabulary import Vocabulary
    from ovseg.zoo import list_models, load

_HOME = {
    "Segmentation": "ovseg.result.segmentation",
    "Segmenter": "ovseg.segmenter",
    "Vocabulary": "ovseg.vocabulary",
    "from_pretrained": "ovseg.engine.sharing",
    "list_models": "ovseg.zoo",
    "load": "ovseg.zoo",
    "push_to_hub": "ovseg.engine.sharing",
}

__all__ = [
    "Segmentation",
    "Segmenter",
    "Vocabulary",
    "__version__",
    "from_pretrained",
    "list_models",
    "load",
    "push_to_hub",
]


def __getattr__(name: str) -> Any:
    """Import the public names when they are first used, so that ``import ovseg`` stays light."""
    if name not in _HOME:
        raise AttributeError(f"module 'ovseg' has no attribute '{name}'")
    return getattr(import_module(_HOME[name]), name)
