# make demo | test | lint | fuzz | test-tflite | test-dut | bench | docs | clean. Each makes .venv as needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint fuzz test-tflite test-dut bench docs clean

# The audit of the recorded virtual device ends in 1 (non-compliant): its driver is out of tree. Any other code is a failure.
demo: $(VENV)/.run
	@$(BIN)/crosml-audit device --demo --bench-time quick; code=$$?; \
	echo "crosml-audit device --demo: exit code $$code (documented: 1, non-compliant)"; test $$code -eq 1

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n auto --cov --cov-report=term:skip-covered
	$(BIN)/coverage report --include='auditor/engine.py,checks/*,auditor/facts/*' --fail-under=95

lint: $(VENV)/.dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

fuzz: $(VENV)/.dev
	$(BIN)/python -m pytest -n auto -m fuzz tests/fuzz

# The same tests on the other TFLite runtime, in an environment of its own (Python 3.10 or 3.11, numpy < 2).
test-tflite: .venv-tflite/.dev
	.venv-tflite/bin/python -m pytest -n auto tests/auditor/inference tests/auditor/zoo tests/test_zoo_faults.py tests/test_golden.py

test-dut: $(VENV)/.dev
	$(BIN)/python -m pytest -m dut -n 2 tests/dut

bench: $(VENV)/.dev
	for each in benchmarks/*.py; do echo "== $$each"; $(BIN)/python $$each || exit 1; done
	if test -e .venv-tflite/.dev; then echo "== on tflite-runtime"; .venv-tflite/bin/python benchmarks/invoke.py; fi

docs: $(VENV)/.dev
	$(BIN)/python -m auditor.manual docs/checks

clean:
	rm -rf .venv .venv-tflite .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage*

%/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2])' || { echo "$(PYTHON) is older than 3.10: make PYTHON=python3.11 …"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "missing: python3-venv (apt-get install python3-venv)"; exit 1; }
	$(PYTHON) -m venv $*
	$@ -m pip install --quiet --upgrade pip

$(VENV)/.run: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[litert]'
	touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	@command -v cc >/dev/null || echo "missing: gcc (apt-get install gcc libc6-dev): the tests of delegates will be skipped"
	$(BIN)/python -m pip install --quiet --editable '.[litert]' --group dev
	touch $@ $(VENV)/.run

.venv-tflite/.dev: pyproject.toml | .venv-tflite/bin/python
	.venv-tflite/bin/python -m pip install --quiet --editable '.[tflite-runtime]' --group dev
	touch $@
