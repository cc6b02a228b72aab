#!/bin/bash
# Every test; then what could not run here and why, and what was left behind, which is a failure. The guests and packages that tests
# need are there (make test).
set -uo pipefail
cd "$(dirname "$0")/.."

# Tests run with a folder for temporary files of their own, which other users may pass through, as those of libvirt do.
TMPDIR=$(mktemp -d /tmp/mvirt-test.XXXXXX)
MVIRT_NOT_RUN=$(mktemp)
export TMPDIR MVIRT_NOT_RUN
chmod 711 "$TMPDIR"
trap 'rm -rf "$TMPDIR" "$MVIRT_NOT_RUN"' EXIT

# What is where programs that the tests run have left things.
places() { find /run/dpdk /run/libvirt /run/mvirt "$HOME/.uml" /dev/shm -mindepth 1 -maxdepth 1 2>/dev/null | sort; }
before=$(places)

status=0
if command -v cargo-nextest >/dev/null; then
    cargo nextest run --locked --no-fail-fast --status-level slow --final-status-level fail || status=$?
else
    # One after the other: some measure, and some become the parent of others' orphans.
    cargo test --locked --no-fail-fast -- --test-threads=1 || status=$?
fi

if [ -s "$MVIRT_NOT_RUN" ]; then
    echo "Not run here:"
    sort -u "$MVIRT_NOT_RUN" | sed 's/^/  /'
fi
left=$(find "$TMPDIR" -mindepth 1 -maxdepth 1; comm -13 <(echo "$before") <(places))
if [ -n "$left" ]; then
    echo "Left behind by tests:"
    sed 's/^/  /' <<<"$left"
    [ $status != 0 ] || status=1
fi
exit $status
