# Everything a fresh machine with Python 3.11+ needs: `make demo`, `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help demo test faults bench lint format clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(VENV)/ready: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "streamer needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev,demo]'
	touch $@

demo: $(VENV)/ready ## Play real Crafter episodes and watch the dataset grow
	$(BIN)/streamer demo

test: $(VENV)/ready ## Run every test
	$(BIN)/python -m pytest

faults: $(VENV)/ready ## Inject the faults that streamer is to survive: 1,000 simulated lives, 200 kills
	STREAMER_SEEDS=1000 STREAMER_KILLS=200 STREAMER_SCALE=1 $(BIN)/python -m pytest tests/faults

$(VENV)/bench-ready: $(VENV)/ready
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	touch $@

bench: $(VENV)/bench-ready ## Measure streamer and its peers, into benchmarks/results (less than 25 minutes)
	$(BIN)/python -m benchmarks all

lint: $(VENV)/ready ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/ready ## Put the code into shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## Remove what the other targets made
	rm -rf $(VENV) demo-run .mypy_cache .ruff_cache .pytest_cache .hypothesis
