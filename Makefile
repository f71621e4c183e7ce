# Targets for people. Each is one script; what it needs is installed by scripts/setup.

.DEFAULT_GOAL := help
.PHONY: help demo test soak build fmt lint doc bench

help: ## this list
	@awk -F':.*## ' '/^[a-z]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: ## the whole story: a guest outlasts the host that it ran on
	@scripts/demo

test: ## every test that this machine can run; ends with one line of counts
	@scripts/test

soak: ## what takes longer than make test, for SOAK_MINUTES (default 60)
	@scripts/soak

build: ## the binary, target/release/outlast
	@scripts/setup
	cargo build --release -p vmm -p bench

fmt: ## format the sources
	cargo fmt --all

lint: ## formatting, clippy, dependency policy
	@scripts/lint

doc: ## the documentation of the code, private items too: target/doc
	RUSTDOCFLAGS="-D warnings -A rustdoc::private-intra-doc-links" cargo doc --workspace --no-deps --document-private-items

bench: ## what protection costs: pause, epoch sweep, network, with pages in target/bench
	@scripts/bench
