#!/bin/bash
# A script that uses the API of mvirt-net, by mvirt and jq: it makes a network and a vNIC, waits for an event, reads statistics, is
# refused, and deletes what it has made. The daemon is where MVIRT_NET_SERVER says, or where its service listens. client.rs and
# client.py do the same.
set -euo pipefail

network=$(mvirt -o json network create example --ipv4-subnet 10.9.0.0/24)
jq -r '"network \(.name): \(.ipv4_subnet)"' <<<"$network"

# What there is comes first, an event each, and then each change: a document a line.
coproc watch { exec mvirt -o json nic watch --network example; }
trap 'kill "$watch_PID" 2>/dev/null || true' EXIT

nic=$(mvirt -o json nic create example --name example-vm)
jq -r '"vNIC \(.name): \(.ipv4_address)"' <<<"$nic"
while read -r event <&"${watch[0]}"; do
    # An event without a vNIC says that it is gone.
    [ "$(jq -r '.nic.name' <<<"$event")" = example-vm ] || continue
    jq -r '.nic | "event: \(.name) is \(.state | sub("^NIC_STATE_"; "") | ascii_downcase)"' <<<"$event"
    break
done

mvirt -o json nic stats example-vm | jq -r '"statistics: \(.ingress_frames) frames from its guest"'

# Exit code 1 says that the daemon refuses, 2 that the command line is wrong. With -o json the error is a document, too.
if ! refused=$(mvirt -o json network create example --ipv4-subnet 10.9.0.0/24 2>&1); then
    jq -r '"refused: \(.error.reason) \(.error.field)"' <<<"$refused"
fi

mvirt -o json network delete example --force >/dev/null
echo deleted
