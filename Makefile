# Needs python3 (3.11 to 3.13), make and a package registry; nothing else.
PYTHON ?= python3
VENV := .venv
PEERS := .venv-peers
LOWEST := .venv-lowest
JAX := .venv-jax
BIN := $(VENV)/bin
PIP_ARGS ?=
PYTEST_ARGS ?=
BENCH_ARGS ?=
LOWEST_TESTS := tests/training tests/models tests/adapters tests/callbacks \
  tests/formats tests/cli/test_options.py tests/cli/test_parser.py
BASE ?= main
SAME_ARGS ?=
FUZZ_ARGS ?=
CRASH_ARGS ?=
LEARNING_ARGS ?=
PRETRAIN_ARGS ?=
RESVG = $(BIN)/python -c 'import resvg_py' 2>/dev/null \
  || $(BIN)/python -m pip install --quiet $(PIP_ARGS) resvg-py
GPU_PYTHON ?= $(BIN)/python
GPU_ARGS ?=
NOTEBOOKS ?=

DEMO_DATA := examples/data/ink/train
DEMO_RECIPE := keras_sdft/recipes/style.yaml
DEMO_RUN := runs/demo

export TF_CPP_MIN_LOG_LEVEL ?= 2
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help install demo test test-slow test-lowest test-jax lint format peers bench \
  bench-full tables same fuzz crash gpu-check memory memory-table parity learning \
  pretrain-tiny notebooks docs clean

help:  ## Show this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) \
	  | awk -F ':.*## ' '{printf "make %-12s %s\n", $$1, $$2}'

install: $(VENV)/.installed  ## Make .venv with the tested set of packages

# The stamp is newer than what it was made from, or pip runs again.
$(VENV)/.installed: requirements.txt setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] not in \
	  [(3, 11), (3, 12), (3, 13)])' || { echo "make install: \
	Keras and TensorFlow need Python 3.11 to 3.13. \
	Received: $$($(PYTHON) --version). Set PYTHON=python3.12, for example." \
	  >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) -r requirements.txt
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) --no-deps \
	  --no-build-isolation --editable .
	@touch $@

demo: install  ## Fine-tune "tiny" on drawings in ink; shows before and after
	@test -f $(DEMO_DATA)/metadata.jsonl || { echo "make demo: there is no \
	$(DEMO_DATA)/metadata.jsonl in this checkout." >&2; exit 1; }
	$(BIN)/keras-sdft train --config $(DEMO_RECIPE) --overwrite
	@echo $(DEMO_RUN)/previews/before_and_after.png

learning: install build/judges/subject/names.json  ## Measure what the demo learned
	test -d $(DEMO_RUN)/weights || $(MAKE) demo
	$(BIN)/python -m benchmarks.learning --after $(DEMO_RUN) $(LEARNING_ARGS)

build/judges/subject/names.json: build/tiny/ink.jsonl
	$(BIN)/python -m benchmarks.judges

# Needs npm, and resvg-py, which nothing else does. The last table it writes.
build/tiny/ink.jsonl: | install
	$(RESVG)
	$(BIN)/python -m scripts.pretrain_tiny.pictures

# PRETRAIN_ARGS="--minutes 150" stops in order; the same call goes on.
pretrain-tiny: install  ## Train "tiny" from nothing, in 7 hours; goes on
	$(RESVG)
	$(BIN)/python -m scripts.pretrain_tiny $(PRETRAIN_ARGS)

# Two processes: most of a test is tracing a graph, which is one thread.
test: install lint  ## Lint, then every test that is not marked slow
	KERAS_BACKEND=tensorflow $(BIN)/python -m pytest -m "not slow" -n 2 --dist loadgroup \
	  $(PYTEST_ARGS)

test-slow: install  ## The tests at full size; they need 16 GB of memory
	$(BIN)/python -m pytest -m slow $(PYTEST_ARGS)

# What depends on the versions: networks, training, the parser of flags.
test-lowest: $(LOWEST)/.installed  ## Tests with the lowest versions accepted
	$(LOWEST)/bin/python -m pytest -m "not slow" -n 2 $(LOWEST_TESTS) \
	  $(PYTEST_ARGS)

$(LOWEST)/.installed: requirements-lowest.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' \
	  || { echo "make test-lowest: the lowest versions have wheels for \
	Python 3.11 only. Received: $$($(PYTHON) --version). Set \
	PYTHON=python3.11." >&2; exit 1; }
	test -x $(LOWEST)/bin/python || $(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet $(PIP_ARGS) \
	  -r requirements-lowest.txt
	@touch $@

# Keras reads its backend once, so TensorFlow's part of each comparison is a
# process of its own.
test-jax: $(JAX)/.installed  ## Tests of the JAX backend against TensorFlow
	KERAS_BACKEND=jax $(JAX)/bin/python -m pytest tests/jax $(PYTEST_ARGS)

$(JAX)/.installed: requirements-jax.txt
	test -x $(JAX)/bin/python || $(PYTHON) -m venv $(JAX)
	$(JAX)/bin/python -m pip install --quiet $(PIP_ARGS) \
	  -r requirements-jax.txt
	@touch $@

lint: install  ## ruff, mypy, and who may import whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_imports.py

format: install  ## Let ruff format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

peers: $(PEERS)/.installed  ## Make .venv-peers: torch, diffusers, peft

$(PEERS)/.installed: requirements-peers.txt
	test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet $(PIP_ARGS) \
	  -r requirements-peers.txt
	@touch $@

# BENCH_ARGS="--cases 1 3" takes some cases; --quick sees whether they run.
bench: install peers $(JAX)/.installed  ## Time and memory against the peers, in an hour
	$(BIN)/python -m benchmarks.speed $(BENCH_ARGS)

bench-full: install peers $(JAX)/.installed  ## The same at the size of SD 1.5: hours, 19 GB
	$(BIN)/python -m benchmarks.speed --full $(BENCH_ARGS)

tables:  ## Write the tables of docs/speed.md and NOTES.md
	$(BIN)/python -m benchmarks.tables

# SAME_ARGS="--cases plain dreambooth" takes some configurations.
same: install  ## Compare losses and weights with commit BASE, bit for bit
	$(BIN)/python -m benchmarks.same --base $(BASE) $(SAME_ARGS)

# FUZZ_ARGS="--cases 1000 --seed 7"; "--case N" shows one case alone.
fuzz: install  ## Damage inputs of every kind; 30,000 cases
	$(BIN)/python -m benchmarks.fuzz $(FUZZ_ARGS)

crash: install  ## End runs at random moments, resume and compare; 200 kills
	$(BIN)/python -m benchmarks.crash $(CRASH_ARGS)

# On a machine with a GPU, with the interpreter of an environment that uses it:
# KERAS_BACKEND=jax make gpu-check GPU_PYTHON=.venv-jax-cuda/bin/python
gpu-check:  ## Compare a GPU with the CPU, and with diffusers on the same card
	$(GPU_PYTHON) -m benchmarks.gpu_check $(GPU_ARGS)

memory: install  ## What the estimate of memory says, against peaks
	$(BIN)/python benchmarks/memory.py

memory-table: install  ## Write the table of docs/memory.md; 6 GB
	$(BIN)/python -m benchmarks.memory_table

parity: install peers  ## Our networks against diffusers', at full size
	$(BIN)/python -m benchmarks.parity
	$(BIN)/python -m benchmarks.parity --narrow --parts training
	$(BIN)/python -m benchmarks.parity_lora
	$(BIN)/python -m benchmarks.parity_lora --full

# NOTEBOOKS="lora style" runs some of them.
notebooks: install  ## Run the scripts of examples/notebooks, write .ipynb
	$(BIN)/python -m scripts.notebooks $(NOTEBOOKS)

docs: $(VENV)/.installed-docs  ## Build the documentation into site/
	$(BIN)/mkdocs build --strict --quiet
	@echo site/index.html

$(VENV)/.installed-docs: $(VENV)/.installed setup.cfg
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) \
	  --no-build-isolation --editable '.[docs]'
	@touch $@

clean:  ## Remove caches and what was built; keep .venv* and runs
	rm -rf build/lib build/bdist.* dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find keras_sdft tests examples -name __pycache__ -prune -exec rm -rf {} +
