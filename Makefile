# make quickstart   install what a run needs, then the whole way in one command
# make test         install, then every test but the slow ones
# make test-slow    install, then the slow ones: lost hosts, hung ranks, the whole recipe, kernels compiled for GPUs
# make check        lint, format, types
# make clean        remove what make made here, the environment included; runs/ stays
#
# Another Python: make clean, then make PYTHON=python3.12 test. Stamps in .venv remember what is installed, and a
# step that was interrupted is taken again.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# -c would not reach pip's build environments, and a build could then meet another torch.
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

NEEDS := setup.py pyproject.toml constraints.txt timeexpert/requirements.py

.PHONY: help quickstart test test-slow check clean

help:
	@sed -n '/^#/!q; s/^# \{0,1\}//p' Makefile

quickstart: $(VENV)/.installed
	$(BIN)/timeexpert quickstart $(ARGS)

# Processes of one thread each (tests/conftest.py says how many): the tests' tensors are tiny. A file stays in one process.
# Bytecode is kept: a hundred processes would each compile the package again.
PYTEST := PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

test: $(VENV)/.installed-test
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(PYTEST) -m "not slow" $(ARGS)

test-slow: $(VENV)/.installed-test
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(PYTEST) -m slow $(ARGS)

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python scripts/check_types.py

clean:
	rm -rf $(VENV) .typecheck build dist timeexpert.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# An environment that works is kept; one that was left half-made is made again from nothing.
$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"error: $(PYTHON) is Python {sys.version.split()[0]}; 3.11 or newer is needed: make PYTHON=python3.11 $(MAKECMDGOALS)")'
	@$(BIN)/python -c 'import pip, sys; assert sys.version_info >= (3, 11)' 2>/dev/null || $(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(VENV)/.installed: $(VENV)/.made $(NEEDS)
	$(BIN)/python -m pip install -e .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.made $(NEEDS)
	$(BIN)/python -m pip install -e '.[test]'
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-dev: $(VENV)/.made $(NEEDS)
	$(BIN)/python -m pip install -e '.[dev]'
	@touch $@ $(VENV)/.installed $(VENV)/.installed-test
