# What people and CI run. `make help` lists it.
SHELL := /bin/bash
CARGO ?= cargo
# What `mvirt vm start --vmm uml` preloads.
PRELOAD := uml-xstate.so

help: ## Show this
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' Makefile | expand -t 16

build: ## Build the daemon, the CLI and the front ends (target/release)
	$(CARGO) build --release --locked
# By the compiler that cargo links with. No other machine has a User-mode Linux.
	@test "$$(uname -m)" != x86_64 || (set -x; mkdir -p $(TARGET)/guests && \
	    $(CC) -O2 -shared -fPIC -o $(TARGET)/guests/$(PRELOAD) guests/uml-xstate.c -ldl)
	@if python3 -c 'import tomllib' 2>/dev/null; then CARGO=$(CARGO) scripts/notice.py $(TARGET)/release; \
	    else echo "no Python 3.11 or later is there: no NOTICE is made, of what the programs contain of others"; fi

clean: ## Remove what was built, and nothing else
	$(CARGO) clean

demo: build ## Boot real Linux guests on routed, switched and public networks, and show what they reach
	scripts/install.sh
	guests/build.sh
	scripts/demo.sh
	scripts/demo-segment.sh
	scripts/demo-world.sh

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

clients: ## Build the client for Python (target/clients); that for Rust is the crate's module `client`
	scripts/clients.sh

book: ## Build the manual as a book (target/book), where mdbook is installed
	@command -v mdbook >/dev/null || { echo "mdbook is not there: cargo install --locked mdbook" >&2; exit 1; }
	$(CARGO) run --quiet --locked --bin mvirt-net -- --generate-reference >book/src/api.md
	mdbook build book

MINUTES ?= 20
soak: ## Hostile guests, kills, hand-overs and traffic together, for MINUTES; says what leaked
	MVIRT_SOAK_SECONDS=$$(( $(MINUTES) * 60 )) $(CARGO) test --locked --test it soak:: -- --nocapture

fuzz: ## Fuzz every target for a minute each (needs cargo-fuzz)
	scripts/fuzz.sh 60

instructions: ## Count the instructions of the packet path; fail if they have grown
	scripts/instructions.sh

bench: build ## Measure beside DPDK's testpmd, Open vSwitch, VDE and the kernel, as root, in minutes (docs/performance.md)
	scripts/install.sh gcc libc6-dev pkgconf libdpdk-dev python3 linux-perf uml-utilities slirp4netns passt
	guests/build.sh
	bench/run.py
	bench/ports.py
	bench/egress.py

PREFIX ?= /usr/local
UNITS ?= $(PREFIX)/lib/systemd/system
SYSUSERS ?= $(PREFIX)/lib/sysusers.d
TMPFILES ?= $(PREFIX)/lib/tmpfiles.d
# Where the service looks, whatever PREFIX is.
ETC ?= /etc
# Where cargo has put the binaries. Nothing is built here: sudo's PATH has no cargo, and root need not run compilers.
TARGET := $(or $(CARGO_TARGET_DIR),target)
at = $(DESTDIR)$(1)
share = $(call at,$(PREFIX)/share)
MAN = $(share)/man/man1
DOC = $(share)/doc/mvirt-net
DOCS := CHANGELOG.md $(wildcard docs/*.md)
DECISIONS := $(wildcard docs/decisions/*.md)
EXAMPLES := $(wildcard examples/client.*)
# What the programs contain of others, for people and for programs. `make build` makes them, where it has Python 3.11.
NOTICES := NOTICE mvirt-net.cdx.json
MAN5 = $(share)/man/man5
MAN8 = $(share)/man/man8
LIB = $(call at,$(PREFIX)/lib/mvirt)
CONFIG = $(call at,$(ETC)/mvirt/net.toml)
BASH = $(share)/bash-completion/completions
ZSH = $(share)/zsh/site-functions
FISH = $(share)/fish/vendor_completions.d
PROGRAMS := mvirt-net mvirt mvirt-switchyardd mvirt-vswitch mvirt-dives mvirt-egress
# Whose page and completions are made of their flags by --generate. mvirt has a page a command, and completions that ask the daemon;
# the flags of vswitch are those of another program, in its style.
GENERATED := mvirt-net mvirt-switchyardd mvirt-dives mvirt-egress

install: ## Install what `make build` has built, to $(DESTDIR)$(PREFIX), with completions, the manual and the systemd unit
	@for binary in $(PROGRAMS); do test -x $(TARGET)/release/$$binary || \
	    { echo "$(TARGET)/release/$$binary is not there: run 'make build' first, as yourself" >&2; exit 1; }; done
	install -D -m 755 -t $(call at,$(PREFIX)/bin) $(PROGRAMS:%=$(TARGET)/release/%)
	ln -sf mvirt-vswitch $(call at,$(PREFIX)/bin/vswitch)
	install -d $(call at,$(UNITS))
	sed 's|/usr/local/|$(PREFIX)/|' dist/mvirt-net.service >$(call at,$(UNITS)/mvirt-net.service)
	chmod 644 $(call at,$(UNITS)/mvirt-net.service)
	install -D -m 644 -t $(DOC) $(DOCS) dist/egress.conf $(wildcard $(NOTICES:%=$(TARGET)/release/%))
	install -D -m 644 -t $(DOC)/decisions $(DECISIONS)
	install -D -m 644 proto/net.proto $(share)/mvirt-net/net.proto
	install -D -m 644 -t $(DOC)/examples $(EXAMPLES)
# What they link to is elsewhere there.
	sed -i 's|](\.\./proto/|](../../mvirt-net/|g; s|](\.\./examples/|](examples/|g' $(addprefix $(DOC)/,$(notdir $(DOCS)))
	@! test -e $(TARGET)/guests/$(PRELOAD) || (set -x; install -D -m 644 -t $(LIB) $(TARGET)/guests/$(PRELOAD))
	install -D -m 644 dist/grafana.json $(share)/mvirt-net/grafana.json
	install -D -m 644 dist/mvirt-net.sysusers $(call at,$(SYSUSERS)/mvirt-net.conf)
	install -D -m 644 dist/mvirt-net.tmpfiles $(call at,$(TMPFILES)/mvirt-net.conf)
# What somebody has changed there stays.
	test -e $(CONFIG) || install -D -m 644 dist/net.toml $(CONFIG)
	install -d $(MAN) $(MAN5) $(MAN8) $(BASH) $(ZSH) $(FISH)
	$(TARGET)/release/mvirt man $(MAN)
	$(TARGET)/release/mvirt completions bash >$(BASH)/mvirt
	$(TARGET)/release/mvirt completions zsh >$(ZSH)/_mvirt
	$(TARGET)/release/mvirt completions fish >$(FISH)/mvirt.fish
	@set -e; for program in $(GENERATED); do generate="$(TARGET)/release/$$program --generate"; echo "$$generate …"; \
	    section=1; test $$program != mvirt-net || section=8; \
	    $$generate man >$(share)/man/man$$section/$$program.$$section; $$generate bash >$(BASH)/$$program; \
	    $$generate zsh >$(ZSH)/_$$program; $$generate fish >$(FISH)/$$program.fish; done
	$(TARGET)/release/mvirt-net --generate-file man >$(MAN5)/net.toml.5
	install -m 644 dist/mvirt-vswitch.1 $(MAN)/mvirt-vswitch.1
	ln -sf mvirt-vswitch.1 $(MAN)/vswitch.1
	install -m 644 dist/completions/vswitch.bash $(BASH)/vswitch
	install -m 644 dist/completions/_vswitch $(ZSH)/_vswitch
	install -m 644 dist/completions/vswitch.fish $(FISH)/vswitch.fish
# By each of its names it is looked for.
	ln -sf vswitch $(BASH)/mvirt-vswitch
	ln -sf vswitch.fish $(FISH)/mvirt-vswitch.fish
	@echo
	@echo 'To start the service, as root:'
	@echo '  systemd-sysusers $(SYSUSERS)/mvirt-net.conf && systemd-tmpfiles --create $(TMPFILES)/mvirt-net.conf && systemctl daemon-reload'
	@echo '  systemctl enable --now mvirt-net'

uninstall: ## Remove what `make install` has installed; networks and vNICs stay in /var/lib/mvirt/net, and a changed net.toml
	rm -f $(addprefix $(call at,$(PREFIX)/bin)/,$(PROGRAMS) vswitch) $(call at,$(UNITS)/mvirt-net.service) \
	    $(call at,$(SYSUSERS)/mvirt-net.conf) $(call at,$(TMPFILES)/mvirt-net.conf) $(MAN5)/net.toml.5 $(MAN8)/mvirt-net.8 \
	    $(addprefix $(share)/mvirt-net/,grafana.json net.proto) $(addprefix $(DOC)/,$(notdir $(DOCS)) egress.conf $(NOTICES)) \
	    $(addprefix $(DOC)/decisions/,$(notdir $(DECISIONS))) $(addprefix $(DOC)/,$(EXAMPLES)) $(LIB)/$(PRELOAD)
	for name in $(PROGRAMS) vswitch; do rm -f $(BASH)/$$name $(ZSH)/_$$name $(FISH)/$$name.fish $(MAN)/$$name.1; done
	rm -f $(MAN)/mvirt-{network,nic,port,forward,floating-ip,load-balancer,lease,mac,egress,trace,capture,extcap,vm,probe,doctor,reactor,top,watch,plug,yard,version,completions,man}{,-*}.1
	if cmp -s dist/net.toml $(CONFIG); then rm -f $(CONFIG) && rmdir --ignore-fail-on-non-empty $(dir $(CONFIG)); fi
	@! test -e $(CONFIG) || echo '$(CONFIG) stays: it was changed'

deb: build ## Make the Debian package, of all that `make install` installs, in target/
	scripts/deb.sh

.PHONY: help build clean demo check test clients book soak fuzz instructions bench install uninstall deb
