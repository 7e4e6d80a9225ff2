# The one way to run each thing, for a person and for CI. `make demo` needs Debian 12 (or any Linux with Python 3.11),
# `make test` adds the training extras. Stamps in .venv remember what is installed; `make clean` forgets it.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

TAPE := daemon/tapes/spy_synthetic_30.csv.gz
RUNTIME ?= cpu
PYTEST_ARGS ?=
COVERAGE_MIN := 97
PIP := .venv/bin/python -m pip --disable-pip-version-check

.PHONY: help demo training test lint format bench clean

help:
	@echo "make demo      install the daemon and run the bundled tape through it (dry run, no account needed)"
	@echo "make test      install everything, then lint, type check and test with coverage"
	@echo "make training  install what train-and-export needs"
	@echo "make lint      the static checks alone"
	@echo "make bench     the benchmarks, as JSON"
	@echo "make clean     remove the environment and all caches"

.venv/bin/python:
	@python=$$(command -v python3.11 || command -v python3 || true); \
	if [ -z "$$python" ]; then echo "make: found no python3; Python 3.11 is needed (Debian 12: apt-get install python3)" >&2; exit 1; fi; \
	version=$$($$python -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
	if [ "$$version" != 3.11 ]; then \
	  echo "make: $$python is Python $$version, Python 3.11 is needed: install python3.11 and python3.11-venv" >&2; exit 1; fi; \
	if ! $$python -c 'import venv, ensurepip' 2>/dev/null; then \
	  if [ "$$(id -u)" != 0 ]; then echo "make: Python's venv is missing: run 'apt-get install python3-venv' as root" >&2; exit 1; fi; \
	  echo "== installing the Debian package python3-venv, which is missing"; \
	  apt-get update -qq; DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3-venv >/dev/null; fi; \
	echo "== creating .venv with $$python"; \
	$$python -m venv .venv

.venv/.installed-daemon: pyproject.toml constraints.txt | .venv/bin/python
	@if [ $(RUNTIME) = gpu ]; then other=onnxruntime; else other=onnxruntime-gpu; fi; \
	if $(PIP) show -q $$other 2>/dev/null; then \
	  echo "make: .venv has $$other, which cannot live beside the runtime '$(RUNTIME)': run 'make clean' first" >&2; exit 1; fi
	@echo "== installing the daemon and its libraries ($(RUNTIME)) into .venv, versions from constraints.txt"
	@$(PIP) install --quiet -c constraints.txt -e '.[$(RUNTIME)]'
	@touch $@

.venv/.installed-tests: pyproject.toml constraints.txt .venv/.installed-daemon
	@echo "== installing the tools of tests and training (torch among them) into .venv"
	@$(PIP) install --quiet -c constraints.txt -e '.[$(RUNTIME),dev,training]'
	@.venv/bin/python -c 'import torch; print("== torch", torch.__version__, "is", "CUDA " + torch.version.cuda if torch.version.cuda else "CPU only")'
	@touch $@

training: .venv/.installed-tests
	@echo "== .venv has what train-and-export needs"

demo: .venv/.installed-daemon
	@state=$$(mktemp -d -t rltrader-demo.XXXXXX); \
	echo "== dry run over $(TAPE), state in $$state"; \
	.venv/bin/rltraderd --dry-run --bars $(TAPE) --state-dir "$$state"

lint: .venv/.installed-tests
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

test: lint
	.venv/bin/python -m pytest --cov=strategies --cov=daemon.core --cov-fail-under=$(COVERAGE_MIN) $(PYTEST_ARGS)

format: .venv/.installed-tests
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

bench: .venv/.installed-daemon
	@for bench in bench/bench_*.py; do .venv/bin/python -m "bench.$$(basename "$$bench" .py)"; done

clean:
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache .coverage htmlcov
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
