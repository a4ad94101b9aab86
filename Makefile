# The two doors: `make demo` and `make test`. `make help` lists the rest.
# Everything that is needed beyond Rust (by rustup), Python 3 with venv and, for
# the tests, Node.js is set up inside the checkout: .venv, .tools, target, dist.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

CARGO ?= cargo
PYTHON ?= python3
NODE ?= node
TARGET := $(or $(CARGO_TARGET_DIR),target)
VENV := .venv
# Bind-time checks are cheap; a wrong lock file is not.
LOCKED := --locked

WASM_BINDGEN := $(shell sed -n '/^name = "wasm-bindgen"$$/{n;s/version = "\(.*\)"/\1/p;}' Cargo.lock)
WASM_BINDGEN_RUNNER := .tools/bin/wasm-bindgen-test-runner

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help
help: ## List the targets
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) | while IFS='|' read -r name text; do printf '  make %-12s %s\n' "$$name" "$$text"; done

# --- What must be there already ------------------------------------------------

.PHONY: check-rust check-python check-node
check-rust:
	@command -v rustup >/dev/null && command -v $(CARGO) >/dev/null || { echo 'missing: Rust by rustup (https://rustup.rs)' >&2; exit 1; }

check-python:
	@$(PYTHON) -c 'import sys, venv, ensurepip; assert sys.version_info >= (3, 10)' 2>/dev/null || { echo 'missing: Python 3.10 or newer with venv (Debian: apt-get install python3-venv)' >&2; exit 1; }

check-node:
	@command -v $(NODE) >/dev/null || { echo 'missing: Node.js 18 or newer, for the tests in Wasm (https://nodejs.org)' >&2; exit 1; }

# --- What is set up inside the checkout ----------------------------------------

.PHONY: rust-targets
rust-targets: rust-target-wasm32-wasip1 rust-target-wasm32-wasip2

rust-target-%: check-rust
	@rustup target list --installed | grep -qx "$*" || rustup target add "$*"

$(VENV)/.complete: integration/requirements.txt | check-python
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --requirement $<
	touch $@

$(WASM_BINDGEN_RUNNER): Cargo.lock | check-rust
	@if [ "$$($@ --version 2>/dev/null)" != "wasm-bindgen-test-runner $(WASM_BINDGEN)" ]; then \
	  $(CARGO) install --quiet --root .tools --version $(WASM_BINDGEN) wasm-bindgen-cli; fi
	@touch $@

# --- Building --------------------------------------------------------------------

.PHONY: build
build: rust-targets ## Build dist/optimizer.wasm, dist/optimizer.meta.json and dist/optimizer-component.wasm
	$(CARGO) build $(LOCKED) -p optimizer-filter --target wasm32-wasip1 --profile wasm
	$(CARGO) build $(LOCKED) -p optimizer-component --target wasm32-wasip2 --profile wasm
	@mkdir -p dist
	@cp $(TARGET)/wasm32-wasip1/wasm/optimizer_filter.wasm dist/optimizer.wasm
	@cp $(TARGET)/wasm32-wasip2/wasm/optimizer_component.wasm dist/optimizer-component.wasm
	@cp schema/optimizer.meta.json dist/optimizer.meta.json
	@ls -l dist | tail -n +2

.PHONY: services
services: check-rust
	$(CARGO) build $(LOCKED) -p reference-optimizer -p demo-provider

.PHONY: demo
demo: HOST ?= envoy
demo: build services $(VENV)/.complete ## A tour through a real Envoy (HOST=wasi: a wasi:http host); stays up until Ctrl-C (DEMO_ONCE=1: exits; PROVIDER=URL: a real provider)
	@if [ "$(HOST)" = wasi ]; then $(CARGO) build $(LOCKED) -p wasi-host; fi
	@exec $(VENV)/bin/python examples/demo.py --host $(HOST) --wasm dist/optimizer.wasm --envoy $(VENV)/bin/envoy \
	  --wasi-host $(TARGET)/debug/wasi-host --component dist/optimizer-component.wasm \
	  --optimizer $(TARGET)/debug/reference-optimizer --provider-bin $(TARGET)/debug/demo-provider

# --- Testing ---------------------------------------------------------------------

.PHONY: test
test: test-native test-node test-meta test-streams test-e2e test-e2e-wasi test-conformance test-soak test-bench ## Everything: native, in the host harness, under Node, on the real Envoy

.PHONY: test-all
test-all: test fault-matrix fault-matrix-wasi ## The same, and what takes minutes: the whole fault matrix on both hosts, the module's memory over 100,000 exchanges
	$(CARGO) test $(LOCKED) -p integration --test memory -- --ignored
	$(CARGO) clippy $(EXT_PROC) -- -D warnings

FUZZ_SECONDS ?= 300
FUZZ_TARGETS := $(notdir $(wildcard integration/fuzz/corpus/*))

.PHONY: fuzz
fuzz: check-rust ## Fuzz each target for FUZZ_SECONDS (300); needs nightly Rust and cargo-fuzz
	@rustup run nightly rustc --version >/dev/null 2>&1 || { echo 'missing: nightly Rust (rustup toolchain install nightly)' >&2; exit 1; }
	@$(CARGO) fuzz --version >/dev/null 2>&1 || { echo 'missing: cargo-fuzz (cargo install cargo-fuzz)' >&2; exit 1; }
	@for target in $(FUZZ_TARGETS); do mkdir -p $(TARGET)/fuzz-corpus/$$target; \
	  $(CARGO) +nightly fuzz run --fuzz-dir integration/fuzz $$target $(TARGET)/fuzz-corpus/$$target integration/fuzz/corpus/$$target \
	    -- -max_total_time=$(FUZZ_SECONDS) -timeout=10 -max_len=8192; done

.PHONY: test-native
test-native: build ## The core, the services and the module in the host harness
	$(CARGO) test $(LOCKED) --workspace --features optimizer-core/schema,optimizer-core/strategies

.PHONY: test-node
test-node: check-node rust-target-wasm32-unknown-unknown $(WASM_BINDGEN_RUNNER) ## The core's own suite in 32-bit Wasm, without any host
	$(CARGO) test $(LOCKED) -p optimizer-core --features strategies --lib --target wasm32-unknown-unknown

.PHONY: test-meta
test-meta: $(VENV)/.complete ## Kong's schema of the configuration, with a draft 4 validator and a corpus
	$(VENV)/bin/python -m pytest -q integration/configurations

.PHONY: test-streams
test-streams: $(VENV)/.complete ## Streams put together and replayed, beside the official SDKs' own accumulators
	$(CARGO) build $(LOCKED) -p optimizer-core --example streams
	STREAMS=$(TARGET)/debug/examples/streams $(VENV)/bin/python -m pytest -q integration/streams

.PHONY: test-e2e
test-e2e: build $(VENV)/.complete ## The module in the real Envoy, with raw clients and the official SDKs
	$(VENV)/bin/python -m pytest -q integration/e2e $(PYTEST_ARGS)

.PHONY: wasi-host
wasi-host: check-rust
	$(CARGO) build $(LOCKED) -p wasi-host

.PHONY: test-e2e-wasi
test-e2e-wasi: build wasi-host $(VENV)/.complete ## The component in a wasi:http host, with the same clients (WASMTIME=/path/to/wasmtime: in `wasmtime serve`)
	E2E_HOST=wasi WASMTIME=$(WASMTIME) $(VENV)/bin/python -m pytest -q integration/e2e $(PYTEST_ARGS)

.PHONY: test-kong
test-kong: export NGINX := $(NGINX)
test-kong: export KONG := $(KONG)
test-kong: build $(VENV)/.complete ## The module in a Kong (KONG=/path/to/kong), or in an nginx with Kong's Wasm runtime (NGINX=/path/to/nginx)
	$(VENV)/bin/python -m pytest -q integration/kong $(PYTEST_ARGS)

.PHONY: breaker-cost
breaker-cost: build $(VENV)/.complete ## What an optimizer that never answers costs a call, measured over a minute; writes integration/benches/results/breaker.md
	$(VENV)/bin/python integration/e2e/breaker_cost.py $(BENCHES)/results/breaker.md

.PHONY: fault-matrix
fault-matrix: build $(VENV)/.complete ## Every fault at every hook on the real Envoy; writes integration/e2e/FAULTS.md
	FAULT_REPORT=integration/e2e/FAULTS.md $(VENV)/bin/python -m pytest -q -m 'full or not full' integration/e2e/test_fault_matrix.py

.PHONY: fault-matrix-wasi
fault-matrix-wasi: build wasi-host $(VENV)/.complete ## The same on a wasi:http host; writes integration/e2e/FAULTS_ON_WASI.md
	E2E_HOST=wasi FAULT_REPORT=integration/e2e/FAULTS_ON_WASI.md $(VENV)/bin/python -m pytest -q -m 'full or not full' integration/e2e/test_fault_matrix.py

.PHONY: test-conformance
test-conformance: services $(VENV)/.complete
	REFERENCE_OPTIMIZER=$(TARGET)/debug/reference-optimizer $(VENV)/bin/python -m pytest -q integration/conformance

SOAK = $(VENV)/bin/python integration/soak/soak.py $(if $(SOAK_SEED),--seed $(SOAK_SEED))

.PHONY: test-soak
test-soak: build $(VENV)/.complete
	$(SOAK) --minutes 0.33

.PHONY: soak
soak: HOST ?= envoy
soak: build $(VENV)/.complete ## Mixed traffic while optimizer and provider are killed, stopped and slowed (HOST=wasi, SOAK_MINUTES=5, SOAK_SEED=…)
	@if [ "$(HOST)" = wasi ]; then $(CARGO) build $(LOCKED) -p wasi-host; fi
	$(SOAK) --host $(HOST) --minutes $(or $(SOAK_MINUTES),5)

.PHONY: conformance
conformance: $(VENV)/.complete ## Check any optimizer: make conformance OPTIMIZER=http://… [OPTIMIZER_TOKEN=…]
	@test -n "$(OPTIMIZER)" || { echo 'which optimizer? make conformance OPTIMIZER=http://127.0.0.1:8088' >&2; exit 1; }
	OPTIMIZER=$(OPTIMIZER) $(VENV)/bin/python -m pytest -q integration/conformance/test_any_optimizer.py

BENCHES := integration/benches
# Its types of the gRPC protocol take minutes to compile: a workspace of its own, built for the benchmark alone.
# Not --locked: its lock file follows the core's dependencies when it is built next.
EXT_PROC_MANIFEST := --manifest-path $(BENCHES)/ext_proc/Cargo.toml
EXT_PROC := $(EXT_PROC_MANIFEST) --target-dir $(TARGET)
# Rounds, and seconds of each row in a round; any other option of integration/benches/run.py.
BENCH_ROUNDS ?= 5
BENCH_SECONDS ?= 1

.PHONY: bench-core
bench-core: build ## The core beside a scan and a copy of the same bytes, and what an exchange through the module costs its host
	$(CARGO) bench $(LOCKED) --bench core
	$(CARGO) bench $(LOCKED) -p integration --bench wasm

.PHONY: bench-programs
bench-programs: build
	$(CARGO) build $(LOCKED) --release -p benches -p wasi-host
	$(CARGO) build --release $(EXT_PROC)
	$(CARGO) build $(LOCKED) -p noop-filter -p callout-filter --target wasm32-wasip1 --profile wasm

BENCH = --module dist/optimizer.wasm --noop $(TARGET)/wasm32-wasip1/wasm/noop_filter.wasm --callout $(TARGET)/wasm32-wasip1/wasm/callout_filter.wasm \
  --load $(TARGET)/release/load --backend $(TARGET)/release/backend --ext-proc $(TARGET)/release/ext-proc \
  --wasi-host $(TARGET)/release/wasi-host --component dist/optimizer-component.wasm

.PHONY: bench
bench: bench-programs $(VENV)/.complete ## The module beside bare Envoy, a no-op filter, Lua and ext_proc, and the component (BENCH_ROUNDS=5 BENCH_SECONDS=1)
	$(VENV)/bin/python $(BENCHES)/run.py $(BENCH) --rounds $(BENCH_ROUNDS) --seconds $(BENCH_SECONDS) --results $(BENCHES)/results --readme README.md $(BENCH_ARGS)

.PHONY: test-bench
test-bench: build $(VENV)/.complete
	$(CARGO) build $(LOCKED) -p benches -p wasi-host
	$(CARGO) build $(LOCKED) -p noop-filter -p callout-filter --target wasm32-wasip1 --profile wasm
	$(VENV)/bin/python $(BENCHES)/run.py $(subst /release/,/debug/,$(BENCH)) --rounds 1 --seconds 0.1 --sizes 2048 --connections 1 \
	  --only noop,left_alone,request,both,hit,callout_request,callout_both,lua_request,lua_both,wasi_request,provider,optimizer

.venv-litellm/.complete: $(BENCHES)/litellm/requirements.txt | check-python
	rm -rf .venv-litellm
	$(PYTHON) -m venv .venv-litellm
	.venv-litellm/bin/pip install --quiet --requirement $<
	touch $@

.PHONY: bench-peers
bench-peers: bench-programs $(VENV)/.complete .venv-litellm/.complete ## The same load through the LiteLLM proxy, without and with hooks that do the same
	$(VENV)/bin/python $(BENCHES)/peers.py $(BENCH) --litellm .venv-litellm/bin/litellm --results $(BENCHES)/results $(BENCH_ARGS)

.PHONY: lint
lint: check-rust rust-targets deny ## Formatting, clippy with warnings denied, schema drift, dependencies
	$(CARGO) fmt --all --check
	$(CARGO) fmt $(EXT_PROC_MANIFEST) --check
	$(CARGO) clippy $(LOCKED) --workspace --exclude optimizer-filter --exclude optimizer-component --exclude noop-filter --exclude callout-filter --all-targets --features optimizer-core/schema,optimizer-core/strategies -- -D warnings
	$(CARGO) clippy $(LOCKED) -p optimizer-filter -p noop-filter -p callout-filter --target wasm32-wasip1 -- -D warnings
	$(CARGO) clippy $(LOCKED) -p optimizer-component --target wasm32-wasip2 -- -D warnings
	$(CARGO) test $(LOCKED) --quiet -p optimizer-core --features schema --test schema

.PHONY: deny
deny: check-rust ## Licences, duplicates, sources and advisories of dependencies, where cargo-deny is installed
	@if ! $(CARGO) deny --version >/dev/null 2>&1; then echo 'skipped: dependencies (cargo install cargo-deny)'; exit 0; fi; \
	$(CARGO) deny --workspace --locked check bans licenses sources; \
	if $(CARGO) deny fetch db >/dev/null 2>&1; then $(CARGO) deny --workspace --locked check --disable-fetch advisories; \
	else echo 'skipped: advisories, whose database cannot be had'; fi

.PHONY: schema
schema: check-rust ## Write schema/ anew from the configuration's types
	UPDATE=1 $(CARGO) test $(LOCKED) --quiet -p optimizer-core --features schema --test schema

.PHONY: clean
clean: ## Remove everything that was built or installed here
	rm -rf target dist $(VENV) .venv-litellm .tools
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
