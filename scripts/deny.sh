#!/bin/bash
# Licences, sources and duplicates of the packages (deny.toml), and known vulnerabilities where the advisory database
# can be reached. Says what it cannot do.
set -euo pipefail
cd "$(dirname "$0")/.."
if ! command -v cargo-deny >/dev/null; then
    echo "cargo-deny is not installed: packages are not checked (cargo install --locked cargo-deny)"
    exit 0
fi
cargo deny --offline check bans licenses sources
cargo deny check advisories || { [ $? = 1 ] && ! cargo deny fetch 2>/dev/null && echo "the advisory database cannot be reached: advisories are not checked"; }
