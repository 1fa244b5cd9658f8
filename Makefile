# make test | test-thorough | test-tl4 | test-lm-eval | test-ray | test-matrix | coverage | audit | demo | lint | format | bench | gpu | notebooks | docs | docs-figures | clean:
# each sets up .venv when it is missing or out of date.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
WORKERS ?= 2

.PHONY: declare test test-thorough test-tl4 test-lm-eval test-ray test-matrix coverage audit demo lint format bench gpu notebooks docs docs-figures clean
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup -q
CORE   = $(PYTEST) -m "not lm_eval and not ray and not thorough"

test: $(STAMP)
	$(CORE)

# The same contracts on every architecture, more untrained models, all notebooks, and what takes long.
test-thorough: $(STAMP)
	$(PYTEST) -m thorough tests/contract tests/engines tests/figures tests/test_calibration.py tests/test_notebooks.py

# The same tests of models, architectures and the real model with TransformerLens 4, which has only Bridges. It is
# installed in a folder that precedes the main environment on PYTHONPATH; all else is reused. TL=latest takes the newest.
TL4   := build/tl4
TESTS4 = tests/models/test_block.py tests/models/test_blockwise.py tests/models/test_adapter.py tests/models/test_bridge.py \
         tests/models/test_travel.py tests/contract tests/real
test-tl4: $(TL4)/.installed-$(TL)
	PYTHONPATH=$(TL4) $(PYTEST) $(TESTS4)

$(TL4)/.installed-$(TL): $(STAMP) constraints-tl4.txt
	rm -rf $(TL4)
	$(BIN)/python -m pip install -q --no-deps --target $(TL4) $(if $(TL),transformer-lens,-r constraints-tl4.txt)
	touch $@

# The tests that need lm-evaluation-harness, in a separate folder, next to the main environment.
LM_EVAL := build/lm-eval
test-lm-eval: $(LM_EVAL)/.installed
	OMP_NUM_THREADS=1 PYTHONPATH=$(LM_EVAL) $(BIN)/python -m pytest -q -m lm_eval tests/studies/stages/test_benchmarks.py

$(LM_EVAL)/.installed: $(STAMP) constraints-lm-eval.txt
	rm -rf $(LM_EVAL)
	$(BIN)/python -m pip install -q --no-deps --target $(LM_EVAL) -r constraints-lm-eval.txt
	touch $@

# The tests of workers on a Ray cluster, likewise.
RAY := build/ray
test-ray: $(RAY)/.installed
	OMP_NUM_THREADS=1 PYTHONPATH=$(RAY) $(BIN)/python -m pytest -q -m ray tests/engines/test_on_ray.py

$(RAY)/.installed: $(STAMP) constraints-ray.txt
	rm -rf $(RAY)
	$(BIN)/python -m pip install -q --no-deps --target $(RAY) -r constraints-ray.txt
	touch $@

# Every architecture as each model class, with both versions.
test-matrix: export MECHICL_MATRIX = 1
test-matrix: $(STAMP)
	$(PYTEST) $(TESTS4)
	$(MAKE) test-tl4

# Branch coverage of mechicl/, with a floor of 90 %.
coverage: $(STAMP)
	$(CORE) --cov=mechicl --cov-branch \
	    --cov-report=term-missing:skip-covered --cov-fail-under=90

# Known vulnerabilities of the pinned dependencies; never fails; --strict says what could not be looked up.
audit: $(STAMP)
	-$(BIN)/python -m pip install -q -c constraints.txt pip-audit && $(BIN)/pip-audit -r constraints.txt --no-deps --disable-pip --strict

demo: $(STAMP)
	$(BIN)/mechicl demo --out mechicl-demo

lint: $(VENV)/.lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# After a change of what a study declares (switches, help, titles): the command line's list, the editors' stubs, and
# the documentation's pages with measured numbers.
declare: $(STAMP)
	$(BIN)/python docs/declare.py
	$(BIN)/python docs/measured.py

format: $(VENV)/.lint
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# torch first and by its exact version: left to the resolver, pip takes the newest build with gigabytes of CUDA.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt torch
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[test]"
	touch $@

$(VENV)/.lint: $(STAMP)
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[lint]"
	touch $@

bench: $(STAMP)
	$(BIN)/python benchmarks/label_words.py --queries 8
	$(BIN)/python benchmarks/label_words.py --model tiny-icl
	$(BIN)/python benchmarks/label_words.py --model tiny-icl --only study --queries 1000 --repeats 1
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/lesions.py
	$(BIN)/python benchmarks/neurons.py
	$(BIN)/python benchmarks/atlas.py
	$(BIN)/python benchmarks/forward.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/classes.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/classes.py --model tiny-icl
	$(BIN)/python benchmarks/real.py

# At most seven minutes on a machine with a GPU; PYTHON=python3 takes that machine's own libraries and makes no
# environment. GPU_ARGS names parts, or rehearses: GPU_ARGS="--device cpu --size tiny".
OUT ?= build/gpu
ifeq ($(origin PYTHON),command line)
gpu:
	$(PYTHON) benchmarks/gpu.py --out $(OUT) $(GPU_ARGS)
else
gpu: $(STAMP)
	$(BIN)/python benchmarks/gpu.py --out $(OUT) $(GPU_ARGS)
endif

notebooks: $(STAMP)
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[docs,notebook]"
	$(BIN)/python notebooks/execute.py

docs: $(VENV)/.docs
	$(BIN)/mkdocs build -q -f docs/mkdocs.yml
	@echo "open build/docs/index.html"

docs-figures: $(VENV)/.docs
	$(BIN)/python docs/examples.py
	$(BIN)/python docs/defects.py
	$(BIN)/python docs/drift.py
	$(BIN)/python docs/measured.py

$(VENV)/.docs: $(STAMP)
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[docs]"
	touch $@

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache dist build
