# What people and CI run. `make help` lists it.
SHELL := /bin/bash
CARGO ?= cargo

help: ## Show this
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' Makefile | expand -t 16

build: ## Build the daemon and the CLI (target/release)
	$(CARGO) build --release --locked

demo: build ## Boot three real Linux guests on two networks and show what they reach
	scripts/install.sh
	guests/build.sh
	scripts/demo.sh

check: ## Format, lints, documentation, licences, layering
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps --document-private-items
	scripts/deny.sh
	$(CARGO) test --locked --quiet --test layering

test: ## Every test, with real guests; installs what they need
	scripts/install.sh
	guests/build.sh
	scripts/test.sh

MINUTES ?= 20
soak: ## Hostile guests, kills, hand-overs and traffic together, for MINUTES; says what leaked
	MVIRT_SOAK_SECONDS=$$(( $(MINUTES) * 60 )) $(CARGO) test --locked --test it soak:: -- --nocapture

fuzz: ## Fuzz every target for a minute each (needs cargo-fuzz)
	scripts/fuzz.sh 60

instructions: ## Count the instructions of the packet path; fail if they have grown
	scripts/instructions.sh

bench: build ## Measure beside DPDK's testpmd and Open vSwitch, as root, in minutes (docs/performance.md)
	scripts/install.sh gcc libc6-dev pkgconf libdpdk-dev python3
	bench/run.py

install: build ## Install to $(DESTDIR)/usr/local and the systemd unit
	install -D -m 755 target/release/mvirt-net $(DESTDIR)/usr/local/bin/mvirt-net
	install -D -m 755 target/release/mvirt $(DESTDIR)/usr/local/bin/mvirt
	install -D -m 644 dist/mvirt-net.service $(DESTDIR)/etc/systemd/system/mvirt-net.service

.PHONY: help build demo check test soak fuzz instructions bench install
