# make demo | test | lint | fuzz | test-tflite | test-newest | test-dut | bench | docs | constraints | clean. Each makes .venv as needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# What is installed is pinned; `make constraints` pins anew.
PINS := --constraint constraints.txt --build-constraint constraints.txt

.PHONY: demo test lint fuzz test-tflite test-newest test-dut test-dut-arm64-zoo bench docs constraints clean

# The audit of the recorded virtual device ends in 1 (non-compliant): its driver is out of tree. Any other code is a failure.
demo: $(VENV)/.run
	@$(BIN)/crosml-audit device --demo --bench-time quick; code=$$?; \
	echo "crosml-audit device --demo: exit code $$code (documented: 1, non-compliant)"; test $$code -eq 1

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n auto --dist worksteal --cov --cov-report=term:skip-covered --cov-fail-under=95

lint: $(VENV)/.dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

fuzz: $(VENV)/.dev
	$(BIN)/python -m pytest -n auto -m fuzz tests/fuzz

# The same tests on the other TFLite runtime, in an environment of its own (Python 3.10 or 3.11, numpy < 2).
test-tflite: .venv-tflite/.dev
	.venv-tflite/bin/python -m pytest -n auto tests/auditor/bench tests/auditor/inference tests/auditor/tflite tests/auditor/zoo tests/test_zoo_faults.py tests/test_golden.py

# The fast part of the tests on the newest version of every package: what breaks there is seen here first.
test-newest: .venv-newest/.dev
	.venv-newest/bin/python -m pytest -n auto tests/auditor/test_*.py tests/auditor/submission tests/reports tests/test_cli.py tests/test_imports.py

test-dut: $(VENV)/.dev
	$(BIN)/python -m pytest -m dut -n 2 -k 'not arm64.zoo' tests/dut

# The zoo on the emulated aarch64 device: one model takes a quarter of an hour, and no whole run was seen green yet.
test-dut-arm64-zoo: $(VENV)/.dev
	$(BIN)/python -m pytest -m dut -k 'arm64.zoo' tests/dut

bench: $(VENV)/.dev
	for each in benchmarks/*.py; do echo "== $$each"; $(BIN)/python $$each || exit 1; done
	if test -e .venv-tflite/.dev; then echo "== on tflite-runtime"; .venv-tflite/bin/python benchmarks/invoke.py; fi

docs: $(VENV)/.dev
	$(BIN)/python -m auditor.manual docs/checks
	$(BIN)/python -m fixtures.device_table docs/devices.md
	$(BIN)/python -m auditor.cli.man docs/crosml-audit.1

# For every Python at once, by markers.
constraints: $(VENV)/.dev
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.10 --no-annotate --no-emit-index-url --custom-compile-command 'make constraints' \
	  --extra litert --extra serve --group dev --output-file constraints.txt pyproject.toml

clean:
	rm -rf .venv .venv-tflite .venv-newest .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage*

%/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2])' || { echo "$(PYTHON) is older than 3.10: make PYTHON=python3.11 …"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "missing: python3-venv (apt-get install python3-venv)"; exit 1; }
	$(PYTHON) -m venv $*
	$@ -m pip install --quiet --constraint constraints.txt --upgrade pip

$(VENV)/.run: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet $(PINS) --editable '.[litert]'
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	@command -v cc >/dev/null || echo "missing: gcc (apt-get install gcc libc6-dev): the tests of delegates will be skipped"
	$(BIN)/python -m pip install --quiet $(PINS) --editable '.[litert]' --group dev
	touch $@ $(VENV)/.run

.venv-tflite/.dev: pyproject.toml constraints.txt | .venv-tflite/bin/python
	grep -v '^numpy==' constraints.txt >$(@D)/constraints.txt  # this runtime needs numpy 1, whose last version is out
	.venv-tflite/bin/python -m pip install --quiet $(subst constraints.txt,$(@D)/constraints.txt,$(PINS)) --editable '.[tflite-runtime]' --group dev
	touch $@

.venv-newest/.dev: FORCE | .venv-newest/bin/python
	.venv-newest/bin/python -m pip install --quiet --upgrade --upgrade-strategy eager --editable '.[litert]' --group dev pip

FORCE:
