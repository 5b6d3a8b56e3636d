# Everything a clone needs: `make render` and `make test` set up `.venv` by themselves.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PROMPT ?= a red circle moves left on a blue background
OUT ?= clip.mp4
ARGS ?=
# Tests start many processes; each would compile everything anew where the environment forbids bytecode files.
PYTEST := PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest

.PHONY: help install install-dev render test test-slow check format bench protos clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "%-12s %s\n", $$1, $$2}'

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	@touch $@ $(VENV)/.installed

install: $(VENV)/.installed  ## what `make render` needs

install-dev: $(VENV)/.installed-dev  ## what `make check` and `make test` need

render: $(VENV)/.installed  ## turn PROMPT into the video OUT (ARGS="--steps 10 ..." are passed on)
	$(BIN)/reelray render "$(PROMPT)" -o "$(OUT)" $(ARGS)

test: $(VENV)/.installed-dev  ## the default tests, on all cores: CPU, offline
	$(PYTEST) -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder $(ARGS)

test-slow: $(VENV)/.installed-dev  ## the tests that take minutes
	$(PYTEST) -m slow $(ARGS)

check: $(VENV)/.installed-dev  ## format, lint, types, spelling
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/codespell

bench: $(VENV)/.installed-dev  ## what needs no GPU of benchmarks/README.md: parity, the whole command
	$(BIN)/python -m benchmarks.parity
	$(BIN)/python -m benchmarks.render_cpu

format: $(VENV)/.installed-dev  ## rewrite to the house format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

protos: $(VENV)/.protos  ## generate the Python of reelray/proto/v1 (old tools, so that it imports on protobuf 4.25 to 7)
	$(VENV)/.protos/bin/python -m grpc_tools.protoc -I . --python_out=. --pyi_out=. --grpc_python_out=. \
		reelray/proto/v1/*.proto

$(VENV)/.protos: | $(BIN)/python
	$(PYTHON) -m venv $(VENV)/.protos
	$(VENV)/.protos/bin/python -m pip install --quiet grpcio-tools==1.62.3 "setuptools<81"

clean:  ## remove the virtual environment and caches
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
