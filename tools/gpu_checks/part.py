"""Runs one part in this process: `python -m gpu_checks.part NAME --device cuda --json FILE`; see `gpu_checks.check`."""

from __future__ import annotations

import argparse
import json
import sys
from importlib import import_module
from pathlib import Path

TOOLS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(path) for path in (TOOLS, TOOLS.parent) if str(path) not in sys.path]
PARTS = ("operators", "goldens", "models", "speed")


def main(argv: list[str] | None = None) -> int:
    """Run a part and write its rows; the result is 1 if one of them failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--json", type=Path, required=True)
    args = parser.parse_args(argv)

    from gpu_checks.rows import Job, to_dict
    from ovseg.system.device import resolve_device

    rows = import_module(f"gpu_checks.{args.part}").run(Job(resolve_device(args.device), args.small))
    args.json.write_text(json.dumps([to_dict(row) for row in rows], indent=1) + "\n")
    return int(any(row.status == "FAIL" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
