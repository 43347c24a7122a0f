# The front door: `make help` lists the targets. uv is fetched into .tools/ where it is missing.
SHELL := /bin/bash
PACKAGES := $(sort $(notdir $(patsubst %/pyproject.toml,%,$(wildcard packages/*/pyproject.toml))))
PKGS = $(or $(PKG),$(PACKAGES))
UV := $(or $(shell command -v uv 2>/dev/null),.tools/uv/bin/uv)
RUN := $(UV) run --frozen --no-sync
# Container images often set this; without bytecode every `import torch` costs seconds more.
unexport PYTHONDONTWRITEBYTECODE
# One torch thread a worker: two workers on two cores, no fight over them.
PYTEST := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(RUN) pytest -n $(or $(JOBS),2) --dist worksteal -q

.DEFAULT_GOAL := help
.PHONY: help setup demo reproduce bench test-all test lint format typecheck build docs readmes lowest clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/\1|\2/' | awk -F'|' '{printf "  make %-12s %s\n", $$1, $$2}'
	@echo "  packages: $(PACKAGES)"

.tools/uv/bin/uv:
	@python3 -m venv .tools/uv || { echo "python3 -m venv failed: install python3-venv, or uv itself" >&2; exit 1; }
	@.tools/uv/bin/pip install --quiet --disable-pip-version-check uv

# uv compares .venv with uv.lock and every member in a tenth of a second: no stamp file knows better. Inexact, because
# the peers that `make bench` installed may stay.
setup: $(filter .tools/uv/bin/uv,$(UV))  ## make .venv with every package and the development tools
	@$(UV) sync --frozen --all-packages --group dev --inexact

demo: setup  ## every package at smoke scale (seconds each), then report/index.html
	@$(MAKE) --no-print-directory _reproduce SCALE=smoke

reproduce: setup  ## the papers' claims at laptop scale (minutes each), then the report; PKG=NAME for one, RESUME=1 goes on
	@$(MAKE) --no-print-directory _reproduce SCALE=laptop

.PHONY: _reproduce
_reproduce:
	@# what is done in seconds is too small for threads, which wait for one another on a busy machine
	@for package in $(PKGS); do \
	  out=report/runs/$(SCALE)/$$package; \
	  $(if $(RESUME),,rm -rf $$out;) \
	  echo "== $$package reproduce --scale $(SCALE)"; \
	  $(if $(filter smoke,$(SCALE)),OMP_NUM_THREADS=1 MKL_NUM_THREADS=1) $(RUN) $$package reproduce --scale $(SCALE) --out $$out; \
	  code=$$?; if [ $$code -gt 1 ] || [ ! -f $$out/result.json ]; then exit $$(( code ? code : 1 )); fi; \
	done
	@$(RUN) python -m shared_core.report $$(dirname report/runs/$(SCALE)/*/result.json) --out report/index.html

bench: setup  ## ours beside the peers, ratios with their spread; PKG=NAME for one
	@$(UV) sync --frozen --all-packages --all-groups --inexact --quiet
	@$(RUN) python -m shared_core.benchmark $(addprefix packages/,$(PKGS))

test-all: setup  ## every test, on two cores without a GPU
	$(PYTEST)

test: setup  ## the tests of one package: PKG=NAME (or shared-core)
	$(PYTEST) $(if $(filter shared-core,$(PKG)),shared-core/tests,packages/$(or $(PKG),$(error say PKG=NAME))/tests)

lint: setup  ## ruff: rules and format
	$(RUN) ruff check .
	$(RUN) ruff format --check .

format: setup  ## let ruff mend what it can
	$(RUN) ruff check --fix .
	$(RUN) ruff format .

typecheck: setup  ## mypy over every member, the core's tests and the contract tests
	$(RUN) mypy --num-workers $(or $(JOBS),2) shared-core/src shared-core/tests tests tools $(foreach package,$(PACKAGES),packages/$(package)/src)

build: setup  ## a wheel and an sdist of every member in dist/
	rm -rf dist
	$(UV) build --all-packages --out-dir dist --quiet
	@ls dist

docs: setup  ## the API reference from the docstrings: api/index.html, opens from disk
	$(RUN) python tools/api.py api

readmes: setup  ## the tables of all READMEs from what was measured (the last `make reproduce` and `make bench`)
	$(RUN) python tools/readmes.py --collect report/runs/laptop

lowest: setup  ## import and smoke reproduction with the oldest versions allowed (downloads gigabytes); PKG=NAME for one
	PATH="$(abspath $(dir $(UV))):$$PATH" tools/lowest.sh $(PKGS)

clean:  ## remove everything that was made here
	rm -rf .venv .tools api dist report runs .pytest_cache .mypy_cache .ruff_cache
