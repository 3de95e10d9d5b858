# Each target makes its own environment in .venv from pyproject.toml and constraints.txt; only Python >= 3.11 and pip
# are needed. The stamp file lets a second run start at once. PYTHON=... chooses the interpreter.

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PEERS_READY := $(VENV)/.peers
# Tests and benchmarks compare with them. Installed without dependencies: torchattacks would bring torchvision and an
# old requests.
PEERS := torchattacks foolbox eagerpy adversarial-robustness-toolbox adv-lib \
	GitPython gitdb smmap six tqdm requests certifi charset-normalizer idna urllib3

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help demo test lint bench clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-7s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(READY) ## phantoms to a guarded diagnosis and a report, in runs/demo (DATA=chest-xray:PATH for real images)
	$(BIN)/medaegis demo --out runs/demo $(if $(DATA),--data "$(DATA)")

test: $(PEERS_READY) ## all tests, two at a time; the engine against other libraries too
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

lint: $(READY) ## style, formatting and strict types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict src

bench: $(PEERS_READY) ## speed against bare inference and against other libraries; results in benchmarks/results
	$(BIN)/python -m benchmarks

clean: ## remove the environment, caches and builds (runs/ stays)
	rm -rf $(VENV) build dist .pytest_cache .hypothesis .mypy_cache .ruff_cache
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

# `python -m venv` needs ensurepip, which some systems package apart; then the system's own pip fills the environment.
$(READY): pyproject.toml constraints.txt
	@if ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
		rm -rf $(VENV); found=; \
		for python in $(or $(PYTHON),python3 python3.11 python3.12 python3.13 python3.14 python); do \
			if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then found=$$python; break; fi; \
		done; \
		if [ -z "$$found" ]; then \
			echo "No Python >= 3.11 found (tried: $(or $(PYTHON),python3, python3.11 to python3.14, python))." >&2; \
			echo "Install one, or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; exit 1; \
		fi; \
		echo "Making $(VENV) with $$found ($$($$found --version))"; \
		$$found -m venv $(VENV) >/dev/null 2>&1 || { \
			rm -rf $(VENV) && $$found -m venv --without-pip $(VENV) && \
			$$found -m pip --python $(VENV)/bin/python install --quiet pip; } || { \
			echo "$$found can make no environment: it has neither ensurepip nor pip >= 22.3; install its venv package." >&2; \
			rm -rf $(VENV); exit 1; }; \
	fi
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

$(PEERS_READY): $(READY)
	$(BIN)/python -m pip install --quiet --no-deps -c constraints.txt $(PEERS)
	@touch $@
