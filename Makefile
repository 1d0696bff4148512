# make demo: install and paint the README's pictures · make test · make test-gpu · make check: what a change must pass · make fix · make train
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-gpu check fix train
.DEFAULT_GOAL := demo

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: .venv/installed
	HF_HUB_OFFLINE=1 PATH="$(CURDIR)/$(BIN):$$PATH" sh examples/demo.sh

test: .venv/installed
	$(BIN)/python -m pytest

# With a Python of your own that has torch for CUDA: make test-gpu PYTHON=… (peak memory is in build/test-gpu.xml)
test-gpu:
	PYTHONPATH="$(CURDIR)" SDAPP_TEST_GPU=1 $(PYTHON) -m pytest -m gpu -rs --junitxml=build/test-gpu.xml

check: .venv/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest

fix: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

train: .venv/installed
	$(BIN)/python training/train.py training/postcards-64.yaml
	$(BIN)/python training/evaluate.py build/postcards-64/model build/postcards-64
