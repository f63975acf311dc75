# Everything from a fresh clone: needs python >= 3.10 with venv, make and, for the first run, the network.
PYTHON ?= python3
VENV ?= .venv
TRAIN_STEPS ?= 1000
BIN := $(VENV)/bin
STAMP := $(VENV)/.ovseg-installed
CLUSTER := $(VENV)/.ovseg-cluster

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install demo train-demo docs test test-slow test-all check-package test-matrix gpu-check clean

help:
	@echo "make demo     install into $(VENV), segment the example photographs, say where the pictures are"
	@echo "make train-demo  make Scenes (network), train a small SAN on the embedded CLIP: TRAIN_STEPS=1000 take ~8 minutes on two cores"
	@echo "make test     install into $(VENV), then ruff, mypy and pytest"
	@echo "make test-all  make test, then the slow tests: the page in a browser (needs Chromium), many users, many files, compilers"
	@echo "make docs     build the site of the documentation into site/, strictly: every link has to lead somewhere"
	@echo "make check-package  build the wheel and use it in a clean environment, without this checkout"
	@echo "make test-matrix  that and the tests for Python 3.10 to 3.13, oldest and newest packages: MATRIX='--pythons 3.10'"
	@echo "make gpu-check  operators, goldens, models and times on CUDA, no network needed: GPU_CHECK='--wheels DIR'"
	@echo "make install  only install into $(VENV) (a few GB the first time, nothing when up to date)"
	@echo "make clean    remove $(VENV), caches and build folders"
	@echo "Another interpreter: make test PYTHON=python3.12 VENV=.venv312"

install: $(STAMP)
	@echo "$(VENV) is ready"

demo: $(STAMP)
	@echo "== demo: examples/ with the embedded model"
	$(BIN)/ovseg demo

# Interrupted by anything, the same command goes on where the last checkpoint was written.
train-demo: $(STAMP)
	@test -f data/scenes/train/panoptic.json || $(BIN)/ovseg datasets scenes --output data/scenes --splits train,val,novel
	$(BIN)/ovseg datasets check data/scenes/train --limit 100 --drawing data/scenes/train_samples.png
	$(BIN)/ovseg train --config-file configs/san/san_mini_scenes.yaml --resume SOLVER.MAX_ITER $(TRAIN_STEPS)
	$(BIN)/ovseg segment data/scenes/val/images/val_00000.jpg --classes scenes --model runs/san_mini_scenes --output runs/san_mini_scenes/example

# A strict build is one of the slow tests, too.
docs: $(STAMP)
	@echo "== docs: site/index.html"
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

test: $(STAMP)
	@echo "== style (ruff), types (mypy), tests (pytest)"
	$(BIN)/ruff check .
	$(BIN)/mypy ovseg
	@# A process for each core; a file's tests stay together, for they share what they build.
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --maxprocesses 8 --dist loadfile

# Those that take long; without a Chromium those of the browser are skipped, and say so; without Ray those of clusters.
test-slow: $(STAMP)
	@test -f $(CLUSTER) || { echo "== install: Ray, for the tests of clusters"; \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements/constraints.txt -e '.[cluster]' \
		&& touch $(CLUSTER) || echo "note: Ray cannot be had here; the tests of clusters are skipped"; }
	@echo "== slow tests (pytest -m slow)"
	OMP_NUM_THREADS=1 $(BIN)/pytest -m slow -n auto --maxprocesses 2 --dist loadfile

test-all: test
	@$(MAKE) --no-print-directory test-slow

# The stamp is the last thing written: an installation that was cut off is taken up again, a finished one is left alone.
$(STAMP): setup.py pyproject.toml requirements/constraints.txt ovseg/system/detectron2_installer.py
	@command -v $(PYTHON) >/dev/null || { echo "error: no '$(PYTHON)' here; install Python 3.10 or newer, or name one: make $(MAKECMDGOALS) PYTHON=/path/to/python" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 10) else "error: " + sys.executable + " is Python " + sys.version.split()[0] + ", expected 3.10 or newer; name another one: make $(MAKECMDGOALS) PYTHON=python3.12")'
	@echo "== install: Python environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV) || { echo "error: cannot create $(VENV); on Debian and Ubuntu: sudo apt-get install python3-venv" >&2; exit 1; }
	@echo "== install: packages (torch with its CUDA libraries is a few GB; runs on the CPU too)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements/constraints.txt -e '.[train,test,web,hf,export,docs]'
	@# The oracle of PQ in the tests asks for NumPy 1 in its metadata and works with 2, so it comes without its list.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps panopticapi-lite==0.2.0
	@echo "== install: Detectron2, Python part"
	$(BIN)/ovseg install-detectron2
	@touch $@

check-package:
	$(PYTHON) tools/check_package.py --constraints requirements/constraints.txt

test-matrix:
	PYTHON=$(PYTHON) tools/test_matrix.sh $(MATRIX)

# With the Python that has torch: nothing is installed into .venv, what is missing comes from a folder of wheels.
gpu-check:
	PYTHON=$(PYTHON) tools/gpu_check.sh $(GPU_CHECK)

clean:
	rm -rf $(VENV) build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
