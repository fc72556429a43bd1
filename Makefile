# Each habit a target; bare `make` lists them.
.DEFAULT_GOAL := help
SHELL := /bin/bash
VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
export PATH := $(BIN):$(PATH)
TINY := images/build/tiny.qcow2

.PHONY: help
help: ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: setup
setup: ## install Debian and Python packages; quick when nothing changed
	@tools/setup.sh

$(TINY): images/tiny/build.sh | setup
	@images/tiny/build.sh $@

.PHONY: images
images: setup $(TINY) ## build the guest images

.PHONY: demo
demo: setup $(TINY) ## three hosts, four instances, and what the scheduler thought
	@python -m unkai_lab.demo --image $(TINY)

.PHONY: test
test: setup $(TINY) ## all tests: unit, contract, cluster, e2e
	@tools/test.sh

.PHONY: acceptance
acceptance: setup $(TINY) ## the full counts, with a table of what each acceptance line showed
	@python tests/acceptance.py

.PHONY: check
check: setup ## lint, types, imports, contracts, sizes
	ruff check .
	ruff format --check .
	mypy
	lint-imports --no-cache
	tools/check_proto.sh
	python tools/check_sizes.py

.PHONY: proto
proto: setup ## generate the Python code of the contracts
	@tools/generate_proto.sh

.PHONY: docs
docs: setup ## write docs/reference anew from the code
	@tools/references.sh

.PHONY: bench
bench: setup $(TINY) ## all benchmarks; each ends with one line of JSON
	@tools/bench.sh

.PHONY: lab-up
lab-up: setup $(TINY) ## bring a lab of three hosts up
	@unkai lab up --hosts 3

.PHONY: lab-down
lab-down: setup ## take the lab down, leaving nothing
	@unkai lab down
