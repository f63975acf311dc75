"""Packaging of ovseg. Lower bounds are here; the exact versions that are tested are in requirements/constraints.txt.

Detectron2 has no package of its own on the package index: `ovseg install-detectron2` brings it.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Distribution, find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "ovseg" / "_version.py").read_text(encoding="utf-8"))[1]
README = ROOT / "README.md"
WITH_OPERATORS = os.environ.get("OVSEG_BUILD_OPS") == "1"

# What Detectron2's Python part imports; the installer takes it without its own list of dependencies.
DETECTRON2_NEEDS = [
    "cloudpickle>=2.0",
    "fvcore>=0.1.5.post20221221",
    "iopath>=0.1.9",
    "matplotlib>=3.7",
    "omegaconf>=2.1,<2.4",
    "tabulate>=0.9",
    "termcolor>=1.1",
    "tqdm>=4.60",
    "yacs>=0.1.8",
]

# What pip install 'ovseg[NAME]' brings besides; bounds are checked by tools/test_matrix.sh.
EXTRAS = {
    "train": [
        "hydra-core>=1.1",
        "scikit-image>=0.22",
        "tensorboard>=2.15",
    ],  # lazy configs; photographs of Scenes; curves
    "web": ["gradio>=6.24"],  # `ovseg serve`: the page, with FastAPI and uvicorn, which gradio stands on
    "cluster": ["ray[data]>=2.30"],  # `ovseg label --ray`
    "export": ["onnx>=1.16", "onnxruntime>=1.18", "onnxscript>=0.2"],
    "hf": [
        "transformers>=5.0",
        "sentencepiece>=0.2",
        "protobuf>=4.25",
    ],  # towers of transformers; in 4.57 Chinese-CLIP is broken
    "sam3": ["transformers>=5.0"],  # which has SAM 3 (Sam3Model) since then
    "docs": ["mkdocs>=1.6,<2", "mkdocs-material>=9.5", "mkdocstrings[python]>=0.26"],  # `make docs`: the site
    "heif": ["pillow-heif>=0.16"],
    "tiff": ["imagecodecs>=2023.3.16"],  # compressions of TIFF beyond the usual ones
    "crf": ["pydensecrf2>=1.1; python_version<'3.13'"],  # its sources do not compile for later ones
    "test": [
        "faster-coco-eval>=1.6",
        "hypothesis>=6.100",
        "ipykernel>=6.29",
        "mypy>=1.11",
        "nbclient>=0.10",
        "playwright>=1.45",
        "pytest>=8.0",
        "pytest-xdist>=3.5",
        "ruff>=0.6",
        "scikit-image>=0.22",
        "setuptools>=68",  # tests read setup.py
        "supervision>=0.25",
        "types-PyYAML>=6.0",
    ],
}
EXTRAS["label"] = EXTRAS["cluster"]  # labelling itself needs nothing more
EXTRAS["all"] = sorted({need for name, needs in EXTRAS.items() if name not in ("test", "docs") for need in needs})


def build_operators(folder: Path) -> None:
    """Compile the operators into a folder, for the PyTorch that they will run with.

    That is the one of the environment that is installed into. pip builds in an isolated one and hides the other's
    packages by PYTHONPATH, so the compiler is started without it.
    """
    environment = dict(os.environ)
    if importlib.util.find_spec("torch") is None:
        environment = {key: text for key, text in environment.items() if key not in ("PYTHONPATH", "PYTHONNOUSERSITE")}
    call = [sys.executable, "-c"]
    if subprocess.run([*call, "import torch"], env=environment, cwd=ROOT, check=False).returncode:
        raise SystemExit(
            "error: OVSEG_BUILD_OPS=1 compiles against PyTorch, which this Python does not have; install torch first, "
            "then run `OVSEG_BUILD_OPS=1 pip install --no-build-isolation .`, or install without and run "
            "`ovseg build-ops`"
        )
    build = "import sys, pathlib; from ovseg.ops.build import build; build(pathlib.Path(sys.argv[1]), report=print)"
    subprocess.run([*call, build, folder], env=environment, cwd=ROOT, check=True)


class BuildWithConfigs(build_py):
    """Puts copies of configs/ and examples/ into the package, where an installed wheel finds them.

    Who looks for them: `ovseg.config.config_root` and `examples_root`.

    With ``OVSEG_BUILD_OPS=1`` in the environment the compiled operators, too.
    """

    def run(self) -> None:
        """Build as usual, then copy; an editable installation reads the checkout's own."""
        super().run()
        if WITH_OPERATORS:
            build_operators((ROOT if self.editable_mode else Path(self.build_lib).resolve()) / "ovseg/ops/prebuilt")
        if not self.editable_mode:
            package = Path(self.build_lib) / "ovseg"
            for name, target in (
                ("configs", package / "zoo" / "configs"),
                ("examples", package / "serve" / "examples"),
            ):
                shutil.copytree(ROOT / name, target, dirs_exist_ok=True)


class OwnDistribution(Distribution):
    """Says that compiled operators make a wheel one for this platform alone."""

    def has_ext_modules(self) -> bool:
        """Return whether anything is compiled."""
        return WITH_OPERATORS


setup(
    name="ovseg",
    distclass=OwnDistribution,
    version=VERSION,
    description="Dense open-vocabulary segmentation: any photo, any words, a label for every pixel",
    long_description=README.read_text(encoding="utf-8") if README.exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["ovseg", "ovseg.*"]),
    package_data={"ovseg": ["py.typed", "assets/**/*", "serve/static/*", "ops/csrc/*", "**/*.json", "**/*.txt"]},
    cmdclass={"build_py": BuildWithConfigs},
    entry_points={"console_scripts": ["ovseg = ovseg.cli:main"]},
    install_requires=[
        "torch>=2.4",
        "torchvision>=0.19",
        "open_clip_torch>=3.3,<4",
        "filelock>=3.12",
        "huggingface_hub>=0.23",
        "numpy>=1.26",
        "opencv-python-headless>=4.8",
        "packaging>=23.0",
        "pillow>=11.0",
        "pycocotools>=2.0.7",
        "pyyaml>=6.0",
        "rich>=15.0",
        "safetensors>=0.4.3",
        "scipy>=1.10",
        "segment-anything>=1.0",
        "tifffile>=2023.2.3",
        *DETECTRON2_NEEDS,
    ],
    extras_require=EXTRAS,
    classifiers=[
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Image Recognition",
        "Typing :: Typed",
    ],
)
