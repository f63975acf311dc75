"""What is installed, what is wrong with it, and the exact line that mends it: the checks behind ``ovseg doctor``.

Nothing outside the standard library is imported at the top, so that the checks still run where torch, torchvision,
open_clip or Detectron2 are broken.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from ovseg.system.mending import pip_line
from ovseg.system.nvidia import gpu_name

if TYPE_CHECKING:
    from rich.console import Console

ROOT = Path(__file__).resolve().parent.parent
MINI = ROOT / "ovseg" / "assets" / "mini"
PIP = pip_line("install")
TORCH_FIX = f"{PIP} --force-reinstall torch torchvision"
LOW_DISK, NO_DISK = 2 * 1024**3, 200 * 1024**2  # bytes: about one large checkpoint; too little for text embeddings

# distribution -> the modules that must import. A package comes after those it needs: a broken torchvision breaks
# open_clip as well, and then it is torchvision that has to be mended.
PACKAGES = {
    "torch": ("torch",),
    "torchvision": ("torchvision", "torchvision.ops"),
    "numpy": ("numpy",),
    "pillow": ("PIL.Image",),
    "opencv-python-headless": ("cv2",),
    "pycocotools": ("pycocotools.mask",),
    "pyyaml": ("yaml",),
    "safetensors": ("safetensors.torch",),
    "scipy": ("scipy.optimize",),
    "huggingface_hub": ("huggingface_hub",),
    "open_clip_torch": ("open_clip",),
    "segment-anything": ("segment_anything",),
    "tifffile": ("tifffile",),
}
NEEDS = {
    "torchvision": ("torch",),
    "safetensors": ("torch", "numpy"),
    "scipy": ("numpy",),
    "open_clip_torch": ("torch", "torchvision"),
    "segment-anything": ("torch", "torchvision"),
    "detectron2": ("torch", "torchvision", "numpy", "pillow", "opencv-python-headless", "pycocotools"),
}


@dataclass(frozen=True)
class Check:
    """One finding.

    Attributes:
        name: What was looked at.
        ok: True: fine; False: broken; None: works, with something to know.
        detail: What was found, one line.
        fix: The shell line that mends it; empty where nothing needs mending.
        by_hand: Whether that line is for the user: it changes the user's shell, or fetches another torch.
    """

    name: str
    ok: bool | None
    detail: str
    fix: str = ""
    by_hand: bool = False


def run_checks() -> list[Check]:
    """Look at the whole installation; what is broken becomes a finding, never an exception."""
    python = Check("python", True, f"{platform.python_version()} at {sys.executable}")
    packages = _finding("packages", check_packages)
    broken = {check.name: check.fix for check in packages if check.ok is False}
    return [
        python,
        *packages,
        *_finding("detectron2", lambda: [check_detectron2(broken)]),
        *_finding("devices", lambda: check_devices(broken)),
        *_finding("operators", lambda: [check_operators()]),
        *_finding("cache", check_cache),
        *_finding("embedded model", lambda: [check_mini()]),
    ]


def run_checks_afresh() -> list[Check]:
    """Look at the whole installation from a new process, for this one keeps what it has imported.

    Raises:
        EnvironmentProblem: The process broke down.
    """
    from ovseg.errors import EnvironmentProblem

    code = "import json; from ovseg.doctor import run_checks; print(json.dumps([vars(one) for one in run_checks()]))"
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = one_line("".join(done.stderr.splitlines()[-1:])) or f"exit status {done.returncode}"
        raise EnvironmentProblem(f"the checks cannot run any more ({reason}); install ovseg anew: `{PIP} ovseg`")
    return [Check(**row) for row in json.loads(done.stdout.splitlines()[-1])]


def _finding(name: str, check: Callable[[], list[Check]]) -> list[Check]:
    """Make checks; what breaks down in them becomes a finding."""
    try:
        return check()
    except Exception as error:
        return [Check(name, False, f"cannot be checked ({one_line(error) or type(error).__name__})")]


def report(console: Console, checks: list[Check] | None = None) -> bool:
    """Print checks as a table, then the lines that mend what is wrong; return True when nothing is broken.

    Args:
        console: Where to.
        checks: What was found; None looks.
    """
    from rich.markup import escape
    from rich.table import Table

    checks = run_checks() if checks is None else checks
    marks = {True: "[green]ok[/]", False: "[red]broken[/]", None: "[yellow]note[/]"}
    table = Table("", "what", "found", title="ovseg doctor", title_justify="left")
    for check in checks:
        table.add_row(marks[check.ok], escape(check.name), escape(check.detail))
    console.print(table)
    fixes = dict.fromkeys(check.fix for check in checks if check.fix)  # one cause may break several packages
    if fixes:
        console.print("To mend it, in this order (`ovseg doctor --fix` runs what need not be done by hand):")
    for fix in fixes:  # not wrapped: to be copied into a shell
        console.print(f"  {fix}", soft_wrap=True, markup=False, highlight=False)
    return all(check.ok is not False for check in checks)


def check_packages() -> list[Check]:
    """Import every package that the toolkit stands on and compare its version with the lower bound of setup.py."""
    required = {_plain(name): (name, bound) for name, bound in required_versions()}
    checks: list[Check] = []
    broken: dict[str, str] = {}
    for name, modules in PACKAGES.items():
        _, bound = required.get(_plain(name), (name, ""))
        check = check_package(name, modules, bound, broken)
        if check.ok is False:
            broken[name] = check.fix
        checks.append(check)
    return checks


def check_package(name: str, modules: Iterable[str], bound: str, broken: dict[str, str]) -> Check:
    """Check one distribution.

    Args:
        name: Its name for pip.
        modules: What must import.
        bound: The version specifier that it must satisfy, such as ``>=2.4``; empty for none.
        broken: Packages found broken so far, with the lines that mend them.
    """
    wanted = shlex.quote(name + bound)
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return Check(name, False, f"not installed, expected {name}{bound}", f"{PIP} {wanted}")
    problem = import_problem(modules)
    if problem is not None:
        beside = f" beside torch {_version('torch')}" if name == "torchvision" else ""
        detail = f"{version}{beside} does not import ({one_line(problem)})"
        line = package_fix(name, wanted, problem, broken)
        return Check(name, False, detail, line, by_hand=line == TORCH_FIX)
    if not satisfies(version, bound):
        return Check(name, False, f"{version}, expected {bound}", f"{PIP} --upgrade {wanted}")
    return Check(name, True, version)


def package_fix(name: str, wanted: str, problem: Exception, broken: dict[str, str]) -> str:
    """Return the shell line for a package that is installed but does not import.

    Args:
        name: Its name for pip.
        wanted: Name and version bound, quoted for the shell.
        problem: What importing it raised.
        broken: Packages found broken so far, with the lines that mend them.
    """
    cause = next((broken[need] for need in NEEDS.get(name, ()) if need in broken), "")
    if cause:
        return cause
    if isinstance(problem, ModuleNotFoundError):  # pip brings what an installed package lacks
        return f"{PIP} {wanted}"
    return TORCH_FIX if name in ("torch", "torchvision") else f"{PIP} --force-reinstall --no-deps {wanted}"


def check_detectron2(broken: dict[str, str]) -> Check:
    """Check that Detectron2 imports, and say where it comes from; its compiled ``_C`` is not needed.

    Args:
        broken: Packages found broken so far, with the lines that mend them.
    """
    fix = f"{shlex.quote(sys.executable)} -m ovseg.cli install-detectron2"
    problem = import_problem(["detectron2", "detectron2.config", "detectron2.data", "detectron2.structures"])
    if problem is None:
        return Check("detectron2", True, detectron2_origin())
    missing = (problem.name or "").split(".")[0] if isinstance(problem, ModuleNotFoundError) else ""
    if missing == "detectron2":
        return Check("detectron2", False, "not installed", fix)
    cause = next((broken[need] for need in NEEDS["detectron2"] if need in broken), "")
    if not cause and missing:
        cause = f"{PIP} {missing}"
    if not cause:
        cause = f"{pip_line('uninstall')} -y detectron2 sal-detectron2 && {fix}"
    detail = f"installed, does not import ({one_line(problem)})"
    return Check("detectron2", False, detail, cause, by_hand=cause == TORCH_FIX)


def detectron2_origin() -> str:
    """Say which Detectron2 is imported: the one of our installer, another package, or a source folder."""
    module = importlib.import_module("detectron2")
    compiled = importlib.util.find_spec("detectron2._C") is not None
    tail = "with compiled operators (not used)" if compiled else "without compiled operators (not needed)"
    for name in ("sal-detectron2", "detectron2"):
        try:
            found = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        ours = (found.read_text("OVSEG_ORIGIN") or "").strip()
        return f"{ours or f'{name} {found.version}'}, {tail}"
    return f"{getattr(module, '__version__', 'unknown version')} from {Path(module.__file__ or '').parent}, {tail}"


def check_devices(broken: dict[str, str]) -> list[Check]:
    """List the devices that torch can use; say why a graphics card that is there is not among them.

    Args:
        broken: Packages found broken so far, with the lines that mend them.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            import torch

            from ovseg.system.device import available_devices

            devices = available_devices()
            cards = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
        except Exception as error:
            return [
                Check(
                    "devices",
                    False,
                    f"cannot be listed ({one_line(error)})",
                    broken.get("torch", TORCH_FIX),
                    by_hand=True,
                )
            ]
    names = "".join(f"; {card.name} {card.total_memory / 1024**3:.0f} GiB" for card in cards)
    checks = [Check("devices", True, ", ".join(devices) + names)]
    complaint = next((str(item.message) for item in caught if "driver" in str(item.message).lower()), "")
    built_for = torch.version.cuda
    if "too old" in complaint:
        detail = f"the driver is too old for this torch (CUDA {built_for}): {one_line(complaint)}; or update the driver"
        older = f"{PIP} --force-reinstall 'torch<2.9' torchvision"
        checks.append(Check("GPU driver", False, detail, older, by_hand=True))
    elif gpu_name() and not cards and built_for is None:
        detail = f"{gpu_name()} is there, but torch {torch.__version__} is built without CUDA"
        checks.append(Check("GPU driver", None, detail, TORCH_FIX, by_hand=True))
    return checks


def check_operators() -> Check:
    """Say for which devices the operators are compiled; without, PyTorch does the same, slower."""
    build = f"{shlex.quote(sys.executable)} -m ovseg.cli build-ops"
    try:
        from ovseg.ops.build import find_compiler
        from ovseg.ops.library import SWITCH, kernel_devices, load_kernels, operators

        library, names, can_build = load_kernels(), operators(), find_compiler() is not None
        devices = {name: kernel_devices(name) for name in names}
    except Exception as error:  # a broken torch, or a library that does not load
        return Check("operators", None, f"cannot be loaded ({one_line(error)})", build)
    if library is None and os.environ.get(SWITCH) == "torch":
        return Check("operators", True, f"in PyTorch, as {SWITCH}=torch says")
    if library is None:
        detail = "not compiled: they run in PyTorch, slower"
        return (
            Check("operators", None, detail, build) if can_build else Check("operators", None, f"{detail}; no compiler")
        )
    text = "; ".join(f"{name}: {', '.join(found) or 'in PyTorch'}" for name, found in devices.items())
    return Check("operators", True, f"compiled ({text}) in {library}")


def check_cache() -> list[Check]:
    """Check that the cache folder can be written and has room."""
    from ovseg.errors import EnvironmentProblem
    from ovseg.system.cache_dir import cache_advice, cache_dir

    try:
        folder = cache_dir()
        with tempfile.TemporaryFile(dir=folder):
            pass
    except (EnvironmentProblem, OSError) as error:
        named = os.environ.get("OVSEG_CACHE")
        where = f" (OVSEG_CACHE={named})" if named else ""
        return [Check("cache", False, f"cannot be written{where}: {one_line(error)}", cache_advice(), by_hand=True)]
    free = shutil.disk_usage(folder).free
    room = f"{free / 1024**3:.1f} GiB free for {folder}"
    if free >= LOW_DISK:
        return [Check("cache", True, str(folder)), Check("disk", True, room)]
    ok, detail = None if free >= NO_DISK else False, f"{room}, a large checkpoint takes 2 GiB"
    disk = Check("disk", ok, detail, cache_advice(), by_hand=True)
    return [Check("cache", True, str(folder)), disk]


def check_mini() -> Check:
    """Check that the embedded model is complete and its files of weights are whole."""
    fix = f"{PIP} --force-reinstall --no-deps ovseg"
    if (ROOT / ".git").exists():
        fix = f"git -C {shlex.quote(str(ROOT))} checkout -- ovseg/assets/mini"
    weights = [MINI / "open_clip_model.safetensors", MINI / "san.safetensors"]
    for path in (MINI / "open_clip_config.json", *weights):
        if not path.is_file():
            return Check("embedded model", False, f"{path} is missing", fix)
    count = 0
    for path in weights:
        try:
            from safetensors import safe_open

            with safe_open(str(path), framework="np") as tensors:
                count += len(tensors.keys())
        except Exception as error:
            return Check("embedded model", False, f"{path} cannot be read ({one_line(error)})", fix)
    size = sum(path.stat().st_size for path in weights)
    return Check("embedded model", True, f"mini: {count} tensors, {size / 1024**2:.0f} MiB")


def import_problem(modules: Iterable[str]) -> Exception | None:
    """Import modules; return what the first that does not import raises, None when all do."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for module in modules:
                importlib.import_module(module)
    except Exception as error:  # a broken package raises anything: RuntimeError, OSError, AttributeError, ...
        return error
    return None


def required_versions() -> list[tuple[str, str]]:
    """Return (name, specifier) of what the installed ovseg requires; empty when only its source folder is there."""
    try:
        from packaging.requirements import Requirement

        lines = metadata.requires("ovseg") or []
    except (ImportError, metadata.PackageNotFoundError):
        return []
    wanted = [Requirement(line) for line in lines if "extra ==" not in line]
    return [(item.name, str(item.specifier)) for item in wanted]


def satisfies(version: str, bound: str) -> bool:
    """Tell whether a version fits a specifier; local parts such as ``+cu126`` do not matter."""
    if not bound:
        return True
    from packaging.specifiers import SpecifierSet

    return SpecifierSet(bound).contains(version.split("+")[0], prereleases=True)


def one_line(problem: Exception | str) -> str:
    """Shorten a message to its first line of at most 160 characters."""
    lines = str(problem).strip().splitlines()
    text = lines[0].strip() if lines else type(problem).__name__
    return text if len(text) <= 160 else text[:157] + "..."


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "(missing)"


def _plain(name: str) -> str:
    return name.lower().replace("_", "-")
