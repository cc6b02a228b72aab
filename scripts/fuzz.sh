#!/bin/bash
# fuzz.sh SECONDS: fuzzes every target for so long, from tests/fuzz/seeds on; 0: builds them. Installs cargo-fuzz where it is missing. What
# was found worth keeping goes to tests/fuzz/corpus; a crash, or an input that takes seconds, ends it with status 1 and a file in
# tests/fuzz/artifacts.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-60}
command -v cargo-fuzz >/dev/null || cargo install --quiet --locked cargo-fuzz
# Sanitizers are a nightly feature; a stable compiler has them all the same.
export RUSTC_BOOTSTRAP=1
cargo fuzz build --fuzz-dir tests/fuzz
[ "$seconds" != 0 ] || exit 0
for target in packet session switch store api locator switchyard_message dives_advert vde_request stream_framing vxlan tap_frame join egress_packet segment_frame filter dns_message dns_answer; do
    # As long as the longest frame (64 KiB and an Ethernet header), or as the guest's whole memory: work that grows with the length
    # shows only there. Nothing a guest sends may take a second, even in this slow build; the clock ticks every two.
    case $target in
    packet) longest=65549 limit=2 ;;
    switch) longest=65537 limit=2 ;;
    *) longest=2048 limit=10 ;;
    esac
    mkdir -p "tests/fuzz/corpus/$target" "tests/fuzz/seeds/$target"
    cargo fuzz run --fuzz-dir tests/fuzz "$target" "tests/fuzz/corpus/$target" "tests/fuzz/seeds/$target" -- \
        -max_total_time="$seconds" -max_len=$longest -timeout=$limit -print_final_stats=1 2>&1 |
        grep -vE '^#|NEW_FUNC|^INFO: (Loaded|Running)|Compiling' | tail -12
done
