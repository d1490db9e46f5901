# Every target sets up what it needs, in .venv, the first time and again when pyproject.toml or constraints.txt change.
#
#   PYTHON=python3.12      the interpreter that .venv is made from (3.11 or newer)
#   PIP_ARGS='...'         options for installing torch, such as another index with wheels for this machine
#   ARGS='...'             options for `interlock demo`, pytest, a benchmark or the fuzzer

PYTHON ?= python3
PIP_ARGS ?=
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
BENCHMARKS = $(filter-out %/bars.py,$(wildcard tests/benchmarks/*.py))

# Many threads on small matrices cost two to five times the CPU, and Interlock runs many processes on one machine.
export OMP_NUM_THREADS ?= 1
export OPENBLAS_NUM_THREADS ?= 1
export MKL_NUM_THREADS ?= 1
export NPROC ?= 1

.PHONY: help demo test test-gpu check bench attacks fuzz clean
.NOTPARALLEL:
.DELETE_ON_ERROR:

help: ## say what each target does
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/make \1	\2/p' Makefile

demo: $(VENV)/.installed ## train a small model on this machine: runs/demo/report.json
	@mkdir -p runs/demo
	$(BIN)/interlock demo --report runs/demo/report.json $(ARGS)

test: $(VENV)/.developing ## run all tests
	$(BIN)/python -m pytest -n 2 --dist=worksteal $(ARGS)

test-gpu: $(VENV)/.gpu ## test the Triton kernels: on the GPU, or interpreted where there is none
	$(BIN)/python -m pytest -n 2 --dist=worksteal tests/gpu $(ARGS)

check: $(VENV)/.developing ## format, lint and types
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy

bench: $(VENV)/.developing ## time what runs often against its bars
	@status=0; for file in $(BENCHMARKS); do \
	    echo "== $$file"; $(BIN)/python $$file $(ARGS) || status=1; \
	done; exit $$status

fuzz: $(VENV)/.developing ## a million mutated messages against every kind of process: 6 minutes of CPU
	$(BIN)/python -m tests.fuzz $(ARGS)

attacks: $(VENV)/.developing ## attack the program's own code; each attack must end as docs/threat-model.md says
	$(BIN)/python -m tests.attacks $(ARGS)

clean: ## remove .venv and caches; runs/ stays
	rm -rf $(VENV) .src/*.egg-info build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# torch first and by itself, so that PIP_ARGS may name an index that holds nothing else.
$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install --upgrade 'pip>=25.1'
	$(PIP) install -c constraints.txt $(PIP_ARGS) torch
	$(PIP) install -c constraints.txt -e .
	@touch $@

$(VENV)/.developing: $(VENV)/.installed
	$(PIP) install -c constraints.txt --group dev
	@touch $@

# 1 GB, unless torch has brought it.
$(VENV)/.gpu: $(VENV)/.developing
	$(PIP) install -c constraints.txt -e '.[gpu]'
	@touch $@

# What only the system can install is named in one line to type. (git: the tests ask it which files are ours.)
$(BIN)/python:
	@python='$(PYTHON)'; packages=; again=; \
	git --version >/dev/null 2>&1 || packages=git; \
	if ! "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	    echo 'Interlock needs Python 3.11 or newer.' >&2; \
	    packages="$$packages python3.11-venv"; again=' && make PYTHON=python3.11 $(MAKECMDGOALS)'; \
	elif ! "$$python" -c 'import ensurepip, venv' 2>/dev/null; then \
	    packages="$$packages $$(basename "$$python")-venv"; \
	fi; \
	if [ -n "$$packages" ]; then \
	    sudo=; [ "$$(id -u)" = 0 ] || sudo='sudo '; \
	    echo "Type: $${sudo}apt-get install -y $$(echo $$packages)$$again" >&2; \
	    exit 1; \
	fi; \
	"$$python" -m venv $(VENV)
