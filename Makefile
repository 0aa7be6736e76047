# `make train` and `make test` set everything up by themselves.

VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin

.PHONY: setup train test lint types docs bench audit clean

setup: $(VENV)/.ready

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("ffdist needs Python 3.10 or newer, this is " + sys.version.split()[0]) if sys.version_info < (3, 10) else 0'
	@echo "Installing ffdist with torch into $(VENV): some GB, some minutes, once"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e .
	touch $@

$(VENV)/.ready: $(VENV)/.installed
	@echo "Installing what lint, types, tests and documents need: Ray, browsers' drivers, trackers"
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	touch $@

train: $(VENV)/.installed
	$(BIN)/ffdist train --stages 2 $(ARGS)

test: setup lint types
	$(BIN)/python -m pytest -n auto -rs $(ARGS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/pyright

docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict $(ARGS)

bench: setup
	$(BIN)/ffdist bench all $(ARGS)

audit:
	$(PYTHON) -m venv build/audit
	build/audit/bin/python -m pip install --quiet '.[bench,data,gcs,mlflow,ray,s3,tensorboard,wandb]' pip-audit
	build/audit/bin/python -m pip uninstall --quiet --yes ffdist
	build/audit/bin/pip-audit --local --strict --progress-spinner off $(ARGS)

clean:
	rm -rf $(VENV) build dist *.egg-info runs
