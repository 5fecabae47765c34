# Every step a fresh machine needs is here: Python 3.11+ and make are enough. `make help` lists the targets.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

.PHONY: help demo test fuzz run lint types imports check bench soak proto clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: $(VENV)/.ready ## two greet pods, the gateway, both clients: the main job end to end, without Kubernetes
	@$(BIN)/grpcgw demo

run: $(VENV)/.ready ## keep the gateway up on examples/greet (Ctrl-C ends it)
	@$(BIN)/grpcgw run --config examples/greet --workers 1

test: $(VENV)/.ready $(VENV)/.system ## all tests
	@$(BIN)/python -m pytest -n 3 --dist loadfile

fuzz: $(VENV)/.ready ## the properties among the tests, each tried thousands of times (some minutes)
	@HYPOTHESIS_PROFILE=fuzz $(BIN)/python -m pytest -m hypothesis --timeout 0

lint: $(VENV)/.lint-ready ## ruff: style and format
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: $(VENV)/.lint-ready ## mypy --strict
	@$(BIN)/mypy

imports: $(VENV)/.lint-ready ## import rules (.importlinter)
	@$(BIN)/lint-imports

check: lint types imports test ## everything CI runs

bench: $(VENV)/.bench-ready $(VENV)/.system ## what an RPC costs, beside Envoy and others (docs/performance.md)
	@$(BIN)/python -m bench

proto: $(VENV)/.ready ## regenerate protos/greet
	@$(BIN)/python -m grpc_tools.protoc -I protos --python_out=protos --pyi_out=protos --grpc_python_out=protos protos/greet/greet.proto

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "grpcgw needs Python 3.11 or later; say PYTHON=/path/to/python3.11"; exit 1; }
	@echo "creating $(VENV)"; $(PYTHON) -m venv $(VENV)

$(VENV)/.ready: pyproject.toml | $(VENV)/bin/python
	@echo "installing grpcgw and its test tools (a minute or two)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test]'
	@touch $@

$(VENV)/.lint-ready: $(VENV)/.ready
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test,lint]'
	@touch $@

$(VENV)/.bench-ready: $(VENV)/.ready
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test,bench]'
	@touch $@

$(VENV)/.system: scripts/install-system-packages | $(VENV)/bin/python
	@scripts/install-system-packages && touch $@

clean: ## remove what make made
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .hypothesis .import_linter_cache
