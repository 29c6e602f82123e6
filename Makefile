# The verbs of a contributor. `make` lists them.
PYTHON ?= python3
BASE ?= main
python = .venv/bin/python

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /  make \1	/p' $(firstword $(MAKEFILE_LIST)) | expand -t 16

setup: ## .venv with all that tests, lint and types need
	$(PYTHON) -m venv .venv
	.venv/bin/pip install -q --no-deps -r .ci/constraints.txt
	.venv/bin/pip install -q --no-deps --no-build-isolation -e .

fast: ## the tests of core, of specs and of what differs from main (BASE=...), without slow ones
	@tests=$$(BASE=$(BASE) $(python) .ci/fast) && echo $$tests && $(python) -m pytest -q -n 2 -m "not slow" $$tests

lint: ## style, types, layers
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

test: ## all tests
	$(python) -m pytest -q

check: ## all that a change has to pass: installs, lint, tests, other Pythons
	.ci/run

docs: ## write the tables of the documentation anew
	$(python) docs/write.py

bench: ## measure
	$(python) -m bench

.PHONY: help setup fast lint test check docs bench
