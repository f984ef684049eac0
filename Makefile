# One word per chore. `make demo` and `make test` work on a fresh machine; what is missing is installed, said so.
.PHONY: help setup check install quick test cluster e2e soak demo down images crds lock bench-autoscale bench-gateway bench-serving
.DEFAULT_GOAL := help
export PATH := $(CURDIR)/.venv/bin:$(PATH)
PYTHON := .venv/bin/python
PYTEST := $(PYTHON) -m pytest

help:            ## this list
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 18

setup:           ## make .venv with the locked packages
	@local/setup.sh

check: setup     ## lint, format, types, layers
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

quick: setup     ## tests without a cluster
	$(PYTEST) -m "not cluster and not e2e"

cluster: install ## tests on a real control plane
	$(PYTEST) -m "cluster and not e2e"

e2e: install     ## tests with real pods
	$(PYTEST) -m e2e

test: check install  ## everything: lint, types, quick tests, control plane, pods
	$(PYTEST) -n $(or $(JOBS),3) --no-loadscope-reorder

install: setup   ## build Kubernetes and the images ahead of time, with progress
	$(PYTHON) -m local install
	$(PYTHON) -m local images build

soak: setup      ## what takes long: more histories, more churn; the output goes to docs/soak
	AX_SOAK=1 $(PYTEST) -m soak

demo: setup      ## a local Kubernetes, the operator, a model, an answer
	@$(PYTHON) -m local demo

down: setup      ## take the demo's cluster away, without a trace
	@$(PYTHON) -m local down --all

images: setup    ## build the images; with REGISTRY=… and `push`: for production, and push them (some: IMAGES=…, on a base of yours: BASE=…)
ifeq ($(filter push,$(MAKECMDGOALS)),push)
	$(PYTHON) -m local images push --registry $(or $(REGISTRY),$(error set REGISTRY=registry.example/team))$(if $(BASE), --base $(BASE)) $(IMAGES)
else
	$(PYTHON) -m local images build
endif

push: ; @:

crds: setup      ## write crds/ and the chart's copies from the models
	$(PYTHON) -m ax_operator crds

lock: setup      ## resolve locks/*.txt again
	local/lock.sh

bench-autoscale bench-gateway bench-serving: setup
	$(PYTHON) tests/bench/$(subst bench-,,$@).py
