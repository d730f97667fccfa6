# Everything a fresh clone needs: `make demo` and `make test` do all set-up themselves.
# PYTHON=... chooses the interpreter (3.11 to 3.13), ARGS="..." is passed on, DLQ_BROKERS=... is a Kafka of yours.

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
KAFKA := deploy/kafka/kafka

.PHONY: install test lint demo bench crash kafka-start kafka-stop check-python check-kafka clean

install: check-python $(STAMP)

# An environment whose interpreter is gone is made anew.
$(STAMP): pyproject.toml
	@$(BIN)/python -c '' 2>/dev/null || "$$(.ci/find-python)" -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $(STAMP)

demo: check-kafka install
	@$(BIN)/dlq-stream demo $(ARGS)

bench: check-kafka install
	@$(BIN)/python -m tests.benchmarks $(ARGS)

crash: check-kafka install
	@$(BIN)/python -m tests.crash $(ARGS)

test: install
	@$(BIN)/python .ci/run_tests.py $(ARGS)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy $(KAFKA) .ci/run_tests.py tests/typing/api.py
	$(BIN)/lint-imports

kafka-start kafka-stop: kafka-%: check-python
	@"$$(.ci/find-python)" $(KAFKA) $*

# What is missing is said before anything is installed.
check-python:
	@.ci/find-python >/dev/null

check-kafka: check-python
ifeq ($(DLQ_BROKERS)$(DLQ_CONFIG)$(findstring --brokers,$(ARGS))$(findstring --config,$(ARGS)),)
	@"$$(.ci/find-python)" $(KAFKA) check >/dev/null
endif

clean:
	-@"$$(.ci/find-python)" $(KAFKA) wipe
	rm -rf $(VENV) build dist *.egg-info .coverage .mypy_cache .ruff_cache .pytest_cache .reports
