# For people and for CI alike. `make help` lists what there is.
SHELL := /bin/bash
STACK := target/release/stack

# The compiler of rust-toolchain.toml, or the one used instead; looked up only for targets that build.
ifneq ($(filter-out help down all deploy-docker clean-docker logs status scale secrets release,$(MAKECMDGOALS)),)
TOOLCHAIN := $(shell testing/toolchain.sh)
ifneq ($(TOOLCHAIN),)
export RUSTUP_TOOLCHAIN := $(TOOLCHAIN)
endif
endif

.PHONY: help
help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

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
down: ## stop what `make up` started, and remove its data
	@if [ -x $(STACK) ]; then $(STACK) down; elif [ -x target/debug/stack ]; then target/debug/stack down; fi

.PHONY: demo
demo: up ## up, then upload five files and show the result for each
	@$(STACK) demo

.PHONY: test
ifeq ($(TARGET),docker)
test:
	@TARGET=docker testing/bucket-av-scanner_tests.sh
else
test: ## install what is missing and run all tests; TARGET=docker: two cases on the deployment
	@testing/setup.sh --all
	@testing/release.sh
	@echo "[make] building (a first build takes some minutes)"
	@cargo build --locked --workspace --all-targets
	@testing/deb.sh
	@target/debug/stack run --daemon target/debug/bucket-av-scanner -- bash -c \
	    'cargo test --locked --workspace && testing/bucket-av-scanner_tests.sh && \
	     target/debug/chaos --short'
	@testing/docker.sh
endif

.PHONY: test-monitoring
test-monitoring: ## alerts and dashboard alone, against a real Prometheus that scrapes a real daemon
	@testing/setup.sh --all
	@cargo build --locked --workspace --all-targets
	@STACK_DATABASE=test target/debug/stack run --daemon target/debug/bucket-av-scanner -- \
	    cargo test --locked --test integration monitoring::

.PHONY: chaos
chaos: ## break everything around the daemon, account for every object (ONLY=names, SEED=number)
	@testing/setup.sh --all
	@echo "[make] building (a first build takes some minutes)"
	@cargo build --locked --workspace
	@STACK_DATABASE=test target/debug/stack run --no-daemon -- target/debug/chaos \
	    $(if $(ONLY),--only '$(ONLY)') $(if $(SEED),--seed '$(SEED)')

.PHONY: soak
soak: ## a mixed load with faults for hours: does the daemon grow, is all accounted for (HOURS, SEED=number)
	@testing/setup.sh --all
	@echo "[make] building (a first build takes some minutes)"
	@cargo build --release --locked -p bucket-av-scanner -p stack -p chaos
	@STACK_DATABASE=test $(STACK) run --no-daemon -- target/release/chaos \
	    --soak '$(or $(HOURS),2)' $(if $(SEED),--seed '$(SEED)')

.PHONY: fuzz
fuzz: setup ## fuzz all that parses input from outside (SECONDS=number for each target, ONLY=names)
	@testing/fuzz.sh '$(or $(SECONDS),600)' '$(ONLY)'

.PHONY: bench
bench: ## measure the daemon beside the limits of clamd and the store (ONLY=names, RUNS, BACKLOG, SWEPT=number)
	@testing/setup.sh $(if $(findstring floor,$(or $(ONLY),floor)),seaweedfs) $(if $(findstring peers,$(ONLY)),peers)
	@echo "[make] building (with link-time optimisation, which takes some minutes)"
	@cargo build --profile dist --locked -p bucket-av-scanner
	@cargo build --release --locked -p stack -p bench
	@$(STACK) run --no-daemon --double --no-cache -- target/release/bench --daemon target/dist/bucket-av-scanner \
	    $(if $(ONLY),--only '$(ONLY)') $(if $(RUNS),--runs '$(RUNS)') \
	    $(if $(BACKLOG),--backlog '$(BACKLOG)') $(if $(SWEPT),--swept '$(SWEPT)')

.PHONY: bench-instructions
bench-instructions: ## count the daemon's instructions for an object, compare with the recorded ones (BLESS=1: record)
	@testing/setup.sh valgrind
	@echo "[make] building (with link-time optimisation, which takes some minutes)"
	@cargo build --profile dist --locked -p bucket-av-scanner
	@cargo build --locked --workspace --all-targets
	@STACK_DATABASE=test target/debug/stack run --no-daemon --double --no-cache -- \
	    target/debug/bench --instructions \
	    --daemon target/dist/bucket-av-scanner $(if $(BLESS),--bless)

.PHONY: test-docker
test-docker: ## the deployment on this machine's Docker Engine, with local stand-ins for its images
	@testing/setup.sh --all
	@cargo build --locked --workspace
	@testing/docker.sh

.PHONY: test-chart
test-chart: ## lint, render and check the Helm chart (BLESS=1: write anew what is generated; PYTHON=one of 3.12 or newer)
	@testing/setup.sh
	@PYTHON='$(PYTHON)' BLESS='$(BLESS)' testing/chart.sh

.PHONY: deb
deb: setup ## the Debian package, in target/debian
	@echo "[make] building (with link-time optimisation, which takes some minutes)"
	@cargo build --profile dist --locked -p bucket-av-scanner
	@cargo run --quiet --locked --example manual -- target/manual
	@packaging/deb.sh target/dist/bucket-av-scanner target/manual

.PHONY: test-deb
test-deb: setup ## make the Debian package of a debug build, install, run and purge it in a clean Debian
	@cargo build --locked -p bucket-av-scanner --bin bucket-av-scanner --example manual
	@testing/deb.sh

.PHONY: release
release: ## VERSION=1.2.3: check that this checkout is that version, print how to tag it; changes nothing
	@packaging/release.sh '$(VERSION)'

.PHONY: all deploy-docker clean-docker logs status scale secrets
all: ## deploy-docker, the two cases on it, clean-docker
	@$(MAKE) --no-print-directory deploy-docker
	@$(MAKE) --no-print-directory test TARGET=docker
	@$(MAKE) --no-print-directory clean-docker
deploy-docker: ## MinIO, RabbitMQ, clamav-rest and a worker as containers, until all are healthy
	@docker-compose/manage.sh up
clean-docker: ## remove the deployment WITH ITS DATA
	@docker-compose/manage.sh down
logs: ## the deployment's logs; S=avscan: of one service
	@docker-compose/manage.sh logs $(S)
status: ## the deployment's state: a line per service
	@docker-compose/manage.sh status
scale: ## N=3: run three workers
	@docker-compose/manage.sh scale $(N)
secrets: ## where the deployment's passwords are
	@docker-compose/manage.sh secrets

.PHONY: fmt
fmt: ## format
	@cargo fmt --all

.PHONY: lint
lint: setup ## format, clippy, docs; scripts, Dockerfiles, workflows, links
	@testing/lint.sh
	@cargo fmt --all --check
	@cargo clippy --locked --workspace --all-targets -- -D warnings
	@RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps --document-private-items --quiet

.PHONY: audit
audit: ## bans, licences and advisories of the dependencies
	@testing/audit.sh

.PHONY: check
check: lint test test-chart audit ## format, lints, docs, tests, the chart, dependency audit
