#!/usr/bin/env python3
"""Measures ways out of the host beside their peers: the kernel's bridge and masquerade, slirp4netns, pasta.

As bench/ports.py, of which it has everything but what is measured: those that are compared take turns, and ratios are
of slots of the same round. The host of each contender is a network namespace on the first CPU, with the switch and
what leads out; its guest and the world are on the second one.
"""

import subprocess

from ports import B, Guest, Measure, Space, Stage, Tcp, main
from run import wait_for

HOST = "10.60.0.1"
PEERS = ["slirp4netns", "pasta", "nft", "python3"]
# Opens connections one after the other, each until it is accepted and closed by the other end.
CONNECT = """
import socket, sys, time
end, made = time.monotonic() + float(sys.argv[2]), 0
while time.monotonic() < end:
    with socket.create_connection((sys.argv[1], 7)) as s: s.recv(1)
    made += 1
print(made)
"""
ACCEPT = """
import socket
server = socket.create_server(("", 7), backlog=512)
print(flush=True)
while True: server.accept()[0].close()
"""


class Out(Tcp):
    """What goes from a guest to the world."""

    def open(self):
        super().open()
        accepts = subprocess.Popen(self.server.inside("python3", "-c", ACCEPT), stdout=subprocess.PIPE)
        self.server.stack.callback(accepts.kill)
        accepts.stdout.readline()

    def slot(self, what, *arguments):
        if what == "tcp":
            return super().slot(*arguments)
        before = self.frames()
        if what == "ping":
            said = self.client.shell(f"busybox ping -A -q -c {300 * self.seconds} {B}")
            times = said.split("min/avg/max = ")[1].split(" ")[0]
            result = {"us": float(times.split("/")[1]) * 1000}
        else:
            made = int(self.client.shell(f"python3 -c '{CONNECT}' {B} {self.seconds}"))
            result = {"rate": made / self.seconds}
        return {"frames": self.frames() - before, **result}


class Machine(Guest):
    """A guest whose gateway is the host."""

    def __init__(self, contender, address, route, card, inside):
        super().__init__(contender, address, card, inside)
        self.route = route

    def boot(self):
        self.answer("boot")
        self.shell(f"for card in eth0 vec0; do ip addr add {self.address} dev $card && ip link set $card up && {self.route} && break; done 2>/dev/null")


def host(contender):
    """Returns a host, and a world at the other end of its cable."""
    space, world = (Space(contender, cpu) for cpu in contender.cpus)
    space.shell(f"ip link add e0 type veth peer name e0 netns {world.pid}; ip addr add {HOST}/24 dev e0; ip link set e0 up")
    space.shell("sysctl -qw net.ipv4.ip_forward=1; sysctl -qw net.ipv4.ping_group_range='0 2147483647'; ip route add default via " + B)
    world.shell(f"ip addr add {B}/24 dev e0; ip link set e0 up")
    return space, world


def mvirt(contender, space, how):
    """Starts mvirt-net with a public network. Returns what runs a command of mvirt."""
    _, ask = contender.daemon("--ipv4-subnet", "10.61.0.0/24", "--public", kind="routed", flags=("--egress", how), space=space)
    return ask


def machine_by_tun(contender):
    space, world = host(contender)
    nic = mvirt(contender, space, "tun")("nic", "create", "lab", "--name", "guest")
    route = "ip route add 169.254.0.1 dev $card && ip route add default via 169.254.0.1"
    card = f"virtio_uml.device={nic['socket_path']}:1"
    return Out(contender, Machine(contender, nic["ipv4_address"], route, card, space.inside), world)


def machine_by_bridge(contender):
    space, world = host(contender)
    space.shell("ip link add br0 type bridge; ip addr add 10.61.0.1/24 dev br0; ip tuntap add t0 mode tap vnet_hdr; ip link set t0 master br0 up; ip link set br0 up")
    space.shell("nft 'table ip nat { chain post { type nat hook postrouting priority srcnat; ip saddr 10.61.0.0/24 masquerade; }; }'")
    card = "vec0:transport=tap,ifname=t0,depth=128,gro=1"
    return Out(contender, Machine(contender, "10.61.0.2/24", "ip route add default via 10.61.0.1", card, space.inside), world)


def container(contender):
    """Returns a namespace that has nothing yet."""
    return Space(contender, contender.cpus[1])


def container_by_sockets(contender):
    space, world = host(contender)
    guest = container(contender)
    nic = mvirt(contender, space, "user")("nic", "create", "lab", "--name", "guest", "--transport", "tap", "--tap-interface", "g0")
    space.shell(f"ip link set g0 netns {guest.pid}")
    guest.shell(f"ip addr add {nic['ipv4_address']}/32 dev g0; ip link set g0 up; ip route add 169.254.0.1 dev g0; ip route add default via 169.254.0.1")
    return Out(contender, guest, world)


def container_by_slirp4netns(contender):
    space, world = host(contender)
    guest = container(contender)
    contender.spawn("slirp4netns", "--configure", "--mtu", "1500", guest.pid, "g0", space=space)
    wait_for("slirp4netns: its route", lambda: "default" in guest.shell("ip route"))
    return Out(contender, guest, world)


def container_by_pasta(contender):
    space, world = host(contender)
    guest = container(contender)
    # A file of its own: once it has given up its rights, it may not look into processes.
    file = contender.directory / "netns"
    file.touch()
    subprocess.run(["mount", "--bind", f"/proc/{guest.pid}/ns/net", file], check=True)
    contender.stack.callback(subprocess.run, ["umount", "--lazy", file])
    options = ["--foreground", "--config-net", "--mtu", "1500", "--no-map-gw", "--runas", "0", "--netns-only"]
    contender.spawn("pasta", *options, "--netns", file, "--ns-ifname", "g0", space=space)
    wait_for("pasta: its route", lambda: "default" in guest.shell("ip route"))
    return Out(contender, guest, world)


def stages(options):
    microseconds = {"unit": "us, mean", "field": "us", "less": True}
    return [
        Stage(
            {"mvirt-net, tun": machine_by_tun, "bridge": machine_by_bridge},
            [
                Measure("TCP, UML to the world", ("tcp",), {"bridge": 0.9}),
                Measure("TCP, the world to UML", ("tcp", "-R"), {"bridge": 0.9}),
                Measure("Ping, UML to the world", ("ping",), {"bridge": 1.1}, **microseconds),
            ],
        ),
        Stage(
            {"mvirt-net, user": container_by_sockets, "slirp4netns": container_by_slirp4netns, "pasta": container_by_pasta},
            [
                Measure("TCP, container to the world", ("tcp",), {"slirp4netns": 2, "pasta": 0.5}),
                Measure("TCP, the world to container", ("tcp", "-R"), {"slirp4netns": 2, "pasta": 0.5}),
                Measure("Ping, container to the world", ("ping",), {"slirp4netns": 1}, **microseconds),
                Measure("Connections, container to the world", ("connect",), {"slirp4netns": 1}, unit="a second", field="rate"),
            ],
        ),
    ]


if __name__ == "__main__":
    main(stages, __doc__, PEERS, "egress-bench.json")
