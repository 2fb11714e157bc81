# Everything from a fresh clone with Python 3.11 and nothing else: `make demo`, `make test`.
PYTHON ?= python3
BIN := .venv/bin
RUNS := runs

.PHONY: install demo test test-web check docs bench trials clean

install: .venv/installed

.venv/installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) \
		and "actseq needs Python 3.11 or newer: make install PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	$(BIN)/python -c 'from actseq.vocoders.phase import compile_loops; compile_loops()'
	touch $@

# Four minutes on two cores: a synthesised drum machine, all stages, new one-shots, a report.
demo: install
	$(BIN)/actseq drumkit $(RUNS)/demo-sounds
	$(BIN)/actseq run $(RUNS)/demo-sounds --preset drumkit --run $(RUNS)/demo
	$(BIN)/actseq report $(RUNS)/demo

# Two processes with one thread each; the tests of a file stay together, since they share trained runs.
test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

# The pages of `explore` and `report` in a headless Chromium: an installed one, or the one that ACTSEQ_CHROMIUM names.
test-web: install
	$(BIN)/python -m pytest tests/web

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# The tables of keys in docs/configs.md, from the code.
docs: install
	$(BIN)/python docs/keys.py

bench: install
	$(BIN)/python tests/benchmarks/bench.py

# Trials that take too long for the tests, on their own: `make trials`; some need root.
trials: install
	$(BIN)/python tests/trials/trials.py

clean:
	rm -rf .venv site dist .mypy_cache .ruff_cache .pytest_cache
