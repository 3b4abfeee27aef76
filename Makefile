# The interpreter that .venv is made from: Python 3.10, 3.11 or 3.12.
PYTHON ?= python3
VENV_PYTHON := .venv/bin/python

.PHONY: help env demo test lint clean

help:
	@echo 'make env    make .venv with the pinned packages (the first time compiles mmcv, 8 to 10 minutes)'
	@echo 'make demo   run tools/demo.py'
	@echo 'make test   run all tests'
	@echo 'make lint   run ruff, and mypy on the rooms of the owner'
	@echo 'make clean  delete build and test leftovers; .venv stays'
	@echo
	@echo 'PYTHON=/path/to/python3.11 chooses the Python that .venv is made from.'

env:
	@$(PYTHON) .dev_scripts/setup_env.py

demo: env
	$(VENV_PYTHON) tools/demo.py

test: env
	$(VENV_PYTHON) -m pytest tests

lint: env
	$(VENV_PYTHON) -m ruff check .
	$(VENV_PYTHON) -m mypy

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -path ./.venv -prune -o -name __pycache__ -type d -exec rm -rf {} +
