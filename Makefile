# Each target makes the environment in .venv when it is missing or out of date, and reuses it after.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-jax integrations soak lint docs dist bench bench-jax constraints clean

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check
# What the constraints must know beyond the extras: torch needs setuptools from Python 3.12 on.
ALSO_PINNED := setuptools
# What builds the package (build-system in pyproject.toml).
BUILDERS := hatchling hatch-fancy-pypi-readme hatch-vcs

help: ## Show this list
	@echo 'Nero: the commands of this checkout. Each makes $(VENV) first where it is missing.'
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo 'Another interpreter (3.11 or newer): make PYTHON=python3.12 TARGET'

# Installing compiles the CPU kernel; this does so again when its sources have changed. Without a
# compiler everything works, only slower.
KERNEL := src/nero/kernels/cpu/_cpu.so
KERNEL_SOURCES := $(addprefix src/nero/kernels/cpu/,build.py kernel.h lanes.h turn.h rounding.h kernel.cpp rows.cpp)
$(KERNEL): $(KERNEL_SOURCES) | $(STAMP)
	@$(BIN)/python src/nero/kernels/cpu/build.py || true
READY := $(STAMP) $(KERNEL)

# The package is built without isolation, so that its build too runs on pinned versions.
$(STAMP): pyproject.toml constraints.txt
	@if ! test -x $(BIN)/pip; then \
	  $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "error: '$(PYTHON)' is missing or older than Python 3.11; name a newer one: make PYTHON=python3.12" >&2; exit 1; }; \
	  $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	    echo "error: '$(PYTHON)' has no venv module; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }; \
	  echo 'Making $(VENV) with '"$$($(PYTHON) --version)"'.'; \
	  $(PYTHON) -m venv $(VENV); \
	fi
	@echo 'Installing the pinned packages into $(VENV); the first time this fetches torch (several GB) and takes minutes.'
	@$(PIP) install -qq -c constraints.txt $(BUILDERS)
	@$(PIP) install -qq -c constraints.txt --no-build-isolation -e '.[lab,models,paper,ray,dev,docs]'
	@touch $@

# What only the benchmark compares with.
BENCH_STAMP := $(VENV)/.installed-bench
$(BENCH_STAMP): $(STAMP)
	@$(PIP) install -qq -c constraints.txt --no-build-isolation -e '.[lab,bench]'
	@touch $@

demo: $(READY) ## Train 50- and 100-layer networks with Nero and its peers; writes runs/demo/report.html
	@$(BIN)/nero demo

# Not by default: tracing makes a run longer. CI has it.
test: $(READY) ## Run the tests on two processes; COVERAGE=yes: with the coverage of src/nero
	@$(BIN)/python -m pytest -n 2 $(if $(COVERAGE),--cov --cov-report=term)

# An environment of its own, since nero.optax has to work where torch is not installed.
JAX_VENV := .venv-jax
JAX_STAMP := $(JAX_VENV)/.installed
$(JAX_STAMP): pyproject.toml constraints.txt
	@test -x $(JAX_VENV)/bin/pip || $(PYTHON) -m venv $(JAX_VENV)
	@echo 'Installing JAX and its libraries into $(JAX_VENV), without torch.'
	@$(JAX_VENV)/bin/python -m pip --disable-pip-version-check install -qq -c constraints.txt $(BUILDERS)
	@$(JAX_VENV)/bin/python -m pip --disable-pip-version-check install -qq -c constraints.txt --no-build-isolation -e '.[dev-jax]'
	@touch $@

test-jax: $(JAX_STAMP) ## Run the tests and type checks of nero.optax, in $(JAX_VENV), without torch
	@$(JAX_VENV)/bin/pyright --pythonpath $(JAX_VENV)/bin/python -p tests/with_jax/pyrightconfig.json
	@$(JAX_VENV)/bin/python -m pytest tests/with_jax --confcutdir=tests/with_jax

# An environment of its own, that CI's other targets see what a user without these libraries has. It
# takes torch and the tools from $(VENV), by a line in a .pth file.
INTEGRATIONS_VENV := .venv-integrations
INTEGRATIONS_STAMP := $(INTEGRATIONS_VENV)/.installed
$(INTEGRATIONS_STAMP): $(STAMP)
	@test -x $(INTEGRATIONS_VENV)/bin/pip || $(BIN)/python -m venv $(INTEGRATIONS_VENV)
	@$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > \
	  $$($(INTEGRATIONS_VENV)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/torch.pth
	@echo 'Installing accelerate, Lightning, PEFT and timm into $(INTEGRATIONS_VENV).'
	@$(INTEGRATIONS_VENV)/bin/python -m pip --disable-pip-version-check install -qq -c constraints.txt --no-build-isolation -e '.[integrations]'
	@touch $@

# "write" writes the table of docs/how-to/libraries.md, "check" compares it.
NERO_TABLE ?= check
integrations: $(READY) $(INTEGRATIONS_STAMP) ## Run the tests in other libraries, in $(INTEGRATIONS_VENV)
	@$(BIN)/pyright --pythonpath $(INTEGRATIONS_VENV)/bin/python -p tests/integrations/pyrightconfig.json
	@NERO_TABLE=$(NERO_TABLE) $(INTEGRATIONS_VENV)/bin/python -m pytest -n 2 tests/integrations --confcutdir=tests/integrations

soak: $(READY) ## Fuzz for long, then train for 20 minutes and watch the memory
	@NERO_FUZZ_EXAMPLES=2000 $(BIN)/python -m pytest tests/test_operations.py -k every_step --timeout=3600
	@$(BIN)/python tests/soak.py --minutes 20

lint: $(READY) ## Check style, types and spelling, changing nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/codespell

docs: $(READY) ## Build the documentation into site/, warnings being errors
	$(BIN)/mkdocs build --strict --quiet
	@echo 'Built site/index.html.'

dist: $(READY) ## Build the sdist and both wheels into dist/, and check them as an index does
	@rm -rf dist && mkdir -p build
	@$(BIN)/python -m build --no-isolation --sdist --wheel >build/dist.log || { cat build/dist.log; exit 1; }
	@HATCH_BUILD_NO_HOOKS=true $(BIN)/python -m build --no-isolation --wheel >build/dist.log || { cat build/dist.log; exit 1; }
	@$(BIN)/twine check --strict dist/*

bench: $(READY) $(BENCH_STAMP) ## Measure an optimiser step against its peers; writes docs/evidence/benchmarks.md; 15 minutes
	@$(BIN)/nero bench --out docs/evidence --json runs/bench/benchmarks.json

bench-jax: $(JAX_STAMP) ## Measure a step of nero.optax against optax's; writes docs/evidence/benchmarks-jax.md; 5 minutes
	@mkdir -p build && $(JAX_VENV)/bin/python tests/with_jax/bench_step.py > build/benchmarks-jax.md
	@mv build/benchmarks-jax.md docs/evidence/benchmarks-jax.md

constraints: $(STAMP) ## Resolve every pin anew, under the oldest supported Python
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { \
	  echo 'error: pins are resolved under Python 3.11, so that they fit the newer ones: make the $(VENV) with it' >&2; exit 1; }
	@mkdir -p build
	@echo 'Resolving; nothing is installed.'
	@$(PIP) install -qq --dry-run --ignore-installed --no-build-isolation --report build/resolved.json -e '.[lab,models,paper,ray,bench,integrations,dev,docs,dev-jax]' $(ALSO_PINNED)
	@{ grep '^#' constraints.txt; $(BIN)/python -c 'import json; \
	  found = [item["metadata"] for item in json.load(open("build/resolved.json"))["install"]]; \
	  print(*sorted("{}=={}".format(m["name"].lower().replace("_", "-"), m["version"]) for m in found \
	    if m["name"] != "nero-optim"), sep="\n")'; } > build/constraints.txt
	@mv build/constraints.txt constraints.txt
	@git --no-pager diff --stat -- constraints.txt

clean: ## Remove what is built and cached; the environments and runs/ stay
	rm -rf $(KERNEL) build dist site htmlcov .coverage .coverage.* .pytest_cache .ruff_cache .hypothesis
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
