# What a newcomer types: `make demo`, `make test`. Both do their whole set-up on a fresh Debian machine.
SHELL := /bin/bash
VENV := .venv
PY := $(VENV)/bin/python
BPF_OBJECTS := src/stentor/datapath/objects
BIN := src/stentor/bin

.PHONY: setup demo test lint bench fuzz clean bpf native lock bpf-stats

## install what is missing (apt and PyPI), build the native parts, prepare .venv with `stentor` on it
setup:
	@tools/setup

## two clusters and a leaf-spine fabric in namespaces, manifests applied by kubectl, real traffic, faults, a summary
demo:
	@tools/setup demo
	@$(PY) tools/demo.py

## what CI runs first: linters' contracts and every test of the default tier
test: setup
	@tools/test

lint: setup
	@tools/lint

## each rival in the same run; results go to benchmarks/results and, by hand, to docs/performance.md
bench: setup
	@$(PY) benchmarks/run.py

## five million inputs for every decoder that the network feeds
fuzz: setup
	@tools/fuzz

bpf:
	@$(MAKE) -s -C bpf OUT=$(abspath $(BPF_OBJECTS))

native:
	@$(MAKE) -s -C cni OUT=$(abspath $(BIN))

bpf-stats: bpf
	@$(PY) tools/bpf_stats.py

## write requirements/*.txt again from pyproject.toml
lock:
	@tools/lock

clean:
	@rm -rf build $(BPF_OBJECTS) $(BIN) .mypy_cache .ruff_cache .import_linter_cache .hypothesis src/*.egg-info
	@find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
	@rm -rf $(VENV)
