# For people and for CI alike. `make help` lists what there is.
SHELL := /bin/bash
STACK := target/release/stack

.PHONY: help
help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

.PHONY: setup
setup:
	@testing/setup.sh

.PHONY: build
build: setup
	@echo "[make] building (a first build takes some minutes)"
	@cargo build --release --locked --workspace

.PHONY: up
up: build ## RabbitMQ, ClamAV, an S3 server and the daemon on this machine, on loopback
	@$(STACK) up --daemon target/release/bucket-av-scanner

.PHONY: down
down: ## stop what `make up` started
	@if [ -x $(STACK) ]; then $(STACK) down; elif [ -x target/debug/stack ]; then target/debug/stack down; fi

.PHONY: demo
demo: up ## up, then upload five files and show what became of each
	@$(STACK) demo

.PHONY: test
test: ## set up what is needed and run all tests
	@testing/setup.sh --all
	@echo "[make] building (a first build takes some minutes)"
	@cargo build --locked --workspace --all-targets
	@target/debug/stack run --daemon target/debug/bucket-av-scanner -- bash -c \
	    'cargo test --locked --workspace && testing/bucket-av-scanner_tests.sh'

.PHONY: fmt
fmt: ## format
	@cargo fmt --all

.PHONY: lint
lint: setup
	@cargo fmt --all --check
	@cargo clippy --locked --workspace --all-targets -- -D warnings
	@RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps --document-private-items --quiet

.PHONY: audit
audit:
	@testing/audit.sh

.PHONY: check
check: lint test audit ## format, lints, docs, tests, dependency audit
