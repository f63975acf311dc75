"""The one way by which files of weights come onto this machine; see docs/weights.md.

- `local` and `local_repository` look on the disk and nowhere else;
- `fetch`, `fetch_first` and `fetch_repository` return what is on the disk, else they fetch it: size and licence are
  said first, somebody has to agree to more than 100 MB, a download that broke is gone on with, checksums are compared;
- `offline` and `reachable` tell whether there is a network to be used;
- `stored` and `remove` are for who looks after the disk.
"""

from __future__ import annotations

from ovseg.checkpoint.hub.fetching import fetch, fetch_first
from ovseg.checkpoint.hub.manners import quietly
from ovseg.checkpoint.hub.network import offline, reachable
from ovseg.checkpoint.hub.repository import TOKENIZER, fetch_repository, layout_of, local_repository
from ovseg.checkpoint.hub.source import OPEN, Source
from ovseg.checkpoint.hub.store import Stored, local, remove, stored

__all__ = [
    "OPEN",
    "TOKENIZER",
    "Source",
    "Stored",
    "fetch",
    "fetch_first",
    "fetch_repository",
    "layout_of",
    "local",
    "local_repository",
    "offline",
    "quietly",
    "reachable",
    "remove",
    "stored",
]
