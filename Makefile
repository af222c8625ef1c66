# make demo   a leaderboard from a bare machine (Python 3.11+ and make are enough)
# make test   all quick tests     make slow   the slow ones     make lint types bench docs gate wheel-check
# make newest minima   the demo with the newest version of every dependency, and with the smallest that is declared
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
DEMO   ?=
TESTS  ?= tests

.PHONY: demo test slow lint types bench docs gate leaderboards wheel-check newest minima clean

demo: $(VENV)/.base
	$(BIN)/xaibench run shapes --quick $(DEMO)

test: $(VENV)/.test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 $(TESTS)

slow: $(VENV)/.test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m slow $(TESTS)

lint: $(VENV)/.lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# mypy reads the installed package: it cannot see through the import hook of an editable install
types: $(VENV)/.lint
	rm -rf build/typed build/lib build/bdist.* &&  $(PIP) --no-deps --no-build-isolation --target build/typed .
	cd build/typed && ../../$(BIN)/mypy --config-file ../../pyproject.toml --python-executable ../../$(BIN)/python xaibench

bench: $(VENV)/.test
	$(BIN)/python -m pytest tests/benchmarks -o python_files='bench_*.py' -o python_functions='bench_*' --benchmark-enable --benchmark-columns=min,median,rounds -s

# every page and picture that is made from what is committed
docs: $(VENV)/.test
	for script in cards figures kur correlations; do $(BIN)/python docs/scripts/make_$$script.py || exit 1; done

# the committed tables, from scratch
leaderboards: $(VENV)/.base
	for suite in shapes shapes-full; do \
	  rm -rf build/leaderboards/$$suite && \
	  $(BIN)/xaibench run $$suite --out build/leaderboards/$$suite --device cpu && \
	  cp build/leaderboards/$$suite/leaderboard.csv leaderboards/$$suite.csv && \
	  cp build/leaderboards/$$suite/leaderboard.md leaderboards/$$suite.md && \
	  cp build/leaderboards/$$suite/scores.csv leaderboards/$$suite.scores.csv || exit 1; \
	done

# the quick part of the suite against the committed table; docs/compare.md says why 0.005
gate: $(VENV)/.base
	rm -rf build/gate
	OMP_NUM_THREADS=1 $(BIN)/xaibench run shapes --quick --out build/gate --device cpu --progress plain
	$(BIN)/xaibench compare leaderboards/shapes.csv build/gate --exact 0.005 --allow-missing

# the wheel, alone in a clean environment, away from the checkout
wheel-check: $(VENV)/.test
	rm -rf build/wheel build/lib build/bdist.* && $(BIN)/python -m build --wheel --outdir build/wheel . >/dev/null
	rm -rf build/clean && $(PYTHON) -m venv build/clean
	build/clean/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	build/clean/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt build/wheel/*.whl
	cd build/clean && bin/xaibench list methods && bin/xaibench list suites && bin/xaibench validate shapes

# as a user installs it, without constraints.txt; DEMO="--limit 16" keeps it short
newest minima:
	rm -rf build/$@ && $(PYTHON) -m venv build/$@
	build/$@/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[all]' $(PINS)
	build/$@/bin/python -m pip list --disable-pip-version-check
	build/$@/bin/xaibench run shapes --quick --out build/$@/run --progress plain $(DEMO)
	build/$@/bin/xaibench explain docs/images/leaderboard.png --model shapes-resnet --method cam -o build/$@/explained.png

minima: PINS = $(shell $(PYTHON) .ci/minima.py)

$(VENV)/.base: constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed; try make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(PIP) setuptools
	$(PIP) --no-build-isolation --editable .
	touch $@

$(VENV)/.test: $(VENV)/.base
	$(PIP) --no-build-isolation --editable '.[test]'
	touch $@

$(VENV)/.lint: $(VENV)/.base
	$(PIP) --no-build-isolation --editable '.[lint]'
	touch $@

clean:
	rm -rf build dist $(VENV) .pytest_cache .mypy_cache .ruff_cache *.egg-info
