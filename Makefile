# Every step a fresh machine needs is here: Python 3.11+ and make are enough. `make help` lists the targets.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

PIP    := $(BIN)/python -m pip install -qq --disable-pip-version-check
# setuptools warns about every editable installation.
EDITABLE := PYTHONWARNINGS=ignore $(PIP) --no-deps --no-build-isolation -e
# Only packages in locks/ are installed; no build from source fetches more.
LOCKED := $(PIP) --require-hashes --only-binary :all: -r

# Without byte code, each of the hundreds of processes that the tests start would compile the libraries again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo test test-latest fuzz run lint types imports check compiled test-compiled bench bench-compiled against-envoy proto crds lock upgrade clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: $(VENV)/.ready ## two greet pods, the gateway, both clients: the main job end to end, without Kubernetes
	@$(BIN)/grpcgw demo

run: $(VENV)/.ready ## keep the gateway up on examples/greet (Ctrl-C ends it)
	@$(BIN)/grpcgw run --config examples/greet --workers 1

test: $(VENV)/.dev-ready $(VENV)/.system ## all tests
	@$(BIN)/python -m pytest -n 4 --dist loadfile

test-latest: $(VENV)/.lock-ready $(VENV)/.system ## all tests, with the newest versions, then the lowest ones that pyproject.toml allows
	@scripts/test-versions highest
	@scripts/test-versions lowest-direct

fuzz: $(VENV)/.dev-ready ## property-based tests with thousands of examples each (some minutes)
	@HYPOTHESIS_PROFILE=fuzz $(BIN)/python -m pytest -m hypothesis --timeout 0

lint: $(VENV)/.dev-ready ## ruff: style and format
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: $(VENV)/.dev-ready ## mypy --strict
	@$(BIN)/mypy

imports: $(VENV)/.dev-ready ## import rules (.importlinter)
	@$(BIN)/lint-imports

check: lint types imports test ## everything CI runs

bench: $(VENV)/.bench-ready $(VENV)/.system ## the cost of an RPC, compared with Envoy and others (docs/performance.md); PART=tls,streams ENGINE=…
	@$(BIN)/python -m bench $(if $(PART),--only $(PART)) $(if $(ENGINE),--engine $(ENGINE))

COMPILED := cd .compiled && PYTHONPATH=$(abspath .compiled) ../$(BIN)/python -m

compiled: $(VENV)/.dev-ready ## a copy in .compiled whose modules on the path of an RPC are machine code (docs/decisions/040); needs a C compiler
	@PYTHON="$(abspath $(BIN)/python)" scripts/compiled

test-compiled: compiled $(VENV)/.system ## all tests, of the compiled modules
	@$(COMPILED) pytest -n 4 --dist loadfile

bench-compiled: compiled $(VENV)/.bench-ready $(VENV)/.system ## as bench, of the compiled modules
	@$(COMPILED) bench $(if $(PART),--only $(PART)) $(if $(ENGINE),--engine $(ENGINE))

soak: $(VENV)/.bench-ready $(VENV)/.system ## bad days under load: what policies depend on is slow, down or wrong; then leaks (three minutes) ENGINE=… CYCLES=…
	@$(BIN)/python -m bench.soak $(if $(ENGINE),--engine $(ENGINE)) $(if $(CYCLES),--cycles $(CYCLES))

against-envoy: $(VENV)/.bench-ready ## tests beside a real Envoy: rate limits, AuthServices
	@$(BIN)/python -m pytest -o pythonpath=". protos tests" bench/against_envoy

proto: $(VENV)/.dev-ready ## generate the code of protos/
	@$(BIN)/python -m grpc_tools.protoc -I protos --python_out=protos --pyi_out=protos --grpc_python_out=protos protos/greet/greet.proto
	@$(BIN)/python -m grpc_tools.protoc -I grpcgw/balancer=protos/orca --python_out=. --pyi_out=. protos/orca/orca_load_report.proto
	@$(BIN)/python -m grpc_tools.protoc -I grpcgw/policy/ext_authz=protos/ext_authz --python_out=. --pyi_out=. protos/ext_authz/ext_authz.proto
	@$(BIN)/python -m grpc_tools.protoc -I grpcgw/policy/limits=protos/rate_limits --python_out=. --pyi_out=. protos/rate_limits/rate_limit_service.proto

crds: $(VENV)/.ready ## generate deploy/crds.yaml from the typed resources
	@$(BIN)/python scripts/crds.py

lock: $(VENV)/.lock-ready ## write locks/ again after a change of pyproject.toml; versions stay if their range allows it
	@scripts/lock

upgrade: $(VENV)/.lock-ready ## write locks/ with the newest versions
	@scripts/lock --upgrade

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "grpcgw needs Python 3.11 or later; say PYTHON=/path/to/python3.11"; exit 1; }
	@echo "creating $(VENV)"; $(PYTHON) -m venv $(VENV)

$(VENV)/.ready: pyproject.toml locks/install.txt locks/runtime.txt locks/demo.txt | $(VENV)/bin/python
	@echo "installing grpcgw"
	@$(LOCKED) locks/install.txt
	@$(LOCKED) locks/runtime.txt -r locks/demo.txt
	@$(EDITABLE) .
	@touch $@

$(VENV)/.dev-ready: locks/dev.txt $(VENV)/.ready
	@echo "installing the tools for tests and checks"
	@$(LOCKED) locks/dev.txt
	@touch $@

$(VENV)/.bench-ready: locks/bench.txt $(VENV)/.dev-ready
	@$(LOCKED) locks/bench.txt
	@touch $@

$(VENV)/.lock-ready: locks/lock.txt $(VENV)/.ready
	@$(LOCKED) locks/lock.txt
	@touch $@

$(VENV)/.system: scripts/install-system-packages | $(VENV)/bin/python
	@scripts/install-system-packages && touch $@

clean: ## remove what make made
	rm -rf $(VENV) .venv-* .compiled build dist *.egg-info .mypy_cache .ruff_cache .hypothesis .import_linter_cache
