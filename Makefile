# Everything here sets itself up: only Python 3.11 or newer, make and a package index are needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo dev test test-convex check bench clean help

help:
	@echo "make demo    every backfill on invented data, verified"
	@echo "make dev     the Dagster UI on the same data: http://127.0.0.1:3000"
	@echo "make test    all tests"
	@echo "make test-convex    the tests of the functions that run in Convex (with Node.js)"
	@echo "make check   ruff, mypy, import contracts, Dagster definitions"
	@echo "make bench   the figures that this project promises, one JSON line each"

demo: $(INSTALLED)
	$(BIN)/backfill demo

dev: $(INSTALLED)
	$(BIN)/backfill dev --sandbox

test: $(INSTALLED)
	$(BIN)/python -m pytest -n 2 --dist loadfile

# No lock file: it would name the registry it was made with. The versions are exact in package.json.
test-convex:
	@cd backfill_pipelines_tests/convex && \
	if ! command -v npm >/dev/null; then \
		echo "Skipped: Node.js 20.19 or newer is not here, and the tests of the Convex functions need it."; \
	elif ! npm install --no-package-lock --no-audit --no-fund --ignore-scripts --loglevel=error; then \
		echo "Skipped: npm could not install what the tests of the Convex functions need."; \
	else \
		npm test; \
	fi

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/dagster definitions validate --workspace workspace.yaml

bench: $(INSTALLED)
	$(BIN)/python -m benchmarks

# The marker is newer than the files it depends on only when the installation came to its end.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; name one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
