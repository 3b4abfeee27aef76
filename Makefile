# The interpreter that .venv is made from: Python 3.10, 3.11 or 3.12.
PYTHON ?= python3
VENV_PYTHON := .venv/bin/python

.PHONY: help env demo test test-slow trials lint docs clean

# One thread a worker: torch's own threads would only wait for each other.
WORKERS ?= logical
PYTEST := OMP_NUM_THREADS=1 $(VENV_PYTHON) -m pytest -n $(WORKERS) --maxprocesses 8 --dist worksteal

help:
	@echo 'make env    make .venv with the pinned packages (the first time compiles mmcv, 8 to 10 minutes)'
	@echo 'make demo   run tools/demo.py'
	@echo 'make test   run the tests that every change has to pass: minutes'
	@echo 'make test-slow   run the others: packaging, short trainings, runs that are killed'
	@echo 'make trials   run what takes hours, or go on with it, and write docs/trials.md'
	@echo 'make lint   run ruff, and mypy on the rooms of the owner'
	@echo 'make docs   make the site, docs/_build/html/index.html'
	@echo 'make clean  delete build and test leftovers; .venv stays'
	@echo
	@echo 'WORKERS=4 sets the number of processes that run tests; else one a core, at most 8.'
	@echo "TRIALS='texts demo' names some of the trials; else all are run."
	@echo 'PYTHON=/path/to/python3.11 chooses the Python that .venv is made from.'

env:
	@$(PYTHON) .dev_scripts/setup_env.py

demo: env
	$(VENV_PYTHON) tools/demo.py

test: env
	$(PYTEST) -m 'not slow and not trial'

# A file stays with one worker, which then trains once for all its tests.
test-slow: env
	$(PYTEST) --dist loadfile -m 'slow and not trial'

trials: env
	$(VENV_PYTHON) tests/trials/run.py $(TRIALS)

lint: env
	$(VENV_PYTHON) -m ruff check .
	$(VENV_PYTHON) -m ruff format --check .
	$(VENV_PYTHON) -m mypy

docs: env
	$(VENV_PYTHON) -m sphinx -q -E -W --keep-going -d docs/_build/doctrees docs docs/_build/html

clean:
	rm -rf build dist docs/_build *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -path ./.venv -prune -o -name __pycache__ -type d -exec rm -rf {} +
