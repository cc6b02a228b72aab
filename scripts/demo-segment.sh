#!/bin/bash
# One switched network with six kinds of member: a vhost-user guest, a QEMU that dials a TCP socket, a TAP device, a
# stock vde_plug, a DiVES switch and a Switchyard program. Shows that all of them reach each other, who is where, and
# what a storm from one of them does to the others. All of it happens in network namespaces of its own, so that an
# ordinary user may run it; leaves nothing behind; exits 0 only if all of it was true.
set -uo pipefail
cd "$(dirname "$0")/.."
own_network=1
. scripts/demo-lib.sh

# Multicast of DiVES is to stay on this host.
ip link set lo up multicast on
ip route add 239.13.13.13/32 dev lo

# enter NAME DEVICE ADDRESS: moves a device there and gives it an address.
enter() {
    for _ in $(seq 100); do ip link show "$2" >/dev/null 2>&1 && break; sleep 0.05; done
    ip link set "$2" netns "${space[$1]}" && inside "$1" ip link set lo up &&
        inside "$1" ip addr add "$3/24" dev "$2" && inside "$1" ip link set "$2" up || give_up "$1: $2 cannot be moved"
}

title "A switched network, and six ways into it"
start_daemon --port-dir "$work"
run mvirt network create lab --kind switched
run mvirt nic create lab --name guest
run mvirt port create lab stream-listen://127.0.0.1:9999 --name qemu
run mvirt port create lab tap://mvtap0 --name tap
run mvirt port create lab "switch://$work/vde" --name vde
run mvirt port create lab dives://239.13.13.13:3535/host=127.0.0.1/vlan=5 --name dives
run mvirt port create lab switchyard-listen://127.0.0.1:9998 --name yard

title "A guest of User-mode Linux, and one of QEMU: -netdev socket,connect=127.0.0.1:9999"
boot guest
mkfifo "$work/qemu.in" "$work/qemu.out"
setsid qemu-system-x86_64 -accel tcg -m 192M -display none -no-reboot -serial stdio -monitor none \
    -kernel "$guests/vmlinuz" -initrd "$guests/qemu.cpio.gz" -append "console=ttyS0 quiet" \
    -netdev socket,id=net0,connect=127.0.0.1:9999 -device virtio-net-pci,netdev=net0,mac=52:54:00:00:00:02 \
    <"$work/qemu.in" >"$work/qemu.out" 2>"$work/qemu.err" &
pid[qemu]=$!
groups+=("$!")
exec {to[qemu]}>"$work/qemu.in" {from[qemu]}<"$work/qemu.out"
for name in guest qemu; do
    ask $name 120 "" || give_up "$name did not boot: $answer$(cat "$work/$name.err")"
    ask $name 10 'uname -r' && good "$name runs Linux $(tr -d '\n\r' <<<"$answer")"
done
ask guest 10 'ip addr add 10.9.0.1/24 dev eth0; ip link set eth0 up'
ask qemu 10 'ip addr add 10.9.0.2/24 dev eth0; ip link set eth0 up'

title "A namespace behind the TAP device, one behind vde_plug, one behind another DiVES switch, a program"
for name in tap vde dives; do namespace $name; done
enter tap mvtap0 10.9.0.3
setsid vde_plug "vde://$work/vde" tap://mvvde0 2>"$work/vde.err" &
groups+=("$!")
disown
enter vde mvvde0 10.9.0.4
# Another host of the mesh: its address is another one of the loopback.
mkfifo "$work/console"
setsid "$bin/mvirt-dives" -h 127.0.0.2 -u "$work" <"$work/console" >"$work/dives.out" 2>"$work/dives.err" &
groups+=("$!")
disown
exec {console}>"$work/console"
printf 'vlan 5\ntap mvdives0\n' >&"$console"
enter dives mvdives0 10.9.0.5
setsid "$bin/mvirt" yard echo --pings --server 127.0.0.1:9998 --ip 10.9.0.6 >"$work/yard.out" 2>&1 &
groups+=("$!")
disown

# answers FROM TO ADDRESS: three pings, all answered.
answers() {
    local said
    if [ -n "${space[$1]:-}" ]; then
        said=$(inside "$1" busybox ping -c 3 -i 0.2 -W 3 "$3" 2>&1)
    else
        ask "$1" 30 "ping -c 3 -i 0.3 -W 3 $3"
        said=$answer
    fi
    grep -q ' 0% packet loss' <<<"$said" && return
    bad "$1 → $2: $said"
    return 1
}
members=(guest qemu tap vde dives yard)
title "All of them reach each other"
for from in guest qemu tap vde dives; do
    reached=()
    for at in "${!members[@]}"; do
        to_name=${members[$at]}
        [ "$to_name" = "$from" ] && continue
        answers "$from" "$to_name" "10.9.0.$((at + 1))" && reached+=("$to_name")
    done
    [ ${#reached[@]} = 5 ] && good "$from → ${reached[*]}"
done

title "Who is where"
"$bin/mvirt" port list | sed 's/^/  /'
"$bin/mvirt" mac list lab | sed 's/^/  /'

title "A storm from behind vde_plug, and what the others feel of it"
before=$(inside tap busybox ping -c 20 -i 0.05 -W 2 10.9.0.5 | sed -n 's/^round-trip .* = //p')
inside vde python3 - <<'STORM' &
import socket, time
# Broadcasts of an EtherType for experiments: 20,000 a second, for four seconds. More would take the CPUs from the guests.
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.bind(("mvvde0", 0))
frame = b"\xff" * 6 + bytes.fromhex("0200000000aa") + b"\x88\xb5" + bytes(46)
end, sent = time.monotonic() + 4, 0
while time.monotonic() < end:
    for _ in range(100):
        try:
            s.send(frame)
            sent += 1
        except OSError:
            pass
    time.sleep(0.005)
print(f"  {sent} broadcasts in 4 s")
STORM
storm=$!
sleep 0.5
during=$(inside tap busybox ping -c 40 -i 0.05 -W 2 10.9.0.5)
wait $storm
answered=$(sed -n 's/.* \([0-9]*\) packets received.*/\1/p' <<<"$during")
# Innocents keep 95 % of what they have: one CPU that is late is no storm's fault.
if [ "${answered:-0}" -ge 38 ]; then
    good "tap → dives: $answered of 40 pings answered; round trips before: $before, meanwhile: $(sed -n 's/^round-trip .* = //p' <<<"$during")"
else
    bad "tap → dives meanwhile: $during"
fi
dropped=$("$bin/mvirt" port stats vde | sed -n 's/^dropped *\([0-9]*\) .*storm_limited.*/\1/p')
[ "${dropped:-0}" -gt 0 ] && good "the network took 2000 a second, and dropped $dropped" || bad "no storm was limited: $("$bin/mvirt" port stats vde)"

for name in guest qemu; do echo 'poweroff -f' >&"${to[$name]}"; done
for name in guest qemu; do timeout 5 tail --pid="${pid[$name]}" -f /dev/null; done
finish
