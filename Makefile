# Targets: setup demo check test bench chaos clean. All work in a fresh clone; all use .venv, which `make setup` builds.
#
#   make setup PYTHON=python3.12                 another interpreter (3.11 or newer)
#   make setup PIP_ARGS="--extra-index-url …"    further arguments for pip, e.g. PyTorch's CPU index (see README)

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { echo "$$p"; break; }; done)
PIP_ARGS ?=
TESTS ?= tests/contract tests/broker tests/e2e
ARGS ?=

.PHONY: help setup demo lint check test bench chaos clean

help:
	@echo "make setup   build .venv with what is tested (constraints.txt)"
	@echo "make demo    train a classifier on four agents over a real broker (ARGS=... for fogctl demo)"
	@echo "make check   format, lint, types, import rules, unit tests but for campaigns and matrices: about two minutes on two cores, no broker"
	@echo "make test    all unit tests, then contract, broker and end-to-end tests"
	@echo "make bench   measure against a bare MQTT loop, numpy and torch; writes bench/results/latest.json"
	@echo "make chaos   the long tests: 5 000 simulated and more than 50 live schedules of faults (about half an hour)"
	@echo "make clean   remove caches and build outputs (rm -rf .venv to begin anew)"

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "foglearn needs Python 3.11 or newer and found none; install it or say: make setup PYTHON=/path/to/python3" >&2; exit 2; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.maxsize < 2**32)' || { echo "foglearn needs a 64-bit Python; $(PYTHON) is 32-bit" >&2; exit 2; }
	@test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV) || { rm -rf $(VENV); echo "could not create $(VENV); on Debian: apt install python3-venv" >&2; exit 2; }
	$(BIN)/python -m pip install --quiet -c constraints.txt $(PIP_ARGS) -e '.[dev]'
	@touch $@

demo: $(READY)
	$(BIN)/fogctl demo $(ARGS)

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint
	$(BIN)/python -m pytest -n auto --dist loadgroup -m "not slow and not thorough" tests/unit $(ARGS)

test: lint
	$(BIN)/python -m pytest -n auto --dist worksteal -m "not slow" tests/unit $(ARGS)
	$(BIN)/python -m pytest -m "not slow" $(TESTS) $(ARGS)

bench: $(READY)
	$(BIN)/python -m bench $(ARGS)

chaos: $(READY)
	$(BIN)/python -m fog_sim.campaign.chaos --schedules 5000
	$(BIN)/python -m bench.chaos --minutes 20 $(ARGS)
	$(BIN)/python -m pytest -m slow tests

clean:
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache build dist out *.egg-info
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -print0 | xargs -0 rm -rf
