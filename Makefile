# Everything here works on a fresh machine without root: Python 3.11 or newer and make are enough.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
ARGS ?=

.PHONY: demo test check format bench-models bench-ingest lock clean

$(READY): requirements.lock pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(READY)          ## a simulated fleet wears out, orders open in time: ARGS="--headless --seconds 75 --report report.json"
	$(BIN)/forewarn-sim demo $(ARGS)

test: $(READY)          ## all tests; ARGS goes to pytest
	$(BIN)/python -m pytest $(ARGS)

check: $(READY)         ## lint, formatting, types, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench-models: $(READY)  ## speed of the models beside river, one JSON line
	$(BIN)/python tests/benchmarks/bench_models.py $(ARGS)

bench-ingest: $(READY)  ## from MQTT to committed rows, one JSON line
	$(BIN)/python tests/benchmarks/bench_ingest.py $(ARGS)

lock:                   ## refresh requirements.lock (needs uv): names, versions and hashes only
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --quiet --extra dev pyproject.toml -o requirements.lock

clean:
	rm -rf $(VENV) dist build .mypy_cache .ruff_cache .pytest_cache
