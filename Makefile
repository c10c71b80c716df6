# Everything runs from a bare machine with Python 3.11 or newer: targets create .venv and install what they need.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
PYTEST := $(BIN)/python -m pytest
export PYTHONDONTWRITEBYTECODE ?= 1

.DEFAULT_GOAL := help
.PHONY: help venv demo dev test check format docs fleet live bench clean

help: ## show this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 18

venv: $(VENV)/.test ## create .venv with everything a developer needs
	@echo "ready: $(BIN)/asm"

demo: $(VENV)/.embedded ## see it work: a whole stack, some sessions, a killed worker, the invariants
	@$(BIN)/asm demo

dev: $(VENV)/.flower ## run everything on this machine until interrupted (ARGS="--port 8420 --workers 3")
	@$(BIN)/asm dev $(ARGS)

test: $(VENV)/.test ## all tests against a real Postgres and Redis
	@$(PYTEST) -n 2 --no-loadscope-reorder $(ARGS)

check: $(VENV)/.dev ## format, lint, strict types, import contracts, deployment files
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/mypy --explicit-package-bases examples
	$(BIN)/lint-imports
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml

format: $(VENV)/.dev ## put the code into its standard form
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/.dev ## write docs/reference anew from the code
	@for file in docs/*_reference.py; do $(BIN)/python $$file || exit 1; done

fleet: $(VENV)/.test ## chaos at full length: kills, freezes, outages (ROUNDS=30)
	@ASM_FLEET_ROUNDS=$(or $(ROUNDS),30) $(PYTEST) -s tests/fleet $(ARGS)

live: $(VENV)/.test ## each provider against its real service, where its key is set (ARGS="anthropic claude")
	@$(BIN)/python -m tests.live $(ARGS)

bench: $(VENV)/.test ## measure: each benchmark prints JSON with our figure beside its limit
	@for file in benchmarks/[a-z]*.py; do echo "== $$file"; $(BIN)/python $$file $(ARGS) || exit 1; done

clean: ## remove .venv and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .asm

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; name it with PYTHON=…"; exit 1; }
	@$(PYTHON) -m venv $(VENV)

# One stamp per set of extras; a change of pyproject.toml renews them.
$(VENV)/.%: pyproject.toml | $(VENV)/bin/python
	@echo "installing agent-session-manager[$*] into $(VENV)"
	@$(PIP) -e '.[$*]'
	@touch $@
