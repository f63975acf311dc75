"""Check that the released checkpoint of a manifest would load: every tensor finds its place, and every place a tensor.

A manifest is a JSON file that lists all tensors of a released checkpoint under ``state_dict``: name to shape and, last,
dtype. It is called like that file, or names it in ``released_as``. The model is built by the shipped config of the
model whose card names that file, or the method that takes it as a part; the tensors are filled with random numbers,
and the result is loaded as the released file would be.

Examples:
    python tools/check_manifest.py san_vit_b_16.json
    python tools/check_manifest.py manifests/
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from ovseg.config import config_root, load_config, read_config  # noqa: E402
from ovseg.errors import ConfigError, OvsegError, unknown_name  # noqa: E402
from ovseg.zoo import list_models  # noqa: E402
from ovseg.zoo.spec import architectures  # noqa: E402


def files_of(path: Path, released_as: str = "") -> set[str]:
    """Return the names, without endings, of the files that a manifest may be of: its own and those that it is told.

    A repository of a hub, ``OWNER/NAME``, stands for its file.
    """
    words = [word.strip("(),;") for word in released_as.split()]
    return {path.stem} | {Path(word).stem for word in words if Path(word).suffix} | {w for w in words if "/" in w}


def config_of(files: set[str], name: str) -> str:
    """Return the shipped config of the model whose released file is among these; ``name`` is that of the manifest.

    Raises:
        UnknownNameError: There is none; near matches are named.
    """
    known = {}
    for card in (card for card in list_models() if card.weights == "released"):
        own = card.hub if card.generic else Path(card.file).stem
        known |= {name: card.config for name in (own, *(Path(file).stem for file in (*card.other_files, *card.parts)))}
    found = files & known.keys()
    if not found:
        raise unknown_name("released model", name, [*known, *parts()])
    return known[min(found)]


def parts() -> dict[str, tuple[str, str]]:
    """Return by name of file, without ending, which method takes a released part, and by which option."""
    found = {}
    for card in (card for card in list_models() if card.parts and card.weights != "released"):
        options = read_config(config_root() / card.config).get("MODEL", {}).get("RECALIBRATION", {}).get("OPTIONS", {})
        option = next((key for key, value in options.items() if value in card.parts), "")
        found |= {Path(file).stem: (Path(card.config).stem, option) for file in card.parts}
    return found


def load_part(method: str, option: str, state: Mapping[str, Tensor]) -> None:
    """Build a method with tensors as the file that an option names.

    Raises:
        WeightsError: A tensor does not find its place.
    """
    from ovseg.recalibration import build_recalibration

    with tempfile.TemporaryDirectory() as folder:
        torch.save(dict(state), Path(folder) / "part.pth")
        build_recalibration(method, **{option.lower(): str(Path(folder) / "part.pth")})


def load(name: str, config: str, state: Mapping[str, Tensor]) -> None:
    """Build a model by its shipped config, and load the tensors of its released file, which has this name.

    Raises:
        WeightsError: A tensor does not find its place.
    """
    from ovseg.checkpoint.loading import Weights

    cfg = load_config(config)
    kind = architectures().get(cfg.MODEL.META_ARCHITECTURE)
    if check := getattr(kind, "check_head", None):  # the file holds a head alone, for frozen towers of others
        check(cfg, Weights(state, name))
        return
    kind(**kind.parts(cfg, Weights(state, name)))


def read_manifest(path: Path) -> tuple[dict[str, Any], str]:
    """Return the entries of ``state_dict``, and ``released_as``.

    Raises:
        ConfigError: The file is no manifest.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return dict(found["state_dict"]), str(found.get("released_as", ""))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} is no manifest ({error}); expected JSON with 'state_dict'") from error


def fill(entries: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return random tensors of the shapes and dtypes of a manifest."""
    return {key: _random(shape, getattr(torch, dtype)) for key, (*shape, dtype) in entries.items()}


def check(path: Path) -> tuple[bool, str]:
    """Check one manifest; returns whether it loads, and one line."""
    try:
        entries, released_as = read_manifest(path)
        files, known = files_of(path, released_as), parts()
        if part := files & known.keys():
            load_part(*known[min(part)], fill(entries))
        else:
            load(path.stem, config_of(files, path.stem), fill(entries))
    except OvsegError as error:
        return False, f"FAIL {path.stem} {error}"
    finally:
        gc.collect()  # the next model may need the memory of this one
    return True, f"PASS {path.stem} {len(entries)} tensors"


def main(arguments: list[str] | None = None) -> int:
    """Run the tool; the result is 0 if all manifests load, 1 if one does not, 2 for wrong arguments."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0],
        epilog=f"examples:{(__doc__ or '').split('Examples:')[1]}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="manifests (.json), or folders of them")
    found = []
    for path in parser.parse_args(arguments).paths:
        files = sorted(path.glob("*.json")) if path.is_dir() else [path]
        if not files or not path.exists():
            print(f"error: {path} holds no manifest; expected a .json file or a folder of them", file=sys.stderr)
            return 2
        found += files
    passed = True
    for path in dict.fromkeys(found):
        good, line = check(path)
        passed &= good
        print(line, flush=True)
    return int(not passed)


def _random(shape: list[int], dtype: torch.dtype) -> Tensor:
    if dtype.is_floating_point:
        return torch.rand(shape).to(dtype)
    return torch.ones(shape, dtype=dtype)


if __name__ == "__main__":
    warnings.simplefilter("ignore", FutureWarning)  # Detectron2 scripts functions at import
    sys.exit(main())
