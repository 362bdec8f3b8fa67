# Everything a contributor needs. `make help` lists it.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

# make run FOR=30 ends 30 s after the dashboard is up; without FOR it goes on until Ctrl-C
FOR ?=
N ?= 500000
PORT ?= 8866
DATA ?= data/public
# of the benchmark that is run, such as OPTIONS='--only synthetic --seeds 1' for bench-detection
OPTIONS ?=
# that bench-against measures beside this tree
REV ?= HEAD
# make soak KILL=20 kills the service about every 20 s; 0 never
MINUTES ?= 30
KILL ?= 0
# for every Python and system, pinned and with hashes; names, versions and hashes only
RESOLVED := --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url \
  --no-emit-find-links --quiet
# Or every process, and there are hundreds in the tests, would compile every module that it imports
unexport PYTHONDONTWRITEBYTECODE
# JupyterLab refuses to run as root, as one does in a container, unless told
AS_ROOT := $(if $(filter 0,$(shell id -u)),--allow-root)

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: setup
setup: $(INSTALLED) ## Make .venv from the lock and install the package into it

$(INSTALLED): requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { \
	  echo "There is no $(PYTHON). Install Python 3.11 or newer, or name one: make setup PYTHON=…"; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Aegis needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V). Name another: make setup PYTHON=python3.12"; exit 2; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "$(PYTHON) cannot make virtual environments. On Debian and Ubuntu: apt install python3-venv"; exit 2; }
	@echo "Installing into $(VENV) (a few minutes with an empty cache) …"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

.PHONY: run
run: setup ## Generate, train, evaluate, simulate and show it live (FOR=seconds, N=transactions, PORT=8866)
	@exec $(BIN)/aegis up --transactions $(N) --port $(PORT) $(if $(FOR),--for $(FOR))

.PHONY: dashboard
dashboard: setup ## Serve the dashboard alone (PORT=8866)
	@exec $(BIN)/aegis dashboard --port $(PORT) $(if $(FOR),--for $(FOR))

.PHONY: lab
lab: setup ## Open the notebooks in JupyterLab
	@exec $(BIN)/jupyter lab --ServerApp.ip=127.0.0.1 --ServerApp.root_dir=notebooks $(AS_ROOT)

.PHONY: kernels
kernels: setup ## Compile what scoring needs, most of a minute, before many processes each do it
	@$(BIN)/python -c "from aegis_core.serving.warming import compile_all; compile_all()"

.PHONY: test
test: lint kernels ## Lint, types and all tests
	@$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not nginx"

.PHONY: setup-fast
setup-fast: ## Make the environment of test-fast (PYTHON=python3.13)
	@PIP_COMPILE=0 $(MAKE) --silent kernels VENV=.venv-$(notdir $(PYTHON))

.PHONY: test-fast
test-fast: setup-fast ## Test a part on another Python (PYTHON=python3.13), in an environment of its own
	@.venv-$(notdir $(PYTHON))/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m fast \
	  $$(grep -rl --include='*.py' 'mark\.fast' tests | sort)

.PHONY: test-proxy
test-proxy: setup ## Test the proxy's configuration of docs/deploy.md (needs nginx and openssl)
	@$(BIN)/python -m pytest -m nginx tests/serving/test_proxy.py

.PHONY: lint
lint: setup ## Check style, format and types
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy

.PHONY: format
format: setup ## Put code and notebooks into the agreed form
	@$(BIN)/ruff check --fix-only
	@$(BIN)/ruff format

.PHONY: bench
bench: setup ## Measure speed and memory
	@$(BIN)/python benchmarks/throughput.py

.PHONY: bench-live
bench-live: setup ## Measure the running service beside the usual stack, with wrk (OPTIONS=--help)
	@$(BIN)/python benchmarks/live.py $(OPTIONS)

.PHONY: soak
soak: setup ## Load the service for MINUTES=30, look for lost verdicts and growing memory (KILL=seconds)
	@$(BIN)/python benchmarks/soak.py --minutes $(MINUTES) --kill $(KILL) $(OPTIONS)

.PHONY: bench-dashboard
bench-dashboard: setup ## Measure the dashboard in a browser (OPTIONS=--help)
	@$(BIN)/python benchmarks/dashboard.py $(OPTIONS)

.PHONY: bench-detection
bench-detection: setup ## Measure detection without labels (DATA=folder of handbook.parquet, sparkov.parquet; OPTIONS=--help)
	@$(BIN)/python benchmarks/detection.py --data $(DATA) $(OPTIONS)

.PHONY: bench-drift
bench-drift: setup ## Measure how soon drift is found, and false alarms (DATA=folder of handbook.parquet; OPTIONS=--help)
	@$(BIN)/python benchmarks/drift.py --data $(DATA) $(OPTIONS)

.PHONY: attack
attack: setup ## Make every try against it again: held or broken (OPTIONS='--only tests', or detection)
	@$(BIN)/python benchmarks/attack.py $(OPTIONS)

.PHONY: fuzz
fuzz: setup ## Play sender, analyst, crash and restart in any order for MINUTES=30 (OPTIONS='--seed 7' plays one again)
	@$(BIN)/python tests/serving/fuzz.py --minutes $(MINUTES) $(OPTIONS)

.PHONY: bench-against
bench-against: setup ## Measure this tree against another revision, in turn (REV=d22a226; OPTIONS=--help)
	@$(BIN)/python benchmarks/against.py $(REV) $(if $(wildcard $(DATA)/handbook.parquet),--file $(DATA)/handbook.parquet) $(OPTIONS)

.PHONY: bench-peers
bench-peers: .venv-bench/.installed ## The same with other people's detectors and the learner, in an environment of their own
	@PYTHONPATH=. .venv-bench/bin/python benchmarks/detection.py --data $(DATA) --peers --learner $(OPTIONS)

.venv-bench/.installed: benchmarks/requirements.lock
	@echo "Installing into .venv-bench (a few minutes with an empty cache) …"
	@test -x .venv-bench/bin/python || $(PYTHON) -m venv .venv-bench
	@.venv-bench/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r benchmarks/requirements.lock
	@touch $@

.PHONY: bench-lock
bench-lock: ## Resolve other people's detectors anew, beside requirements.lock (needs uv)
	uv pip compile pyproject.toml --extra bench --constraints requirements.lock $(RESOLVED) \
	  --output-file benchmarks/requirements.lock

.PHONY: notebooks-strip
notebooks-strip: setup ## Remove outputs from the notebooks, except the kept ones
	@$(BIN)/nbstripout --keep-count --keep-id --extra-keys "metadata.language_info.version" notebooks/*.ipynb

.PHONY: lock
lock: ## Resolve the dependencies anew: with the tools, and without for those who only run it (needs uv)
	uv pip compile pyproject.toml --extra dev $(RESOLVED) --output-file requirements.lock
	uv pip compile pyproject.toml --constraints requirements.lock $(RESOLVED) \
	  --output-file requirements-run.lock

.PHONY: wheel
wheel: setup ## Build the wheel into dist/
	@$(BIN)/python -m hatchling build -t wheel

.PHONY: clean
clean: ## Remove the environment and the caches; data and reports stay
	@rm -rf .venv .venv-* dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@find aegis_core tests notebooks benchmarks -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true
