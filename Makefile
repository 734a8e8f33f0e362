# Everything is installed into .venv inside the repository; nothing else on the machine changes.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install -q -c constraints.txt
CORE := $(VENV)/.core-installed
DEV := $(VENV)/.dev-installed

.PHONY: demo test test-long test-web check format bench mutants install clean

install: $(CORE)

# torch is installed first and by exact version: newer versions depend on CUDA packages of several GB.
$(CORE): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -c "import torch" 2>/dev/null || $(PIP) "$$(grep '^torch==' constraints.txt)"
	$(PIP) -e ".[fast]"
	touch $@

$(DEV): $(CORE)
	$(PIP) -e ".[dev,fast,plots,parquet,log,freeda,onnx,openvino,serve,video,translate,scale,s3]"
	touch $@

demo: $(CORE)
	$(BIN)/python examples/demo.py --out demo_out

test: $(DEV)
	$(BIN)/python -m pytest -q -m "not long and not web"

test-long: $(DEV)
	$(BIN)/python -m pytest -q -m "long and not web"

# The page in a real browser: Chromium of the system, installed with apt-get where that is allowed.
test-web: $(DEV)
	$(BIN)/python -c "import axe_playwright_python, playwright" 2>/dev/null || $(PIP) -e ".[web]"
	$(BIN)/python tests/helpers/chromium.py
	$(BIN)/python -m pytest -q -m web tests/web

check: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(DEV)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(DEV)
	$(BIN)/talk2dino bench

# Not part of `make test`: up to an hour on two cores. It can be stopped; the next call goes on.
mutants: $(DEV)
	$(BIN)/python -c "import mutmut.configuration" 2>/dev/null || $(PIP) mutmut==3.8.1
	$(BIN)/python benchmarks/mutants.py

clean:
	rm -rf build dist demo_out out .pytest_cache .ruff_cache .mypy_cache
