"""Brings Detectron2 into the running Python without compiling anything.

Detectron2 has had no release since 2021 and no package of its own name on the package index; building it from source
needs a compiler that fits the installed torch. The toolkit needs only its Python part (registries, configs, catalogs,
evaluators, engine, structures), so this installer

1. keeps a Detectron2 that already imports, wherever it came from;
2. else downloads one pinned wheel with pip, checks its sha256 and unpacks the package ``detectron2`` from it,
   without the compiled ``_C`` (built for one Python and one torch) and without the top-level ``tools`` package that
   the wheel carries by mistake, and with two lines changed that NumPy 2 refuses (``ADAPTED``; without them
   ``SemSegEvaluator`` raises at its first image).

``pip uninstall sal-detectron2`` removes what it installed. For upstream's own code, compiled operators included::

    ovseg install-detectron2 --from-source git+https://github.com/facebookresearch/detectron2

Without ``_C`` there is no ``detectron2.evaluation.fast_eval_api`` (``COCOEvaluator`` then uses pycocotools by itself),
and ``DeformConv`` and rotated boxes raise when they are used. Independent of it, ``detectron2.model_zoo`` and
``detectron2.utils.testing`` want the ``pkg_resources`` of setuptools < 81, ``detectron2.export`` wants Caffe2, and
``COCOPanopticEvaluator`` asks for ``panopticapi`` when it is used. The toolkit uses none of these.
"""

from __future__ import annotations

import base64
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from pathlib import Path

from ovseg.errors import EnvironmentProblem
from ovseg.system.files import file_hash
from ovseg.system.mending import has_pip

DISTRIBUTION, VERSION = "sal-detectron2", "0.7.2"
SHA256 = "491af0c7f79bdb2d178e46f6cb16a97c4ac968d45c41ea3f6b6435d59bbee561"
DIST_INFO = f"{DISTRIBUTION.replace('-', '_')}-{VERSION}.dist-info"
ORIGIN_FILE = "OVSEG_ORIGIN"  # `ovseg doctor` reads it
ORIGIN = f"Python part of {DISTRIBUTION} {VERSION} (sha256 {SHA256[:12]}), by ovseg install-detectron2"
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
BRING_PIP = [sys.executable, "-m", "ensurepip"]  # of Python itself, without a network

# file -> (line of the wheel, what replaces it): NumPy 2 made copy=False mean "never copy, else raise".
ADAPTED = {
    "detectron2/evaluation/sem_seg_evaluation.py": (
        "array = np.array(Image.open(f), copy=copy, dtype=dtype)",
        "array = np.array(Image.open(f), copy=copy or None, dtype=dtype)  # adapted to NumPy 2 by ovseg's installer",
    ),
    "detectron2/layers/mask_ops.py": (
        "mask = np.array(mask, copy=False)",
        "mask = np.asarray(mask)  # adapted to NumPy 2 by ovseg's installer",
    ),
}

# The import runs in a fresh interpreter and an empty folder: a broken build may crash the process, and a checkout of
# Detectron2 in the current folder must not count as installed.
PROBE = """
import importlib.util, sys
spec = importlib.util.find_spec("detectron2")
if spec is None or spec.origin is None:
    sys.exit(3)
import detectron2.config, detectron2.data, detectron2.structures
print(detectron2.__file__)
"""


def install(source: str = "") -> str:
    """Install Detectron2 where it is missing; with a source, build that: a pip URL or a folder.

    Returns:
        What was done, in one line.

    Raises:
        EnvironmentProblem: It cannot be downloaded, checked, built or imported.
    """
    if source:
        install_from_source(source)
    elif (present := find_detectron2()) is not None:
        return f"detectron2: keeping {present}"
    else:
        install_pinned_wheel(Path(sysconfig.get_path("purelib")))
    return f"detectron2: installed in {find_detectron2()}"


def find_detectron2() -> Path | None:
    """Return the folder of an importable Detectron2, or None when there is none.

    Raises:
        EnvironmentProblem: There is one, but importing it fails.
    """
    with tempfile.TemporaryDirectory() as empty:
        done = subprocess.run([sys.executable, "-c", PROBE], cwd=empty, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return Path(done.stdout.strip().splitlines()[-1]).parent
    if done.returncode == 3:
        return None
    reason = _last_line(done.stderr) or f"exit status {done.returncode}"
    raise EnvironmentProblem(
        f"Detectron2 is installed but does not import ({reason}); expected an importable one: install what is missing "
        f"with `pip install -e .`, or remove it with `pip uninstall -y detectron2 {DISTRIBUTION}` and run this again"
    )


def install_pinned_wheel(site: Path) -> None:
    """Download, check and unpack the pinned wheel into a site-packages folder.

    Raises:
        EnvironmentProblem: No download, another checksum, or the folder cannot be written.
    """
    if not os.access(site, os.W_OK):
        raise EnvironmentProblem(
            f"no write access to {site}; use a virtual environment: `python3 -m venv .venv`, install ovseg into "
            "it, then .venv/bin/ovseg install-detectron2"
        )
    print(f"detectron2: downloading {DISTRIBUTION} {VERSION}")
    with tempfile.TemporaryDirectory() as folder:
        wheel = download_wheel(Path(folder))
        check_sha256(wheel)
        unpack(wheel, site)


def download_wheel(folder: Path) -> Path:
    """Let pip fetch the pinned wheel; its CPython 3.10 tag is asked for by name, its Python code runs on 3.10 to 3.13.

    Raises:
        EnvironmentProblem: pip is missing or found no such wheel.
    """
    tags = ["--no-deps", "--only-binary=:all:", "--python-version", "3.10", "--implementation", "cp"]
    _pip(
        ["download", "--quiet", *tags, "--dest", str(folder), f"{DISTRIBUTION}=={VERSION}"],
        fix="check the network; without one set PIP_NO_INDEX=1 and PIP_FIND_LINKS to a folder that holds the wheel "
        f"(`pip {' '.join(['download', *tags])} {DISTRIBUTION}=={VERSION}` on a machine that has one)",
    )
    wheels = sorted(folder.glob("*.whl"))
    if len(wheels) != 1:
        found = f"pip left {len(wheels)} wheels for {DISTRIBUTION} {VERSION}"
        raise EnvironmentProblem(f"{found}, expected 1; run this again")
    return wheels[0]


def check_sha256(wheel: Path) -> None:
    """Compare a wheel with the pinned checksum.

    Raises:
        EnvironmentProblem: The file is not the one that was tested.
    """
    got = file_hash(wheel)
    if got != SHA256:
        raise EnvironmentProblem(
            f"{wheel.name} has sha256 {got}, expected {SHA256}; do not use it: clear pip's cache with "
            "`pip cache purge`, check which package index pip uses, and run this again"
        )


def unpack(wheel: Path, site: Path) -> None:
    """Unpack the Python part of the wheel; what cannot be completed leaves nothing behind.

    The metadata is written anew: the wheel's own asks for numpy < 2, which its code does not need, and its file list
    (by which pip uninstalls) names files that are left out here.

    Raises:
        EnvironmentProblem: The folder cannot be written.
    """
    try:
        with tempfile.TemporaryDirectory(dir=site, prefix=".detectron2-") as scratch, zipfile.ZipFile(wheel) as archive:
            staging = Path(scratch)
            for name in archive.namelist():
                if name.startswith("detectron2/") and not name.endswith((".so", ".pyd", "/")):
                    archive.extract(name, staging)
            adapt(staging)
            write_dist_info(staging, licence=archive.read(f"{DIST_INFO}/LICENSE"))
            for part in ("detectron2", DIST_INFO):
                shutil.rmtree(site / part, ignore_errors=True)
                os.replace(staging / part, site / part)
    except OSError as error:
        raise EnvironmentProblem(f"cannot write to {site} ({error}); free space or mend the access rights") from error


def adapt(root: Path) -> None:
    """Replace the lines of ``ADAPTED`` in an unpacked wheel.

    Raises:
        EnvironmentProblem: A line is not where the pinned wheel has it.
    """
    for name, (old, new) in ADAPTED.items():
        text = (root / name).read_text(encoding="utf-8")
        if text.count(old) != 1:
            raise EnvironmentProblem(f"{name} lacks the line '{old}', expected it once; mend ADAPTED in this installer")
        (root / name).write_text(text.replace(old, new), encoding="utf-8")


def write_dist_info(root: Path, licence: bytes) -> None:
    """Write the metadata folder beside the unpacked package so that pip lists and can uninstall it."""
    info = root / DIST_INFO
    info.mkdir()
    metadata = ["Metadata-Version: 2.1", f"Name: {DISTRIBUTION}", f"Version: {VERSION}", f"Summary: {ORIGIN}"]
    (info / "METADATA").write_text("\n".join([*metadata, "License: Apache-2.0", ""]), encoding="utf-8")
    (info / "INSTALLER").write_text("ovseg\n", encoding="utf-8")
    (info / "LICENSE").write_bytes(licence)
    (info / ORIGIN_FILE).write_text(ORIGIN + "\n", encoding="utf-8")
    rows = [_record_row(path, root) for path in sorted(root.rglob("*")) if path.is_file()]
    (info / "RECORD").write_text("\n".join([*rows, f"{DIST_INFO}/RECORD,,", ""]), encoding="utf-8")


def install_from_source(url: str) -> None:
    """Build upstream's source against the installed torch and replace what this installer had put there.

    Raises:
        EnvironmentProblem: The build failed (an earlier Detectron2 is then still in place), or the installation did.
    """
    print(f"detectron2: building {url} (minutes; needs a C++ compiler that fits the installed torch)")
    fix = "see the output above; without a compiler run this again without --from-source"
    with tempfile.TemporaryDirectory() as folder:
        # Without build isolation: Detectron2's setup.py imports torch.
        _pip(["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, url], fix, show=True)
        wheels = [str(path) for path in Path(folder).glob("*.whl")]
        _pip(["uninstall", "--yes", DISTRIBUTION], fix)
        _pip(["install", "--no-deps", "--force-reinstall", *wheels], fix, show=True)


def bring_pip() -> None:
    """Put pip into an environment that has none, such as uv makes.

    Raises:
        EnvironmentProblem: Python comes without the means.
    """
    if has_pip():
        return
    print("pip: not in this environment; brought by ensurepip")
    done = subprocess.run(BRING_PIP, capture_output=True, text=True, check=False)
    if done.returncode:
        raise EnvironmentProblem(
            f"this Python has no pip, and ensurepip failed ({_last_line(done.stderr)}); run "
            f"`uv pip install --python {shlex.quote(sys.executable)} pip`, then this again"
        )


def _pip(arguments: list[str], fix: str, show: bool = False) -> None:
    bring_pip()
    out = None if show else subprocess.PIPE
    done = subprocess.run([*PIP, *arguments], stdout=out, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        if show:
            print(done.stderr, file=sys.stderr)
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR:")]  # hints may follow them
        reason = _last_line(errors[-1] if errors else done.stderr)
        raise EnvironmentProblem(f"`pip {arguments[0]}` failed ({reason}); {fix}")


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def _record_row(path: Path, root: Path) -> str:
    content = path.read_bytes()
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    return f"{path.relative_to(root).as_posix()},sha256={digest},{len(content)}"
