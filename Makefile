# make demo: install and paint the README's pictures · make test · make quick: checks without a model
# make check: what a change must pass · make fix · make docs: the site, in build/docs · make train
# On a GPU, with PYTHON=… a Python that has torch for CUDA and what pyproject.toml asks for: make test-gpu · make bench-gpu · make train-128
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-k-diffusion test-gpu bench-gpu lint quick check fix docs train train-128
.DEFAULT_GOAL := demo

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: .venv/installed
	HF_HUB_OFFLINE=1 PATH="$(CURDIR)/$(BIN):$$PATH" sh examples/demo.sh

# One test process a core, each with one thread: more threads than cores make all of them wait.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist worksteal

test: .venv/installed
	$(PYTEST)

# k-diffusion requires a dozen packages, which its samplers do not use: so it is no part of [dev].
test-k-diffusion: .venv/installed
	$(BIN)/pip install --quiet --no-deps k-diffusion==0.1.1.post1
	$(BIN)/python -m pytest tests/test_k_diffusion.py

# Peak memory is in build/test-gpu.xml.
test-gpu:
	PYTHONPATH="$(CURDIR):$$PYTHONPATH" SDAPP_TEST_GPU=1 $(PYTHON) -m pytest -m gpu -rs --junitxml=build/test-gpu.xml

# The CUDA rows of benchmarks/README.md; what they print is in build/bench-gpu too.
SD15 := --model sd15 --device cuda
SDXL := --model sdxl --device cuda
bench-gpu: export PYTHONPATH := $(CURDIR):$(PYTHONPATH)
bench-gpu: SHELL := bash
bench-gpu: .SHELLFLAGS := -o pipefail -c
bench-gpu:
	mkdir -p build/bench-gpu
	$(PYTHON) benchmarks/batch.py $(SD15) --steps 50 --prompts 16 --rounds 1 --batch-size 1 4 8 16 --compile off | tee build/bench-gpu/batch
	$(PYTHON) benchmarks/batch.py $(SD15) --steps 50 --prompts 16 --rounds 1 --batch-size 1 4 8 16 --compile on | tee build/bench-gpu/compiled
	$(PYTHON) benchmarks/busy.py $(SD15) --batch-size 8 --trace build/bench-gpu/trace.json.gz | tee build/bench-gpu/busy
	$(PYTHON) benchmarks/overhead.py $(SD15) --rounds 8 | tee build/bench-gpu/overhead
	$(PYTHON) benchmarks/grid.py $(SD15) --rounds 1 | tee build/bench-gpu/grid
	$(PYTHON) benchmarks/cold.py image $(SD15) --rounds 2 | tee build/bench-gpu/cold
	$(PYTHON) benchmarks/memory.py $(SD15) --jobs 1000 --size 64 | tee build/bench-gpu/memory
	$(PYTHON) benchmarks/batch.py $(SDXL) --steps 30 --prompts 8 --rounds 1 --batch-size 1 4 --compile off | tee build/bench-gpu/sdxl-batch
	$(PYTHON) benchmarks/memory.py $(SDXL) --jobs 4 --steps 30 --batch-size 1 | tee build/bench-gpu/sdxl-memory
	$(PYTHON) benchmarks/cold.py image $(SDXL) --rounds 1 | tee build/bench-gpu/sdxl-cold

lint: .venv/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

quick: lint
	$(PYTEST) -m "not model and not gpu"

check: lint test

fix: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: .venv/installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[docs]'
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet docs build/docs

train: .venv/installed
	$(BIN)/python training/train.py training/postcards-64.yaml
	$(BIN)/python training/evaluate.py training/postcards-64.yaml

train-128: export PYTHONPATH := $(CURDIR):$(PYTHONPATH)
train-128:
	$(PYTHON) training/train.py training/postcards-128.yaml
	$(PYTHON) training/evaluate.py training/postcards-128.yaml
