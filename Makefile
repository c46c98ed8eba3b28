# `make demo` and `make test` are the two commands; `make help` lists the rest.
# Each makes .venv when it is missing and reuses it when it is there. Another interpreter: make demo PYTHON=python3.12

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PACKAGES := shards pipeline models train tools benchmarks
# Passed on to the command: make demo ARGS="--format ffcv", make test ARGS="tests/shards -x"
ARGS ?=
# Processes that share the tests, a file's tests in one of them; 0 is this process alone: make test JOBS=2. Several of them
# compute with one thread each: torch's threads would wait for cores that the other processes have.
JOBS ?= 0

# A stamp .venv/.with-NAME says that the extras of NAME are installed as pyproject.toml lists them now.
EXTRAS_demo := demo
EXTRAS_dev := demo,dev,video,heic,text,sound,http,duplicates,detection,captions,onnx,parquet,wandb,mlflow
EXTRAS_bench := demo,dev,video,dali,kornia,peers
EXTRAS_peers := demo,dev,video,heic,text,sound,duplicates,detection,captions,onnx,parquet,wandb,mlflow,dali,kornia,peers,ffcv,s3,http,ray

# CI may skip no test for want of a peer, so there `make test` installs all of them.
ifeq ($(HEADRACE_REQUIRE_PEERS),1)
TEST_EXTRAS := peers
else
TEST_EXTRAS := dev
endif

.PHONY: help demo test bench lint peers clean

help:
	@echo "make demo    shard real digits, train SimCLR on them, probe it, write runs/demo/report.html (minutes)"
	@echo "make test    run every test that this machine can run"
	@echo "make bench   measure Headrace beside its peers, into benchmarks/results/"
	@echo "make peers   install what the tests and benchmarks compare with (real ffcv, DALI, webdataset, lightly, TorchCodec, Ray, S3)"
	@echo "make lint    ruff and mypy"
	@echo "make clean   remove the environment, caches and runs/demo"

demo: $(VENV)/.with-demo
	@$(BIN)/headrace demo $(ARGS)

test: $(VENV)/.with-$(TEST_EXTRAS)
	$(if $(filter-out 0 1,$(JOBS)),OMP_NUM_THREADS=1) $(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

bench: $(VENV)/.with-bench
	$(BIN)/headrace bench all $(ARGS)

peers: $(VENV)/.with-peers

# mypy reads the packages under their installed name through a folder of links.
lint: $(VENV)/.with-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@mkdir -p .typecheck/headrace
	@for package in $(PACKAGES); do ln -sfn ../../$$package .typecheck/headrace/$$package; done
	@echo "mypy, as on Linux and as on macOS"
	@$(BIN)/mypy --platform darwin --cache-dir .mypy_cache/darwin -p headrace & darwin=$$!; \
	    $(BIN)/mypy --platform linux --cache-dir .mypy_cache/linux -p headrace; linux=$$?; \
	    wait $$darwin && exit $$linux

clean:
	rm -rf $(VENV) .typecheck .mypy_cache .pytest_cache .ruff_cache .hypothesis .cache build dist *.egg-info runs/demo
	find $(PACKAGES) tests -name __pycache__ -type d -prune -exec rm -rf {} +

# What peers need holds what everything else needs.
$(VENV)/.with-%: pyproject.toml | $(BIN)/python
	@if [ '$*' != peers ] && [ $(VENV)/.with-peers -nt pyproject.toml ]; then touch $@; exit; fi; \
	echo "Installing headrace[$(EXTRAS_$*)] into $(VENV) (PyTorch is large: the first time takes some minutes)"; \
	$(BIN)/python -m pip install --quiet --editable '.[$(EXTRAS_$*)]' || { \
	    case '$(EXTRAS_$*)' in *ffcv*) \
	        echo "ffcv is compiled here and needs: apt install g++ libopencv-dev libturbojpeg0-dev pkg-config" >&2 ;; esac; \
	    exit 1; } && touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "Headrace needs Python 3.11 or newer, and $(PYTHON) is `$(PYTHON) --version 2>&1`." >&2; \
	    echo "Name another one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	    echo "$(PYTHON) could not make a virtual environment; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
