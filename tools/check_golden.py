"""Check our code against golden cases made with the code of the papers' authors.

A case is ``<case>.json`` and ``<case>.safetensors``. The runner of its method, ``golden_runners/<method>.py``, reads
the case alone and returns what it computed; every output of the case is compared, and every intermediate that the
runner has. What the case does not hold is not compared, and the remark says how much that is.

Examples:
    python tools/check_golden.py tests/golden
    python tools/check_golden.py tests/golden/sclip/square_native_p16.json
    python tools/check_golden.py tests/golden --require sclip,naclip
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TOOLS = Path(__file__).resolve().parent
sys.path[:0] = [path for path in (str(TOOLS), str(TOOLS.parent)) if path not in sys.path]

import torch  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from torch import Tensor  # noqa: E402

LABELS_MAY_DIFFER = 0.002  # share of the pixels of a label map: ties


class CaseError(Exception):
    """A file is no golden case; the message says what is wrong with it."""


@dataclass(frozen=True)
class Case:
    """One golden case.

    Attributes:
        method: Name of the method, which is the name of its runner.
        name: Name of the case.
        config: What is needed to build the module or model.
        tolerance: ``atol`` and ``rtol`` of floating point tensors.
        tensors: All tensors by key: ``input.*``, ``state_dict.*``, ``intermediate.*``, ``output.*``.
        strings: Words and other texts of the case.
    """

    method: str
    name: str
    config: Mapping[str, Any]
    tolerance: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    strings: Mapping[str, Any] = field(default_factory=dict)

    def group(self, prefix: str) -> dict[str, Tensor]:
        """Return the tensors of a group, such as ``"input"`` or ``"state_dict"``, by their names within it."""
        start = f"{prefix}."
        return {key[len(start) :]: value for key, value in self.tensors.items() if key.startswith(start)}


@dataclass(frozen=True)
class Report:
    """What came of one case: ``PASS``, ``FAIL`` or ``SKIP``, and a remark."""

    status: str
    method: str
    name: str
    remark: str


def read_method(path: Path) -> tuple[dict[str, Any], str]:
    """Read the json of a case and the name of its method.

    Raises:
        CaseError: It is no json, or no case.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return record, str(record["method"])
    except (OSError, ValueError) as error:
        raise CaseError(f"cannot be read as json ({str(error).splitlines()[0]})") from error
    except (KeyError, TypeError) as error:
        raise CaseError("is no golden case; expected json with 'method', 'config' and 'tolerance'") from error


def read_case(path: Path) -> Case:
    """Read a case.

    Raises:
        CaseError: A file is missing or corrupt, or lacks a part.
    """
    record, method = read_method(path)
    weights = path.with_suffix(".safetensors")
    if not weights.is_file():
        raise CaseError(f"has no {weights.name} beside it")
    try:
        tensors = load_file(weights)
    except Exception as error:  # safetensors raises its own type on corrupt files
        raise CaseError(f"{weights.name} cannot be read ({str(error).splitlines()[0]})") from error
    try:
        return Case(method, path.stem, record["config"], record["tolerance"], tensors, record.get("strings", {}))
    except KeyError as error:
        raise CaseError(f"lacks {error}") from error


def find_runner(method: str) -> Callable[[Case], dict[str, Tensor]] | None:
    """Return the ``run`` of a method's runner, or None where there is none."""
    if not method.isidentifier() or importlib.util.find_spec(f"golden_runners.{method}") is None:
        return None
    return getattr(importlib.import_module(f"golden_runners.{method}"), "run", None)


def check_case(path: Path) -> Report:
    """Run one case and compare."""
    method = path.parent.name
    try:
        _, method = read_method(path)
        run = find_runner(method)
        if run is None:
            return Report("SKIP", method, path.stem, "no runner")
        case = read_case(path)
        torch.manual_seed(0)
        with torch.no_grad():
            got = run(case)
    except CaseError as error:
        return Report("FAIL", method, path.stem, str(error))
    except Exception as error:  # whatever the code under test raises is a failure of the case
        reason = (str(error).splitlines() or [""])[0]
        return Report("FAIL", method, path.stem, f"{type(error).__name__}: {reason}")
    return compare(case, got)


def compare(case: Case, got: Mapping[str, Tensor]) -> Report:
    """Compare what a runner returned with all outputs of a case and those intermediates that it returned.

    What the case does not hold is counted in the remark.
    """
    wanted = {key: value for key, value in case.tensors.items() if key.startswith(("output.", "intermediate."))}
    absent = sorted(key for key in wanted if key.startswith("output.") and key not in got)
    if absent:
        return Report("FAIL", case.method, case.name, f"not returned: {absent[0]}")
    atol, rtol = float(case.tolerance["atol"]), float(case.tolerance["rtol"])
    found = {key: distance(got[key], wanted[key], atol, rtol) for key in wanted if key in got}
    worst = max(found, key=lambda key: found[key][0], default="")
    outputs = sum(key.startswith("output.") for key in found)
    more = f", {len(found) - outputs} intermediates" if len(found) > outputs else ""
    beyond = len(set(got) - set(wanted))
    more += f", {beyond} more that the case does not hold" if beyond else ""
    if not outputs:
        return Report("FAIL", case.method, case.name, "the case has no output")
    if found[worst][0] > 1:
        return Report("FAIL", case.method, case.name, f"worst {worst}: {found[worst][2]}")
    largest = max(size for _, size, _ in found.values())
    return Report("PASS", case.method, case.name, f"max_abs={largest:.1e} ({outputs} outputs{more})")


def distance(got: Tensor, wanted: Tensor, atol: float, rtol: float) -> tuple[float, float, str]:
    """Compare two tensors.

    Returns:
        How often the tolerance is used up (above 1 fails), the largest absolute difference, and a remark. For integers
        the tolerance is the share of elements that may differ, and the difference counts as 0.
    """
    if got.shape != wanted.shape:
        return float("inf"), float("inf"), f"shape {tuple(got.shape)}, expected {tuple(wanted.shape)}"
    if got.is_floating_point() != wanted.is_floating_point():
        return float("inf"), float("inf"), f"{got.dtype}, expected {wanted.dtype}"
    if not wanted.is_floating_point():
        share = (got.cpu() != wanted).double().mean().item() if wanted.numel() else 0.0
        return share / LABELS_MAY_DIFFER, 0.0, f"{share:.2%} of the labels differ"
    gap = (got.cpu().double() - wanted.double()).abs()
    if not gap.isfinite().all():
        return float("inf"), float("inf"), "not finite"
    used = (gap / (atol + rtol * wanted.double().abs())).amax().item() if gap.numel() else 0.0
    size = gap.amax().item() if gap.numel() else 0.0
    return used, size, f"max_abs={size:.1e} is {used:.1f} times the tolerance (atol {atol:g}, rtol {rtol:g})"


def find_cases(paths: list[Path]) -> list[Path]:
    """Return the json files of all paths: files as they are, folders with all below them.

    Raises:
        CaseError: A path does not exist, is no json, or holds none.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            below = sorted(path.rglob("*.json"))
            if not below:
                raise CaseError(f"{path} holds no golden case; expected <method>/<case>.json below it")
            found += below
        elif path.suffix == ".json" and path.is_file():
            found.append(path)
        elif path.exists():
            raise CaseError(f"{path} is no golden case; expected a .json file or a folder")
        else:
            raise CaseError(f"{path} does not exist; expected a .json file or a folder")
    return list(dict.fromkeys(found))


def main(arguments: list[str] | None = None) -> int:
    """Run the tool; the result is 0 if nothing failed, 1 if something did, 2 for wrong arguments."""
    examples = (__doc__ or "").split("Examples:")[1]
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0],
        epilog=f"examples:{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="a case (.json), a folder or a tree")
    parser.add_argument("--require", default="", metavar="METHOD,...", help="methods that must run and pass")
    options = parser.parse_args(arguments)
    required = {name.strip() for name in options.require.split(",") if name.strip()}
    try:
        paths = find_cases(options.paths)
    except CaseError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    torch.use_deterministic_algorithms(True, warn_only=True)
    reports = []
    for path in paths:
        reports.append(check_case(path))
        print(f"{reports[-1].status} {reports[-1].method}/{reports[-1].name} {reports[-1].remark}", flush=True)
    failed = any(report.status == "FAIL" for report in reports)
    for method in sorted(required):
        mine = [report.status for report in reports if report.method == method]
        if not mine or "SKIP" in mine:
            print(f"FAIL {method} is required but {'was skipped' if mine else 'has no case here'}")
            failed = True
    count = {status: sum(report.status == status for report in reports) for status in ("PASS", "FAIL", "SKIP")}
    print(", ".join(f"{number} {status}" for status, number in count.items()))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
