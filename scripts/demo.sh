#!/bin/bash
# Boots three real Linux kernels on two isolated networks with the same subnet, and shows that the two in one network
# find their addresses and each other, and that the third reaches neither. Leaves nothing behind; exits 0 only if all
# of it was true.
set -uo pipefail
cd "$(dirname "$0")/.."
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
bin=$target/release
guests=$target/guests
work=$(mktemp -d "${TMPDIR:-/tmp}/mvirt-demo.XXXXXX")
groups=()
verdict=0

cleanup() {
    trap - EXIT INT TERM
    local group
    for group in "${groups[@]}"; do kill -KILL -- "-$group" 2>/dev/null; done
    [ -n "${daemon:-}" ] && kill -TERM "$daemon" 2>/dev/null && wait "$daemon" 2>/dev/null
    rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

if [ -t 1 ]; then bold=$'\e[1m' green=$'\e[32m' red=$'\e[31m' plain=$'\e[0m'; else bold= green= red= plain=; fi
title() { printf '\n%s%s%s\n' "$bold" "$*" "$plain"; }
good() { printf '  %s✓%s %s\n' "$green" "$plain" "$*"; }
bad() {
    printf '  %s✗%s %s\n' "$red" "$plain" "$*"
    verdict=1
}
give_up() {
    bad "$@"
    echo "--- mvirt-net ---"
    tail -20 "$work/daemon.log"
    exit 1
}
run() {
    printf '  $ %s\n' "$*"
    "$bin/mvirt" "${@:2}" >"$work/last" 2>&1 || give_up "$(cat "$work/last")"
}
# value_of FIELD FILE: a field of a JSON object that mvirt printed.
value_of() { sed -n "s/^  \"$1\": \"\(.*\)\",\{0,1\}$/\1/p" "$2"; }

# boot NAME: a guest on the vNIC of that name, its console on two pipes.
declare -A to from pid
boot() {
    local name=$1
    mkfifo "$work/$name.in" "$work/$name.out"
    HOME=$work TMPDIR=/dev/shm LD_PRELOAD=$guests/uml-xstate.so setsid "$bin/mvirt" vm start "$name" --nic "$name" --vmm uml --memory 128M \
        --initramfs "$guests/uml.cpio.gz" --cmdline "uml_dir=$work/ quiet" <"$work/$name.in" >"$work/$name.out" 2>"$work/$name.err" &
    pid[$name]=$!
    groups+=("$!")
    exec {to[$name]}>"$work/$name.in" {from[$name]}<"$work/$name.out"
}
# ask NAME SECONDS COMMAND: runs it in the guest; its output is in $answer, its status is ours.
ask() {
    local name=$1 seconds=$2 line
    answer=
    [ -n "$3" ] && echo "$3" >&"${to[$name]}"
    while IFS= read -r -t "$seconds" line <&"${from[$name]}"; do
        line=${line%$'\r'}
        case $line in
        '@@ ready') return 0 ;;
        '@@ '*) return "${line#@@ }" ;;
        *) answer+=$line$'\n' ;;
        esac
    done
    answer+="(no answer in $seconds s)"
    return 124
}
field() { sed -n "s/^$1 //p" <<<"$answer"; }

started=$(date +%s)
title "A daemon, two networks with the same subnet, three vNICs"
RUST_LOG=${RUST_LOG:-info} "$bin/mvirt-net" --listen "unix:$work/api" --socket-dir "$work/sockets" --metadata-dir "$work/metadata" \
    2>"$work/daemon.log" &
daemon=$!
export MVIRT_NET_SERVER=unix:$work/api
for _ in $(seq 100); do
    [ -S "$work/api" ] && "$bin/mvirt" version >/dev/null 2>&1 && break
    sleep 0.05
done
run mvirt network create --name prod --ipv4-subnet 10.0.0.0/24 --ipv6-prefix fd00::/64 --dns 1.1.1.1 --domain prod.internal
run mvirt network create --name test --ipv4-subnet 10.0.0.0/24 --ipv6-prefix fd00::/64
run mvirt nic create --network prod --name vm1
run mvirt nic create --network prod --name vm2
run mvirt nic create --network test --name vm3 --ipv4 10.0.0.3 --ipv6 fd00::3
declare -A ipv4 ipv6
for name in vm1 vm2 vm3; do
    "$bin/mvirt" -o json nic get $name >"$work/$name.json" || give_up "vNIC $name is gone"
    ipv4[$name]=$(value_of ipv4_address "$work/$name.json")
    ipv6[$name]=$(value_of ipv6_address "$work/$name.json")
done

title "Three Linux kernels boot (User-mode Linux)"
for name in vm1 vm2 vm3; do boot $name; done
for name in vm1 vm2 vm3; do
    ask $name 60 "" || give_up "$name did not boot: $answer$(cat "$work/$name.err")"
    ask $name 10 'uname -r' && good "$name runs Linux $(tr -d '\n' <<<"$answer")"
done

title "Each asks for its addresses"
for name in vm1 vm2 vm3; do
    ask $name 30 lease4 || give_up "$name got no DHCPv4 lease: $answer"
    if [ "$(field address)" = "${ipv4[$name]}/32" ] && [ "$(field gateway)" = 169.254.0.1 ]; then
        good "$name  DHCPv4  $(field address)  gateway $(field gateway)  $(field dns | sed 's/^./dns &/')  mtu $(field mtu)"
    else
        bad "$name  DHCPv4  $answer"
    fi
    ask $name 30 lease6 || give_up "$name got no DHCPv6 lease: $answer"
    if [ "$(field address)" = "${ipv6[$name]}/128" ] && [ "$(field gateway)" = fe80::1 ]; then
        good "$name  DHCPv6  $(field address)  default route by RA via $(field gateway)"
    else
        bad "$name  DHCPv6  $answer"
    fi
done

# reach FROM ADDRESS: four pings, all answered; the round trip times are told.
reach() {
    ask "$1" 20 "ping -c 4 -i 0.2 -W 2 $2"
    local status=$? rtt
    rtt=$(sed -n 's/^round-trip min.avg.max = //p' <<<"$answer")
    if [ $status = 0 ] && grep -q ' 0% packet loss' <<<"$answer"; then
        good "$1 → $2  min/avg/max $rtt"
    else
        bad "$1 → $2  $answer"
    fi
}
title "vm1 and vm2 reach each other and the gateway"
reach vm1 "${ipv4[vm2]}"
reach vm2 "${ipv4[vm1]}"
reach vm1 "${ipv6[vm2]}"
reach vm2 "${ipv6[vm1]}"
reach vm1 169.254.0.1

title "A TCP transfer from vm1 to vm2"
ask vm2 10 'iperf3 -s -D --logfile /dev/null && usleep 300000'
ask vm1 60 "iperf3 -c ${ipv4[vm2]} -n 256M -f m"
status=$?
received=$(sed -n 's/.*sec  *\([0-9.]* [KMG]*Bytes  *[0-9.]* Mbits\/sec\) .*receiver.*/\1/p' <<<"$answer")
if [ $status = 0 ] && [ -n "$received" ]; then
    good "$(tr -s ' ' <<<"$received")"
else
    bad "$answer"
fi

title "vm3, in the other network, reaches neither"
for address in "${ipv4[vm1]}" "${ipv4[vm2]}" "${ipv6[vm1]}" "${ipv6[vm2]}"; do
    ask vm3 20 "ping -c 2 -i 0.2 -W 1 $address"
    status=$?
    if [ $status = 1 ] && grep -q '100% packet loss' <<<"$answer"; then
        good "vm3 ↛ $address  2 sent, none answered"
    else
        bad "vm3 → $address  status $status: $answer"
    fi
done
reach vm3 169.254.0.1

title "What the daemon counted"
"$bin/mvirt" nic list | sed 's/^/  /; s/ *\/[^ ]*$//'
for name in vm1 vm2 vm3; do "$bin/mvirt" nic stats $name | sed "s/^/  $name  /"; done

for name in vm1 vm2 vm3; do echo 'poweroff -f' >&"${to[$name]}"; done
for name in vm1 vm2 vm3; do timeout 5 tail --pid="${pid[$name]}" -f /dev/null; done
kill -TERM "$daemon"
wait "$daemon" || bad "mvirt-net ended with status $?"
unset daemon
if [ $verdict = 0 ]; then
    printf '\n%sAll of it is true%s, in %d s.\n' "$green" "$plain" $(($(date +%s) - started))
else
    printf '\n%sNot all of it is true.%s\n' "$red" "$plain"
fi
exit $verdict
