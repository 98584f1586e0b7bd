# Everything a fresh machine needs: Python 3.11+ and make. `make quickstart` and `make test` set up what they use.
PYTHON ?= python3
VENV ?= .venv
AUDIT := $(VENV)-audit
BIN := $(VENV)/bin
WORKDIR ?= runs/quickstart
# a serial run keeps about one core busy; tests of one file share models; files are taken in the order of tests/conftest.py
WORKERS := -n 2 --dist loadfile --no-loadscope-reorder
UNIT := io images records sources packing loading recaption expansion scenes diffusion optim checkpoints/test_manifest.py \
	reports quickstart training/test_settings.py system/test_layers.py system/test_contributing.py
INPUTS := setup.py pyproject.toml constraints.txt constraints-gpu.txt constraints-tpu.txt $(wildcard locks/*.txt)
# every file is of the SHA-256 in locks/; a later install finds what it needs already there
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile
LOCKED = $(PIP) --require-hashes --no-deps
# tests of what is not set up are left out by name, not skipped
LEFT_OUT = $(if $(wildcard $(VENV)/.tpu),, or tpu_compile)$(if $(wildcard $(VENV)/.gpu),, or gpu_compile)$(if $(BROWSER),, or browser)
# as tests/helpers/browser.py finds it
BROWSER ?= $(firstword $(shell command -v chromium chromium-browser google-chrome chrome 2>/dev/null))

# where it is set, every process compiles its libraries again, which takes five seconds
export PYTHONDONTWRITEBYTECODE :=

BENCHMARKS := loop eval_overhead unet attention cascade text_kv tiles tiled_autoencoder distill packaged guidance loader recaption data_build serve serve_soak eval_statistics lora_scenes

.PHONY: setup setup-torch setup-tpu setup-gpu setup-slurm setup-browser quickstart test-unit test test-all test-gpu attack mutants benchmarks gpu-session docs lint audit sbom lock clean

setup: $(VENV)/.done

# the seconds it took stand in the stamp, for the quickstart's report
$(VENV)/.done: $(INPUTS)
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "cv3jax needs Python 3.11 or newer, $(PYTHON) is %d.%d; set PYTHON=" % sys.version_info[:2])'
	@start=$$(date +%s); \
	$(PYTHON) -m venv $(VENV) && \
	$(LOCKED) -r locks/build.txt && \
	$(LOCKED) --no-build-isolation -r locks/setup.txt && \
	$(PIP) --no-deps --no-build-isolation -e . && \
	$(BIN)/python -m pip check && \
	echo $$(( $$(date +%s) - start )) > $@

# PyTorch, which .pt files (cv3jax convert), local language models (sample --expand) and metrics (evaluate) take; a CPU build is enough, and less to download:
# make setup-torch PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu
setup-torch: setup $(VENV)/.torch

# PyTorch itself is by version and not by hash: each of its indices has builds of its own
$(VENV)/.torch: $(INPUTS)
	@$(LOCKED) -r locks/torch.txt
	@$(PIP) -c constraints.txt -e '.[dev,data,torch,expand-local,eval,interop]'
	@touch $@

# Debian's Slurm, under which `make test-all` runs launch/slurm.sh; as root
setup-slurm:
	apt-get update --quiet && apt-get install --quiet --yes --no-install-recommends slurm-wlm munge

# Debian's Chromium, by which the server's page is tested; as root, where there is no browser yet
setup-browser:
	$(if $(BROWSER),@:,apt-get update --quiet && apt-get install --quiet --yes --no-install-recommends chromium)

# libtpu, with which `cv3jax compile` compiles for TPUs that are not there
setup-tpu: setup $(VENV)/.tpu

$(VENV)/.tpu: $(INPUTS)
	@$(LOCKED) -r locks/tpu.txt
	@touch $@

# JAX's CUDA plug-in and NVIDIA's compilers, with which it does so for GPUs; 1.5 GB
setup-gpu: setup $(VENV)/.gpu

$(VENV)/.gpu: $(INPUTS)
	@$(LOCKED) -r locks/gpu.txt
	@touch $@

# the book, into site/; a dead link or anchor fails it
docs: setup $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

$(VENV)/.docs: $(INPUTS)
	@$(LOCKED) -r locks/docs.txt
	@touch $@

quickstart: setup
	$(BIN)/cv3jax quickstart --workdir $(WORKDIR) --install-seconds $$(cat $(VENV)/.done)

# before a commit: the folders in which nothing is trained
test-unit: setup lint
	$(BIN)/python -m pytest $(WORKERS) -m 'not (slow$(LEFT_OUT))' $(addprefix tests/,$(UNIT))

test: setup lint
	$(BIN)/python -m pytest $(WORKERS) -m 'not (slow$(LEFT_OUT))'

# needs Slurm too: make setup-slurm
test-all: setup lint
	$(BIN)/python -m pytest $(WORKERS) $(if $(LEFT_OUT),-m 'not (nothing$(LEFT_OUT))')

# on a machine with a GPU, after pip install -e '.[cuda13]' beside what `make setup` installs
test-gpu: setup
	JAX_PLATFORMS=cuda,cpu $(BIN)/python -m pytest -m gpu

# all campaigns of attacks, about half an hour on two cores; as root, which may mount small disks; a .pt is among what is attacked
attack: setup-torch
	$(BIN)/python tests/attack/every.py

# every random draw and every recipe's argument wrong once: a test must fail of each; a quarter of an hour
mutants: setup
	@mkdir -p benchmarks/results
	@$(BIN)/python benchmarks/mutants.py --json benchmarks/results/mutants.json > benchmarks/results/mutants.md || failed=1; \
	cat benchmarks/results/mutants.md; [ -z "$$failed" ]

# what the figures of docs/benchmarks.md come from, one after the other; about two hours on two cores that do nothing else
benchmarks: setup-torch setup-tpu setup-gpu
	@mkdir -p benchmarks/results
	@for name in $(BENCHMARKS); do \
		$(BIN)/python benchmarks/$$name.py --json benchmarks/results/$$name.json > benchmarks/results/$$name.md || failed="$$failed $$name"; \
		cat benchmarks/results/$$name.md; \
	done; \
	$(BIN)/python benchmarks/compile_time.py --out benchmarks/results || failed="$$failed compile_time"; \
	$(BIN)/python benchmarks/large_pictures.py --out benchmarks/results || failed="$$failed large_pictures"; \
	$(BIN)/python benchmarks/finetune_memory.py --out benchmarks/results || failed="$$failed finetune_memory"; \
	[ -z "$$failed" ] || { echo "missed their bars:$$failed" >&2; exit 1; }

# on a machine with a large GPU, after pip install -e '.[cuda13]'; PyTorch with CUDA and diffusers are the peer, and may be missing
gpu-session: setup
	PYTHON=$(BIN)/python bash benchmarks/gpu_session.sh

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# known vulnerabilities of the versions in constraints*.txt, by PyPI's advisories
audit: $(AUDIT)/.done
	$(AUDIT)/bin/pip-audit --strict --disable-pip --no-deps $(addprefix -r ,$(wildcard constraints*.txt))

# build/sbom.cdx.json: what is installed in $(VENV), with licences, in CycloneDX's form
sbom: setup $(AUDIT)/.done
	@mkdir -p build
	$(AUDIT)/bin/cyclonedx-py environment --output-reproducible --of JSON -o build/sbom.cdx.json $(BIN)/python

$(AUDIT)/.done: locks/build.txt locks/audit.txt
	@$(PYTHON) -m venv $(AUDIT)
	@$(AUDIT)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r locks/build.txt
	@$(AUDIT)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r locks/audit.txt
	@touch $@

# locks/*.txt, after a change of a requirement or a constraint
lock:
	$(PYTHON) .ci/lock.py

clean:
	rm -rf $(VENV) $(AUDIT) .cache build dist *.egg-info
