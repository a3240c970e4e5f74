# Needs Python 3.10+ and the package index, nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PINS := pyproject.toml $(wildcard requirements/*.txt)
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
PIP := $(BIN)/python -m pip install --disable-pip-version-check --quiet
JOBS ?= 2

.PHONY: setup extras demo test lint bench clean

setup: $(STAMP)

# The stamp is newer than every file that declares a dependency, or the installation runs again.
$(STAMP): $(PINS)
	@test -x $(BIN)/python || { echo "Creating $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@$(BIN)/python -c 'import sys; sys.exit("Python 3.10 or newer is needed, this is " + sys.version) if sys.version_info < (3, 10) else None'
	@echo "Installing torch"
	@$(PIP) -r requirements/torch.txt
	@echo "Installing egoagent and its development tools"
	@$(PIP) -c requirements/torch.txt -e '.[dev]'
	@echo "Installing projectaria-tools without its viewers"
	@$(PIP) --no-deps "$$(grep '^projectaria-tools' requirements/full_env.txt)" \
	  || echo "projectaria-tools has no wheel for this Python or machine: VRS files cannot be read, their tests are skipped"
	@touch $@

# The optional packages that install without a GPU. Tests that need one of them are skipped where it is missing.
extras: setup
	@echo "Installing deepspeed and smplx"
	@$(PIP) -c requirements/torch.txt -e '.[deepspeed,smplx]'

demo: setup
	$(BIN)/egoagent demo

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m mypy

test: lint
	$(ONE_THREAD) $(BIN)/python -m pytest -n $(JOBS) --dist loadfile

bench: setup
	@set -e; for script in benchmarks/*.py; do echo "== $$script"; $(ONE_THREAD) $(BIN)/python $$script; done

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
