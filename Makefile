# vit-edge: the same verbs as the `edge` command. `make help` lists them.
SHELL := /bin/bash
.DEFAULT_GOAL := help

VENV := .venv
EDGE := $(VENV)/bin/edge
PYTHON := $(VENV)/bin/python
# The distribution's own Python: PyGObject and JetPack's TensorRT bindings belong to it.
SYSTEM_PYTHON ?= /usr/bin/python3

# What the targets work on; override on the command line: make engine CHECKPOINT=my-vit
CHECKPOINT ?= scripts/demo/vit
CALIBRATION ?= $(if $(filter scripts/demo/vit,$(CHECKPOINT)),engines/.cache/demo/calibration,$(error \
	name the folder of calibration images for $(CHECKPOINT): CALIBRATION=photos))
PRECISION ?= int8
HELDOUT ?= $(if $(findstring cache/demo,$(CALIBRATION)),engines/.cache/demo/heldout)
NAME ?= $(notdir $(patsubst %/,%,$(CHECKPOINT)))-$(PRECISION)
ENGINE ?= engines/demo-int8
SOURCE ?= test://ball
METHOD ?= auto
MAX_BATCH ?= 1
GRAPHS ?= engines/.cache/graphs
JETPACK ?= 6
L4T_TAG ?= r36.4.0
L4T_REPO ?= r39.2

.PHONY: help setup demo export simplify calibrate quantize engine compile run bench \
	lint types hooks test test-fast test-slow test-gpu chaos soak check docs release-check image clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' Makefile

setup: $(VENV)/.ready ## Install what is missing, and make .venv

$(VENV)/.ready: pyproject.toml constraints.txt scripts/setup.sh
	@SYSTEM_PYTHON="$(SYSTEM_PYTHON)" VENV="$(VENV)" scripts/setup.sh
	@touch $@

# Programs that only the tests need: a broker, a browser, a clock to turn.
$(VENV)/.ready-tests: scripts/setup.sh | $(VENV)/.ready
	@scripts/setup.sh --tests
	@touch $@

demo: setup ## A real ViT to FP16 and INT8 engines, and a camera stream through them
	@$(PYTHON) -m scripts.demo.run

export: setup ## CHECKPOINT -> graph, compared with the checkpoint
	@mkdir -p $(GRAPHS)
	@$(EDGE) export "$(CHECKPOINT)" --images "$(CALIBRATION)" --out $(GRAPHS)/exported.onnx

simplify: setup ## Exported graph -> simpler graph
	@$(EDGE) simplify $(GRAPHS)/exported.onnx --images "$(CALIBRATION)" --out $(GRAPHS)/simplified.onnx

calibrate: setup ## Simplified graph + CALIBRATION images -> activation ranges
	@$(EDGE) calibrate $(GRAPHS)/simplified.onnx --images "$(CALIBRATION)" --method $(METHOD) \
		--out $(GRAPHS)/ranges.json

quantize: setup ## Simplified graph + ranges -> PRECISION graph
	@$(EDGE) quantize $(GRAPHS)/simplified.onnx --precision $(PRECISION) \
		--ranges $(GRAPHS)/ranges.json --out $(GRAPHS)/$(PRECISION).onnx

engine: setup ## CHECKPOINT + CALIBRATION images -> engines/NAME, all stages, evaluated
	@$(EDGE) build "$(CHECKPOINT)" --calibration "$(CALIBRATION)" --precision $(PRECISION) \
		$(if $(HELDOUT),--heldout "$(HELDOUT)") \
		--method $(METHOD) --max-batch $(MAX_BATCH) --name "$(NAME)"

compile: setup ## On the board: ENGINE's plan
	@$(EDGE) compile "$(ENGINE)"

run: setup ## ENGINE on SOURCE: JSON lines
	@$(EDGE) run "$(ENGINE)" --source "$(SOURCE)"

bench: setup ## Demo engines side by side, ms per image
	@$(EDGE) bench engines/demo-fp32 engines/demo-fp16 engines/demo-int8

check: setup ## What is installed, what works here, and how to fix the rest
	@$(EDGE) doctor

lint: setup
	@$(VENV)/bin/hadolint jetson.Dockerfile jetson7.Dockerfile
	@$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check . && $(VENV)/bin/codespell

types: setup
	@$(VENV)/bin/mypy

hooks: setup ## Check every commit: lint, format, types, spelling, file size
	@$(VENV)/bin/pre-commit install

# One process for each file, so that what a file's tests share is made once.
PYTEST := $(VENV)/bin/pytest -n 2 --dist loadfile --no-loadscope-reorder --timeout 300

test: setup $(VENV)/.ready-tests lint types ## Lint, types and tests, under 8 minutes on 2 cores
	@VENV="$(VENV)" scripts/build_pycuda.sh
	@$(PYTEST) -m "not slow and not gpu and not chaos"

test-fast: setup $(VENV)/.ready-tests ## For the inner loop, under 90 s: what builds, compiles, or waits for servers is left out
	@$(PYTEST) -m "not slow and not gpu and not chaos and not heavy"

test-slow: setup $(VENV)/.ready-tests ## Every family of models, ViT-B/16, leaks, new random examples, short chaos
	@$(VENV)/bin/pytest -m "slow or chaos" -s
	@$(PYTEST) -m "hypothesis and not gpu" --hypothesis-profile new

soak: setup ## 200,000 frames from sources that come and go: does the run grow?
	@$(PYTHON) -m scripts.soak

test-gpu: setup ## The tests that need an NVIDIA GPU; its absence fails them
	@EDGE_REQUIRE_GPU=1 $(VENV)/bin/pytest -m gpu tests/hardware tests/engine/test_tensorrt.py

chaos: setup $(VENV)/.ready-tests ## Servers and networks that fail, a thousand times: docs/chaos.md, an hour on 2 cores
	@$(PYTHON) -m scripts.chaos

docs: setup ## The documentation site, with every link checked: build/site
	@$(PYTHON) -c "import mkdocs, material, mkdocstrings_handlers.python" 2>/dev/null || \
		$(PYTHON) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
		--editable '.[docs]'
	@NO_MKDOCS_2_WARNING=1 $(PYTHON) -m mkdocs build --strict

release-check: setup ## Build HEAD's wheel, install it in a clean environment and use it: docs/releasing.md
	@SYSTEM_PYTHON="$(SYSTEM_PYTHON)" $(PYTHON) -m scripts.release_check $(if $(TAG),--tag "$(TAG)")

IMAGE_6 = docker build --build-arg L4T_TAG=$(L4T_TAG) -f jetson.Dockerfile -t vit-edge:$(L4T_TAG) .
IMAGE_7 = docker build --build-arg L4T_REPO=$(L4T_REPO) -f jetson7.Dockerfile -t vit-edge:$(L4T_REPO) .

image: ## The container for a Jetson with JETPACK=6 or 7: docker build on the board, or with buildx for arm64
	@test -n '$(IMAGE_$(JETPACK))' || { echo "there is no image for JETPACK=$(JETPACK): use 6 or 7" >&2; exit 2; }
	$(IMAGE_$(JETPACK))

clean: ## Remove all built engines, their cache and the environment
	rm -rf $(VENV) build engines/.cache engines/.*.new engines/.*.old *.egg-info .mypy_cache .ruff_cache .pytest_cache
	find engines -mindepth 2 -maxdepth 2 -name passport.json -printf '%h\n' | xargs -r rm -rf
