# Needs python3 >= 3.11, make and pip; everything else is installed into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

TORCH := .venv-torch
OPENVINO := .venv-openvino

.PHONY: setup setup-torch demo test test-torch test-openvino lint docs dist bench fuzz kill clean

# Two stamps: what users need is enough for the demo, and installs faster.
$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "quantkit needs python3 >= 3.11; set PYTHON=..." >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

setup: $(VENV)/.installed-dev

demo: $(VENV)/.installed
	$(BIN)/quantkit demo --out quantkit-demo

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n auto

# An environment of its own, since torch and torchvision take some GB.
$(TORCH)/.installed: pyproject.toml
	test -x $(TORCH)/bin/python || $(PYTHON) -m venv $(TORCH)
	$(TORCH)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[torch,dev]'
	touch $@

setup-torch: $(TORCH)/.installed

# One thread for torch in each worker: two pools of threads on the same processors slow each other down. A worker takes
# up to 2 GB.
test-torch: $(TORCH)/.installed
	OMP_NUM_THREADS=1 $(TORCH)/bin/python -m pytest -m torch -n auto --maxprocesses 4

# An environment of its own, since onnxruntime-openvino takes the place of onnxruntime.
$(OPENVINO)/.installed: pyproject.toml
	test -x $(OPENVINO)/bin/python || $(PYTHON) -m venv $(OPENVINO)
	$(OPENVINO)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	$(OPENVINO)/bin/python -m pip uninstall --quiet --yes onnxruntime
	$(OPENVINO)/bin/python -m pip install --quiet --disable-pip-version-check --force-reinstall --no-deps onnxruntime-openvino
	touch $@

test-openvino: $(OPENVINO)/.installed
	$(OPENVINO)/bin/python -m pytest tests/engine/test_device.py tests/workflows/test_devices.py

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

# The site in site/, without a network: fonts, diagrams and search are files of its own. Warnings are errors.
docs: $(VENV)/.installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict

# Wheel and sdist in dist/, installed into an empty environment and used there.
dist: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'build>=1.2' 'twine>=6'
	rm -rf dist
	$(BIN)/python -m build --outdir dist
	$(BIN)/python -m twine check --strict dist/*
	$(BIN)/python .ci/check_dist.py dist

bench: $(VENV)/.installed-dev
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/calibration.py
	$(BIN)/python benchmarks/int8_graph.py
	$(BIN)/python benchmarks/evaluation.py
	$(BIN)/python benchmarks/sources.py
	$(BIN)/python benchmarks/cluster.py --parts jobs,bits,overhead
	$(BIN)/python benchmarks/accuracy.py

# Bytes against every parser, SECONDS for each; what was learnt is kept in .fuzz.
SECONDS ?= 60
fuzz: $(VENV)/.installed-dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'atheris>=2.3'
	PYTHONPATH=tests $(BIN)/python tests/bad_input/fuzz.py --seconds $(SECONDS)

# kill -9 of every long command at random moments, KILLS runs of each.
KILLS ?= 40
kill: $(VENV)/.installed-dev
	QUANTKIT_KILLS=$(KILLS) $(BIN)/python -m pytest tests/interruption -s --timeout 3600

clean:
	rm -rf $(VENV) $(TORCH) .fuzz quantkit-demo build dist site *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
