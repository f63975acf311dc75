"""The models of a page: loaded at first use, shared by all who use it, a few at a time."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path

from ovseg.errors import UnknownNameError, unknown_name
from ovseg.segmenter import Segmenter
from ovseg.zoo import load


class Models:
    """Segmenters by name; those that are not named when the page starts cannot be asked for.

    Attributes:
        names: Of all, the default first; a folder or config is called by the last part of its path.
    """

    def __init__(self, names: Sequence[str], limit: int, loader: Callable[[str], Segmenter] = load) -> None:
        """Load nothing yet.

        Args:
            names: As `ovseg.load` takes them; the first is the default.
            limit: So many stay loaded.
            loader: Loads one.
        """
        sources = dict[str, str]()
        for name in names:
            sources.setdefault(_label(name) if _label(name) not in sources else name, name)
        self.names, self._sources = tuple(sources), sources
        self._limit, self._loader = limit, loader
        self._loaded: OrderedDict[str, Segmenter] = OrderedDict()
        self._lock = threading.Lock()
        self._locks: dict[str, threading.Lock] = {name: threading.Lock() for name in self.names}

    def get(self, name: str) -> Segmenter:
        """Return a model; the first who asks waits for it to load, and who asks meanwhile waits for the same.

        Raises:
            UnknownNameError: The page does not have it.
            OvsegError: It cannot be loaded.
        """
        chosen = name or self.names[0]
        if chosen not in self._locks:
            raise UnknownNameError(f"{unknown_name('model', chosen, self.names)} (this page has {len(self.names)})")
        with self._locks[chosen]:
            with self._lock:
                if chosen in self._loaded:
                    self._loaded.move_to_end(chosen)
                    return self._loaded[chosen]
            found = self._loader(self._sources[chosen])
            found.name = chosen  # results say it, and where it lies concerns nobody
            with self._lock:
                self._loaded[chosen] = found
                while len(self._loaded) > self._limit:
                    self._loaded.popitem(last=False)
        return found

    @property
    def loaded(self) -> list[str]:
        """Names of those that are loaded, the one used last at the end."""
        with self._lock:
            return list(self._loaded)


def _label(name: str) -> str:
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        return path.stem
    return path.resolve().name if path.is_dir() else name
