# make race: the main job; make test: the test suite. Both make .venv first, with everything as pinned in constraints.txt.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
PIN := -c constraints.txt

.PHONY: race test lint format bench calibrate pages freeze clean

race: $(VENV)/.race
	$(BIN)/thalweg race

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n 3 --dist worksteal --durations 15

lint: $(VENV)/.dev
	$(BIN)/ruff check src tests benchmarks examples
	$(BIN)/ruff format --check src tests benchmarks examples
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff check --fix src tests benchmarks examples
	$(BIN)/ruff format src tests benchmarks examples

bench: $(VENV)/.dev
	$(BIN)/python benchmarks/optim.py --size 14m 60m

calibrate: $(VENV)/.dev
	$(BIN)/python benchmarks/calibration.py

# After a new update rule or a new result: the tables of docs/optimizers.md.
pages: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m thalweg.report.rule_page docs/optimizers.md

freeze: $(VENV)/.dev
	{ head -1 constraints.txt; $(PIP) freeze --exclude-editable | sed 's/+cpu//'; } > constraints.new && mv constraints.new constraints.txt

clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .mypy_cache .hypothesis

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV) || { echo "this needs Python 3.11 or newer with venv; on Debian: apt-get install python3-venv" >&2; exit 1; }

$(VENV)/.race: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) install --quiet $(PIN) -e '.[race]'
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) install --quiet $(PIN) -e '.[dev]'
	$(PIP) install --quiet $(PIN) --no-deps timm  # as a whole it needs torchvision; its optimizers don't
	@touch $(VENV)/.race $@
