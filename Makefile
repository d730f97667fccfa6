# Everything a fresh clone needs: `make demo` and `make test` do all set-up themselves.
# PYTHON=... chooses the interpreter (3.11 to 3.13), ARGS="..." goes to the demo, DLQ_BROKERS=... uses your Kafka.

VENV := .venv
STAMP := $(VENV)/.installed
PREREQUISITES := python3 .ci/check_prerequisites.py

.PHONY: install test lint demo bench kafka-start kafka-stop clean

install: $(STAMP)

# --upgrade-strategy is pip's default (only-if-needed): a changed pyproject.toml costs seconds, not a new environment.
$(STAMP): pyproject.toml .ci/check_prerequisites.py
	@python="$$($(PREREQUISITES) --print-python)" && test -x $(VENV)/bin/python || "$$python" -m venv --clear $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $(STAMP)
