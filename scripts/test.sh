#!/bin/bash
# Every test. The guests and packages they need are there (make test).
set -euo pipefail
cd "$(dirname "$0")/.."
if command -v cargo-nextest >/dev/null; then
    cargo nextest run --locked --no-fail-fast --status-level slow --final-status-level fail
else
    cargo test --locked --no-fail-fast
fi
