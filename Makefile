# make quickstart | test | test-all | lint | bench: each makes the environment it needs.
PYTHON ?= python3
VENV ?= .venv
EXTRAS ?= openvino,tensorboard,dev
BIN := $(VENV)/bin
# two processes, each with whole files of tests, in the order of tests/conftest.py: the longest first
TOGETHER := -n 2 --dist loadfile --no-loadscope-reorder
export PIP_REQUIRE_VIRTUALENV := 1

.PHONY: quickstart test test-all lint bench clean

quickstart: $(VENV)/.installed
	$(BIN)/edgeseg quickstart --out quickstart

test: $(VENV)/.installed
	$(BIN)/python -m pytest $(TOGETHER) -m "not wide"

test-all: $(VENV)/.installed
	$(BIN)/python -m pytest $(TOGETHER)

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.installed
	$(BIN)/python -m benchmarks.run

# torch comes first and pinned, so that nothing that follows chooses another
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[$(EXTRAS)]"
	touch $@

clean:
	rm -rf $(VENV) quickstart
