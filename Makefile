# make demo: sets all up, runs the main job.   make test: sets all up, passes the tests.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
UV := var/tools/bin/uv
export UV_LINK_MODE ?= hardlink
# OpenMP threads that spin while they wait slow whatever trains beside something else fifty-fold (docs/benchmarks.md)
export GOMP_SPINCOUNT ?= 3000
# Memory in large pages, kept for the next step, trains faster on a CPU (docs/decisions/0030-memory-of-processes-that-compute.md)
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=1073741824:glibc.malloc.trim_threshold=1073741824
# Without an NVIDIA GPU, say UV_TORCH_BACKEND=cpu to save 5 GB where PyTorch's own index can be reached.

.PHONY: setup demo test unit system integration faults cluster backends lint lock clean

setup: $(VENV)/.ready

$(UV):
	$(PYTHON) -m venv var/tools
	var/tools/bin/pip install --quiet --disable-pip-version-check uv

$(VENV)/.ready: requirements-cpu.txt pyproject.toml
	@$(PYTHON) deploy/preflight.py $(VENV)
	@$(MAKE) --no-print-directory $(UV)
	@echo "Installing packages: up to 3 GB to fetch and 7.6 GB on disk the first time"
	@test -x $(BIN)/python || $(UV) venv --quiet --python "$$($(PYTHON) -c 'import sys; print(sys.executable)')" $(VENV)
	$(UV) pip sync --quiet --compile-bytecode --python $(BIN)/python requirements-cpu.txt
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $@

demo: setup
	$(BIN)/loom demo $(if $(DOCS),--docs $(DOCS))

# Side by side, a core each: half of what tests of the stack do is to wait
SIDE_BY_SIDE := --numprocesses 2 --dist loadfile --no-loadscope-reorder

test: lint unit system

unit: setup
	$(BIN)/python -m pytest tests/unit $(SIDE_BY_SIDE)

system: setup
	$(BIN)/python -m pytest tests/integration tests/faults $(SIDE_BY_SIDE)

integration: setup
	$(BIN)/python -m pytest tests/integration $(SIDE_BY_SIDE)

faults: setup
	$(BIN)/python -m pytest tests/faults $(SIDE_BY_SIDE)

# Random faults on three brokers, twelve minutes: LOOM_TEST_SEED and LOOM_TEST_STORM_SECONDS make other and longer ones.
cluster: setup
	$(BIN)/python -m pytest tests/faults -m cluster -s

# Each trainer on the same rows: Unsloth beside our packages, Axolotl alone, since its pins are others. 15 GB, a quarter of an hour the first time.
UNSLOTH := var/unsloth/bin/python
AXOLOTL := var/axolotl/bin/axolotl
TESTS := pytest pytest-asyncio pytest-timeout pytest-xdist
$(UNSLOTH): requirements-gpu.txt
	$(UV) venv --quiet --clear --python "$$($(PYTHON) -c 'import sys; print(sys.executable)')" var/unsloth
	$(UV) pip install --quiet --python $@ --editable . $$(sed -n 's/^\(trl\|unsloth\|unsloth-zoo\|transformers\|peft\|torch\)==\([^ ]*\).*/\1==\2/p' requirements-gpu.txt) $(TESTS)
	@touch $@

$(AXOLOTL):
	$(UV) venv --quiet --clear --python "$$($(PYTHON) -c 'import sys; print(sys.executable)')" var/axolotl
	$(UV) pip install --quiet --python var/axolotl/bin/python axolotl==0.19.0

backends: setup $(UNSLOTH) $(AXOLOTL)
	LOOM_AXOLOTL=$(CURDIR)/$(AXOLOTL) $(BIN)/python -m pytest tests/integration/test_backends.py
	$(UNSLOTH) -m pytest tests/integration/test_backends.py -k unsloth

lint: setup
	$(BIN)/ruff check .
	$(BIN)/mypy

COMPILE := $(UV) pip compile --quiet --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --group dev
lock: $(UV)
	echo "torch==2.13.0" > var/overrides.txt
	$(COMPILE) --extra cpu --override var/overrides.txt pyproject.toml --output-file requirements-cpu.txt
	$(COMPILE) --extra gpu --only-binary vllm pyproject.toml --output-file requirements-gpu.txt

clean:
	rm -rf var $(VENV)
