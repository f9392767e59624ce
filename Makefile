# Everything here works on a fresh machine without root: Python 3.11 or newer and make are enough.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
ARGS ?=

DATA ?= ../shared/data

.PHONY: demo test check format bench-models bench-figures bench-budget bench-faults bench-findings bench-vibration \
	bench-ingest bench-stores chaos state-machine last-part powercut docs-images lock clean

$(READY): requirements.lock pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(READY)          ## a simulated fleet wears out, orders open in time: ARGS="--headless --seconds 75 --report report.json"
	$(BIN)/forewarn-sim demo $(ARGS)

test: $(READY)          ## all tests, four at a time (most of them wait); ARGS goes to pytest
	$(BIN)/python -m pytest -n 4 --dist worksteal $(ARGS)

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

bench-figures: $(READY) ## the models on real histories beside what is to be reached, one JSON line; DATA names their folder
	$(BIN)/python tests/benchmarks/bench_figures.py --data $(DATA) $(ARGS)

bench-budget: $(READY)  ## false alarms of 200 healthy simulated machines over a year, one JSON line (minutes)
	OMP_NUM_THREADS=1 $(BIN)/python tests/benchmarks/bench_budget.py $(ARGS)

bench-faults: $(READY)  ## failure modes and signals named rightly on simulated faults, one JSON line
	OMP_NUM_THREADS=1 $(BIN)/python tests/benchmarks/bench_faults.py $(ARGS)

bench-findings: $(READY) ## what technicians' findings teach the diagnosis, one JSON line
	OMP_NUM_THREADS=1 $(BIN)/python tests/benchmarks/bench_findings.py $(ARGS)

bench-vibration: $(READY) ## speed of the features of waveforms, one JSON line
	OMP_NUM_THREADS=1 $(BIN)/python tests/benchmarks/bench_vibration.py $(ARGS)

bench-ingest: $(READY)  ## from MQTT to committed rows, thousands of nodes, an agent that catches up; one JSON line (ARGS="--quick")
	$(BIN)/python -m tests.benchmarks.bench_ingest $(ARGS)

chaos: $(READY)         ## 8 minutes of kills and broken links, then a comparison, one JSON line: ARGS="--seed 7 --seconds 600"
	$(BIN)/python -m tests.faults.chaos.run $(ARGS)

.PHONY: chaos-reconnect
chaos-reconnect: $(READY) ## a thousand agents come back after the broker was away
	FOREWARN_RECONNECTING_CLIENTS=1000 $(BIN)/python -m pytest -s tests/faults/test_chaos_reconnect.py $(ARGS)

.PHONY: outages
outages: $(READY)       ## a database away for a minute, a link that flaps for five: faults 24 and 11 at full length
	FOREWARN_FULL_LENGTH=1 $(BIN)/python -m pytest tests/faults/test_cloud_database.py tests/faults/test_uplink_link.py \
		-k "fault_24 or fault_11" --timeout 1200 $(ARGS)

state-machine: $(READY) ## many more fates of messages than `make test` tries, each compared with plain delivery (minutes)
	FOREWARN_STATE_MACHINE_EXAMPLES=2000 FOREWARN_STATE_MACHINE_STEPS=40 \
		$(BIN)/python -m pytest tests/faults/test_ingest_state_machine.py --timeout 7200 $(ARGS)

last-part: $(READY)     ## 1,000 times 16 writers race for the last parts, one JSON line; ARGS="URL" races on that database
	$(BIN)/python -m tests.faults.last_part --runs 1000 --writers 16 $(ARGS)

bench-stores: $(READY)  ## telemetry stores: bytes a value, reading, a year in a chart, writing, one JSON line; DATA has FD001
	$(BIN)/python tests/benchmarks/bench_stores.py --data $(DATA) $(ARGS)

powercut: $(READY)      ## the power goes 300 times while a spool works: nothing lost, one JSON line
	$(BIN)/python -m tests.faults.powercut.run $(ARGS)

docs-images: $(READY)   ## the pictures of docs/models.md: a simulated pump, and an engine of FD001 that the model had not seen
	rm -rf build/docs-images
	$(BIN)/forewarn-sim generate run-to-failure --out build/docs-images/simulated
	$(BIN)/forewarn-cloud plot build/docs-images/simulated/centrifugal_pump --asset pump-003 --out docs/images/pump-history.png
	$(BIN)/forewarn-cloud fit $(DATA)/cmapss-fd001-train --assets 'engine-0[0-4]?' --assets engine-050 --out build/docs-images/model
	$(BIN)/forewarn-cloud plot $(DATA)/cmapss-fd001-train --model build/docs-images/model --asset engine-051 \
		--out docs/images/engine-history.svg

lock:                   ## refresh requirements.lock (needs uv): names, versions and hashes only
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --quiet --extra dev pyproject.toml -o requirements.lock

clean:
	rm -rf $(VENV) dist build .mypy_cache .ruff_cache .pytest_cache
