#!/bin/bash
# Boots three real Linux kernels on two isolated networks with the same subnet, and shows that the two in one network
# find their addresses and each other, and that the third reaches neither. Leaves nothing behind; exits 0 only if all
# of it was true.
set -uo pipefail
cd "$(dirname "$0")/.."
. scripts/demo-lib.sh

title "A daemon, two networks with the same subnet, three vNICs"
start_daemon
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
finish
