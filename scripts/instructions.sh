#!/bin/bash
# Counts the instructions a frame takes through the packet path, ring to ring, and fails beyond a bound: unlike a time,
# the count is the same on every run. What bursts and the benchmark itself cost is counted with it.
set -euo pipefail
cd "$(dirname "$0")/.."

command -v valgrind >/dev/null || { apt-get update -qq && apt-get install -y -qq --no-install-recommends valgrind >/dev/null; }
program=$(cargo build --release --locked --example bursts --message-format=json-render-diagnostics |
    sed -n 's/.*"name":"bursts".*"executable":"\([^"]*\)".*/\1/p')

# Of so many bursts of 64 frames in a network of this kind.
count() {
    valgrind --tool=callgrind --callgrind-out-file=/dev/null "$program" "$1" "$2" "$3" 2>&1 |
        sed -n 's/.*Collected : //p'
}

check() {
    local kind=$1 len=$2 bound=$3 few many
    few=$(count 1000 "$len" "$kind")
    many=$(count 3000 "$len" "$kind")
    local frame=$(((many - few) / (2000 * 64)))
    echo "$frame instructions a $kind frame of $len octets (at most $bound)"
    [ "$frame" -le "$bound" ]
}

check routed 64 675
check routed 1500 1030
check switched 64 700
check switched 1500 1060
