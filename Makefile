# Each habit a target; bare `make` lists them.
.DEFAULT_GOAL := help
SHELL := /bin/bash
VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
export PATH := $(BIN):$(PATH)
TINY := images/build/tiny.qcow2

.PHONY: help
help: ## list the targets
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## /{printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: setup
setup: ## install Debian and Python packages; quick when nothing changed
	@tools/setup.sh

.PHONY: image-tiny image-debian-12 images
image-tiny: setup ## build the guest image tiny; quick when its recipe has not changed
	@images/built.sh tiny
image-debian-12: setup ## build the guest image debian-12: minutes, the first time
	@images/built.sh debian-12
images: image-tiny image-debian-12 ## build all guest images

.PHONY: demo
demo: image-tiny ## three hosts, four instances, and what the scheduler thought
	@python -m unkai_lab.demo --image $(TINY)

.PHONY: test
test: images ## all tests: unit, contract, cluster, e2e
	@tools/test.sh

.PHONY: acceptance
acceptance: images ## the full counts, with a table of what each acceptance line showed
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
bench: image-tiny ## all benchmarks; each ends with one line of JSON
	@tools/bench.sh

.PHONY: lab-up
lab-up: image-tiny ## bring a lab of three hosts up
	@unkai lab up --hosts 3

.PHONY: lab-down
lab-down: setup ## take the lab down, leaving nothing
	@unkai lab down
