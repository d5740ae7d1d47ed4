# Everything runs in .venv, which `make` builds from requirements.lock on first use.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-triton test-cuda check bench bench-peers bench-adapters bench-training bench-evaluation proto lock clean

BIN := .venv/bin
READY := .venv/.installed
PEERS := .venv-peers

help: ## show this list
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

demo: $(READY) ## train an adapter, serve it beside six others in one batch, score them
	$(BIN)/python -m demo

test: $(READY) ## run the tests (no GPU, no network)
	$(BIN)/python -m pytest tests

# Torch's CUDA builds bring a Triton of their own, which is to stay.
test-triton: $(READY) ## Triton's kernels, by its interpreter without CUDA (installs triton: 286 MB)
	$(BIN)/python -c "import triton" 2>/dev/null || \
		$(BIN)/python -m pip install --quiet "triton>=3.4,<4"
	$(BIN)/python -c "import sys, torch; sys.exit(not torch.cuda.is_available())" || \
		export TRITON_INTERPRET=1; \
	$(BIN)/python -m pytest -k triton tests/server/kernels tests/server/engine/test_linear_kinds.py \
		tests/server/engine/test_triton_draws.py tests/server/engine/test_decode_graphs.py \
		tests/bench/test_gpu.py

test-cuda: $(READY) ## the server on a CUDA device against PEFT, and Triton's kernels compiled
	$(BIN)/python -m pytest -m cuda tests

check: $(READY) ## ruff, mypy, import rules, buf lint and breaking, stubs up to date
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	scripts/buf.sh lint
	scripts/breaking.sh
	$(BIN)/python scripts/stubs.py --check

bench: $(READY) ## measure throughput and latency on this machine, beside PEFT
	$(BIN)/python -m tests.bench

bench-peers: $(READY) $(PEERS)/.installed ## the same beside vLLM's CPU build, which it installs
	$(BIN)/python -m tests.bench --peers $(PEERS)

bench-adapters: $(READY) ## what ten thousand registered adapters cost, and loading beside requests
	$(BIN)/python -m tests.bench.adapters

bench-training: $(READY) ## measure the trainer's step beside one written with transformers and PEFT
	$(BIN)/python -m tests.bench.training

bench-evaluation: $(READY) ## measure what the eval suite itself costs, beside a server that answers at once
	$(BIN)/python -m tests.bench.evaluation

proto: $(READY) ## generate the Python stubs from proto/
	$(BIN)/python scripts/stubs.py

lock: $(READY) ## write requirements.lock anew (UPGRADE="NAME ..." takes newer versions)
	$(BIN)/python scripts/lock.py --upgrade $(UPGRADE)

clean: ## remove environments, caches and builds
	rm -rf .venv $(PEERS) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	rm -rf build dist client/build client/dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	rm -rf *.egg-info client/*.egg-info

$(READY): requirements.lock pyproject.toml client/pyproject.toml $(wildcard server/kernels/native/*)
	$(BIN)/python -m pip --version >/dev/null 2>&1 || \
		{ python=$$(scripts/find_python.sh) && "$$python" -m venv --clear .venv; }
	$(BIN)/python -m pip install --requirement requirements.lock
	$(BIN)/python -m pip install --no-deps --no-build-isolation --editable client --editable .
	touch $@

# The registry's torchvision and its like need torch's CUDA build, and vLLM then fails to import
# them; text models do without.
$(PEERS)/.installed: tests/bench/peers.txt | $(READY)
	$(BIN)/python -m venv --clear $(PEERS)
	$(PEERS)/bin/python -m pip install --requirement tests/bench/peers.txt
	$(PEERS)/bin/python -m pip uninstall --yes torchvision torchaudio torchcodec
	touch $@
