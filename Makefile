# make help

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help test lint demo demo-mmm bench servers clean-servers

help: ## shows this
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22

test: servers ## all tests, on real servers, which are fetched on first use
	@tests/run.sh

lint: ## formatting and lints, as strict as .ci/run
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings

demo: ## MongoDB to Redis and to this terminal, with servers of its own unless MONGO_URL and REDIS_URL are set
	@echo "Building: the dev profile, which is ready soonest (for real use: cargo build --release)."
	@cargo build --bin oplogue --example demo
	@cargo run --quiet --example demo

demo-mmm: ## two MongoDBs replicated both ways, a conflict and a cut; servers likewise: FACTORY_MONGO_URL, CLOUD_MONGO_URL
	@echo "Building: the dev profile, which is ready soonest (for real use: cargo build --release)."
	@cargo build --bin oplogue --example demo-mmm
	@cargo run --quiet --example demo-mmm

bench: ## speed, measured against the bare driver; takes minutes
	@tests/bench/run.sh

servers: ## fetches the servers of the tests, into ~/.cache/oplogue-servers or $OPLOGUE_SERVERS_DIR
	@tests/servers/fetch.sh all >/dev/null

clean-servers: ## removes them
	@tests/servers/fetch.sh --clean
