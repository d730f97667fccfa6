# Everything a fresh clone needs: `make demo` and `make test` do all set-up themselves.
# PYTHON=... chooses the interpreter (3.11 to 3.13), ARGS="..." goes to the demo, DLQ_BROKERS=... is your own Kafka.

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
KAFKA := deploy/kafka/kafka

.PHONY: install test lint demo bench kafka-start kafka-stop kafka-check clean

install: $(STAMP)

# The interpreter that made the environment may be gone since: then the environment is made anew.
$(STAMP): pyproject.toml
	@python=$$(.ci/find-python) || exit 2; $(BIN)/python -c '' 2>/dev/null || "$$python" -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $(STAMP)

# Before anything is installed: what a Kafka of our own needs, unless the brokers are given.
kafka-check:
	@python=$$(.ci/find-python) || exit 2; case "$(DLQ_BROKERS) $(ARGS)" in " "*--brokers* | [!\ ]*) ;; \
		*) "$$python" $(KAFKA) check >/dev/null ;; esac

demo: kafka-check install
	$(BIN)/dlq-stream demo $(ARGS)

bench: kafka-check install
	$(BIN)/python -m tests.benchmarks $(ARGS)

test: install
	$(BIN)/python .ci/run_tests.py $(ARGS)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy $(KAFKA)
	$(BIN)/lint-imports

kafka-start: install
	$(BIN)/python $(KAFKA) start

kafka-stop: install
	$(BIN)/python $(KAFKA) stop

clean:
	$(KAFKA) wipe
	rm -rf $(VENV) build dist *.egg-info .coverage .mypy_cache .ruff_cache .pytest_cache .reports
