# wardmesh. Needs Python 3.11 or later and make; everything else is set up in .venv on first use.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo up test test-containers test-compose bench faults fuzz fmt lint lock docs clean

PYTHON ?= python3
MEMBERS := libs/common libs/cli services/audit services/auth services/bridge services/secrets services/webhooks
DISTS := wardmesh wardmesh-cli wardmesh-audit wardmesh-auth wardmesh-bridge wardmesh-secrets wardmesh-webhooks
BIN := .venv/bin

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/ready ## Set up .venv from the hashed lock

.venv/ready: requirements.lock $(MEMBERS:%=%/pyproject.toml)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "wardmesh needs Python 3.11 or later; this is %s. Name another: make PYTHON=python3.12 …" % sys.version.split()[0])'
	@echo "setting up .venv (once, about a minute)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "  installing locked dependencies" && $(BIN)/python -m pip --disable-pip-version-check install -qq --require-hashes -r requirements.lock
	@echo "  installing the seven members" && $(BIN)/python -m pip --disable-pip-version-check install -qq --no-deps --no-build-isolation $(MEMBERS:%=--editable %)
	@touch $@

demo: .venv/ready ## The tour: start a mesh, do the main job, show the evidence, stop
	@$(BIN)/wardmesh demo

up: .venv/ready ## Start a mesh and stay up (Ctrl-C stops it)
	@$(BIN)/wardmesh up

test: .venv/ready lint ## Every test, lint and type check
	@$(BIN)/pytest --numprocesses 2 --dist loadfile

test-containers: .venv/ready ## The integration suite on testcontainers (needs Docker)
	@$(BIN)/pytest tests/integration --wardmesh-backend=containers

test-compose: .venv/ready ## The tour and its faults on docker-compose.yml (needs Docker)
	@$(BIN)/python -m tests.compose

bench: .venv/ready ## Every benchmark, each a ratio to a floor measured in the same run
	@$(BIN)/python -m benchmarks

faults: .venv/ready ## kill -9 under load, at length
	@$(BIN)/pytest tests/faults --rounds=50

fuzz: .venv/ready ## Property tests and hostile inputs, at length
	@$(BIN)/pytest tests/fuzz libs services -m property --hypothesis-profile=long

fmt: .venv/ready ## Format the code
	@$(BIN)/ruff format --quiet . && $(BIN)/ruff check --quiet --fix .

lint: .venv/ready ## Format, lint, type and import rules
	@$(BIN)/ruff format --quiet --check . || { echo "run: make fmt"; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy --no-error-summary libs/*/src services/*/src
	@$(BIN)/lint-imports --no-cache --no-logo >.venv/imports.log || { cat .venv/imports.log; exit 1; }

LOCK := $(BIN)/uv pip compile --universal --generate-hashes --no-header --no-annotate --quiet $(DISTS:%=--no-emit-package %)

lock: .venv/ready ## Resolve requirements.lock anew, and the images' part of it (names no host)
	@$(LOCK) --upgrade libs/*/pyproject.toml services/*/pyproject.toml --all-extras --group pyproject.toml:dev \
	  --python-version 3.11 -o requirements.lock
	@$(LOCK) services/*/pyproject.toml --python-version 3.11 --constraints requirements.lock -o infra/requirements.lock
	@$(LOCK) --group pyproject.toml:build --python-version 3.11 --constraints requirements.lock -o infra/build.lock

docs: .venv/ready ## Write the API pages, and what else of docs/ follows from the code
	@$(BIN)/wardmesh docs docs/api
	@$(BIN)/python -m docs.generate

clean: ## Remove what was set up (data of `make up` stays)
	@rm -rf .venv .mypy_cache .ruff_cache .hypothesis
