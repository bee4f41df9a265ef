# The whole developer interface. `make demo` and `make test` set up everything themselves.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
INPUTS := pyproject.toml setup.py build_ffi.py MANIFEST.in $(wildcard csrc/*.c csrc/*.h)
SANITIZED := build/sanitized
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help demo test test-vm sanitized check docs bench clean

help:    ## this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 20

demo: $(VENV)/.runs  ## a program runs out of memory in a real group: left to the kernel, taken over, and abandoned
	@$(BIN)/memcg demo

test: $(VENV)/.test  ## all tests, the real OOMs included (QUICK=1 leaves out the long ones, TESTS= names some)
	$(BIN)/python -m pytest $(TESTS) $(if $(QUICK),-m "not slow")

sanitized: $(VENV)/.test  ## the tests of the hold, with the guard under the address and undefined-behaviour sanitizers
	rm -rf $(SANITIZED) && mkdir -p $(SANITIZED)
	guard=$$(PYTHONPATH=tests $(BIN)/python tests/support/sanitized.py $(SANITIZED)) && \
	MEMCG_TEST_GUARD=$$guard $(BIN)/python -m pytest -m "not slow" $(wildcard tests/kernel/test_hold*.py)
	@test ! -s $(SANITIZED)/memcg-guard.report || { cat $(SANITIZED)/memcg-guard.report; exit 1; }

test-vm: $(VENV)/.test $(VENV)/.vm  ## the kernel tests in other kernels, under qemu (KERNELS="6.1-v1 7.3-v2", USERS=root, TESTS= name some)
	PYTHONPATH=tests $(BIN)/python -m vm test $(KERNELS:%=--kernel %) $(USERS:%=--user %) $(TESTS)

check: $(VENV)/.test $(VENV)/.check $(VENV)/.docs  ## ruff, mypy, pyright --verifytypes, docs with warnings as errors
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	@# pyright does not follow the .pth file of an editable install.
	PYTHONPATH=src $(BIN)/pyright --pythonpath $(abspath $(BIN))/python --ignoreexternal --verifytypes memcg
	$(MAKE) docs

docs: $(VENV)/.docs  ## the documentation, into docs/_build
	$(BIN)/sphinx-build -n -W --keep-going -q docs docs/_build

bench: $(VENV)/.bench  ## the measurements that the documentation quotes
	$(BIN)/python -m benchmarks

clean:   ## removes everything that the targets above made
	rm -rf .venv .venv-* build dist docs/_build .hypothesis .mypy_cache .pytest_cache .ruff_cache src/*.egg-info src/memcg/_ffi.*.so src/memcg/memcg-enter src/memcg/memcg-guard
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# One stamp for each set of dependencies, so that `make demo` installs no test tools.
$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 10) or sys.exit("memcg needs Python 3.10 or later; this is " + sys.version.split()[0] + ". Name another one: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV) || { echo >&2 "make: no venv module here. Debian, Ubuntu: apt-get install python3-venv"; exit 1; }

$(VENV)/.runs: $(VENV)/bin/python $(INPUTS)
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/.%: $(VENV)/.runs
	$(BIN)/python -m pip install --quiet --editable '.[$*]'
	@touch $@
