#!/usr/bin/env python3
"""Measures ports of switched networks beside their peers: vde_switch, uml_switch, the kernel's bridge and its VXLAN.

Those that are compared are started at once and take turns in short slots, so that what the machine does meanwhile
befalls them all; ratios are of slots of the same round. The switch has one CPU. On the other one are its clients: two
of sockets (bench/clients.c), or guests of User-mode Linux that measure TCP with iperf3. A namespace behind a TAP device
is on the switch's CPU; of two hosts with a tunnel between them, each has one. System calls are counted in slots of
their own (perf).

Prints one table and writes every slot as JSON. Needs root: all of it happens in network namespaces of its own.
"""

import argparse
import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from run import BIN, ROOT, Generator, fail, machine, print_table, spread, wait_for

RELEASE, GUESTS = BIN / "release", BIN / "guests"
PROGRAMS = ["cc", "perf", "vde_switch", "uml_switch", "linux.uml", "iperf3", "busybox", "ip", "nsenter", "taskset"]
CLONE_NEWNET = 0x40000000
# How many frames wait in a UNIX socket of datagrams at most, in this network namespace.
QUEUE = Path("/proc/sys/net/unix/max_dgram_qlen")
A, B = "10.60.0.11", "10.60.0.12"
UNDERLAY = ["10.9.0.1", "10.9.0.2"]


def end(process):
    """Ends a process of our own."""
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class Space:
    """A network namespace with a CPU, which is there for as long as a process in it."""

    def __init__(self, contender, cpu):
        command = ["unshare", "--net", "sh", "-c", "echo; exec cat"]
        holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        contender.stack.callback(end, holder)
        holder.stdout.readline()
        self.stack, self.cpu, self.pid = contender.stack, cpu, holder.pid
        self.shell("ip link set lo up")

    def inside(self, *command):
        return ["taskset", "-c", self.cpu, "nsenter", f"--net=/proc/{self.pid}/ns/net", *map(str, command)]

    def shell(self, text):
        done = subprocess.run(self.inside("sh", "-ec", text), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode:
            fail(f"{text}: {done.stdout}")
        return done.stdout

    def serve(self):
        server = subprocess.Popen(self.inside("iperf3", "-s"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.stack.callback(end, server)


class Guest:
    """User-mode Linux with a shell on its console (guests/init)."""

    def __init__(self, contender, address, card, inside=lambda *command: command):
        _, cpu = contender.cpus
        home = contender.directory / address.split("/")[0]
        home.mkdir()
        environment = os.environ | {"HOME": str(home), "TMPDIR": "/dev/shm", "LD_PRELOAD": str(GUESTS / "uml-xstate.so")}
        linux = ["linux.uml", "mem=128M", f"initrd={GUESTS}/uml.cpio.gz", "con=null", "con0=fd:0,fd:1", "quiet", card]
        # It is many processes, all in a group.
        self.process = subprocess.Popen(
            inside("taskset", "-c", cpu, *linux), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=contender.log, text=True, process_group=0, env=environment
        )
        contender.stack.callback(self.stop)
        self.address = address

    def answer(self, what):
        """Returns what the console says up to the end of a command, which must succeed."""
        said = ""
        for line in self.process.stdout:
            if "@@ " in line:
                if line.split("@@ ")[1].strip() not in ("ready", "0"):
                    fail(f"{what}: {said}{line}")
                return said
            said += line
        fail(f"{what}: the guest ended: {said}")

    def shell(self, text):
        print(text, file=self.process.stdin, flush=True)
        return self.answer(text)

    def boot(self):
        self.answer("boot")
        # Its card is eth0, or vec0 by the driver that knows TAP devices.
        self.shell(f"for card in eth0 vec0; do ip addr add {self.address}/24 dev $card && ip link set $card up && break; done 2>/dev/null")

    def serve(self):
        self.shell("iperf3 -s -D --logfile /dev/null && usleep 500000")

    def stop(self):
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class Contender:
    """What is measured, and what sends and receives its frames."""

    def __init__(self, bench, stack):
        self.bench, self.stack = bench, stack
        self.cpus = [str(cpu) for cpu in bench.options.cpus]
        self.directory = Path(tempfile.mkdtemp(dir=bench.directory))
        self.log = stack.enter_context(open(self.directory / "log", "ab"))
        # Whose system calls are counted.
        self.switches = []

    def spawn(self, *command, space=None):
        """Starts a switch, on the first CPU or in a namespace. Its standard input stays open: some end with it."""
        command = [*map(str, space.inside(*command) if space else ["taskset", "-c", self.cpus[0], *command])]
        switch = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=self.log, stderr=self.log, process_group=0)
        self.stack.callback(end, switch)
        self.switches.append(switch.pid)

    def daemon(self, *network, kind="switched", flags=(), space=None):
        """Starts mvirt-net with a network. Returns its folder, and what runs a command of mvirt."""
        folder = self.directory / str(len(self.switches))
        folder.mkdir()
        api = f"unix:{folder}/api"
        folders = ["--socket-dir", folder / "s", "--metadata-dir", folder / "m", "--port-dir", folder]
        reach = ["--port-listen", "10.9.0.0/24", "--reactors", "1"]
        self.spawn(RELEASE / "mvirt-net", "--listen", api, *folders, *reach, *flags, space=space)

        def ask(*command):
            command = [RELEASE / "mvirt", "--net-server", api, "-o", "json", *map(str, command)]
            return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=self.log).stdout)

        wait_for("mvirt-net: its API", (folder / "api").exists)
        ask("network", "create", "lab", "--kind", kind, *network)
        return folder, ask


class Clients(Generator):
    """Two clients of a switch (bench/clients.c). They are asked as the guests of DPDK's are."""

    def __init__(self, contender, *way):
        self.seconds = contender.bench.options.seconds
        self.patience = 30 + self.seconds
        self.log = open(contender.directory / "clients.log", "ab")
        command = ["taskset", "-c", contender.cpus[1], contender.bench.clients, *way]
        self.process = subprocess.Popen(
            [*map(str, command)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            process_group=0,
            cwd=contender.directory,
        )
        contender.stack.callback(self.stop)
        self.answer()

    def open(self):
        """Nothing: it has told when it was ready."""

    def slot(self, verb, size):
        result = self.ask(verb, self.seconds, size)
        if result["bad"]:
            fail(f"{result['bad']} damaged frames")
        return result


class Tcp:
    """TCP from one end to the other, each a guest or a namespace."""

    def __init__(self, contender, client, server):
        self.client, self.server = client, server
        # iperf3 counts whole ones.
        self.seconds = max(1, round(contender.bench.options.seconds))

    def open(self):
        """Waits until the one hears the other."""
        for guest in (self.client, self.server):
            if isinstance(guest, Guest):
                guest.boot()
        self.server.serve()
        self.client.shell(f"for try in 1 2 3 4 5 6 7 8 9; do busybox ping -c 1 -W 1 {B} >/dev/null && break; done")

    def frames(self):
        """Returns how many frames the client's devices have sent and received by now."""
        lines = self.client.shell("cat /proc/net/dev").splitlines()[2:]
        counts = [line.split(":")[1].split() for line in lines]
        return sum(int(count[1]) + int(count[9]) for count in counts)

    def slot(self, *arguments):
        before = self.frames()
        said = self.client.shell(f"iperf3 -J -l 64K -c {B} -t {self.seconds} {' '.join(arguments)}")
        received = json.loads(said)["end"]["sum_received"]
        return {"seconds": received["seconds"], "frames": self.frames() - before, "mbps": received["bits_per_second"] / 1e6}


def vde_port(contender):
    """Returns the control socket of a VDE port."""
    folder, mvirt = contender.daemon()
    mvirt("port", "create", "lab", f"switch://{folder}/vde")
    wait_for("mvirt-net: its VDE port", (folder / "vde/ctl").exists)
    return folder / "vde/ctl"


def vde_switch(contender):
    folder = contender.directory / "vde"
    contender.spawn("vde_switch", "-s", folder)
    wait_for("vde_switch: its socket", (folder / "ctl").exists)
    return folder / "ctl"


def uml_switch(contender):
    control = contender.directory / "ctl"
    contender.spawn("uml_switch", "-unix", control)
    wait_for("uml_switch: its socket", control.exists)
    return control


def stream_port(contender):
    """Returns the address of a port that QEMU's netdev stream connects to."""
    _, mvirt = contender.daemon()
    mvirt("port", "create", "lab", "stream-listen://127.0.0.1:9999")
    return listening(9999)


def vswitch(contender, program, port):
    contender.spawn(program, "-ports", f"127.0.0.1:{port}")
    return listening(port)


def listening(port):
    """Waits for somebody to listen there. Returns the address."""
    # TCP_LISTEN is 10 (proc_net_tcp, in Linux's documentation).
    wait_for(f"a listener at {port}", lambda: f":{port:04X} 00000000:0000 0A" in Path("/proc/net/tcp").read_text())
    return "127.0.0.1", port


def guests(contender, control):
    """Two guests whose driver speaks to a VDE switch, or to UML's own, which has the same protocol."""
    cards = [f"eth0=daemon,02:00:00:00:00:0{at},unix,{control}" for at in (1, 2)]
    return Tcp(contender, *(Guest(contender, address, card) for address, card in zip((A, B), cards)))


def guest_and_tap(contender):
    """A vhost-user guest, and a namespace behind a TAP port."""
    space = Space(contender, contender.cpus[0])
    _, mvirt = contender.daemon("--ipv4-subnet", "10.60.0.0/24", "--gateway", "off", space=space)
    nic = mvirt("nic", "create", "lab", "--name", "guest", "--ipv4", A)
    guest = Guest(contender, A, f"virtio_uml.device={nic['socket_path']}:1")
    mvirt("port", "create", "lab", "tap://t0[create/up]")
    space.shell(f"ip addr add {B}/24 dev t0")
    return Tcp(contender, guest, space)


def guest_and_bridge(contender):
    """A guest on a TAP device, by the driver that leaves segmentation to it, on a bridge."""
    space = Space(contender, contender.cpus[0])
    space.shell(f"ip link add br0 type bridge; ip addr add {B}/24 dev br0; ip tuntap add t0 mode tap vnet_hdr")
    space.shell("ip link set t0 master br0 up; ip link set br0 up")
    return Tcp(contender, Guest(contender, A, "vec0:transport=tap,ifname=t0,depth=128,gro=1", space.inside), space)


def hosts(contender):
    """Two namespaces with a cable between them."""
    spaces = [Space(contender, cpu) for cpu in contender.cpus]
    spaces[0].shell(f"ip link add e0 type veth peer name e0 netns {spaces[1].pid}")
    for space, own in zip(spaces, UNDERLAY):
        space.shell(f"ip addr add {own}/24 dev e0; ip link set e0 up")
    return spaces


def daemons_and_vxlan(contender):
    spaces = hosts(contender)
    for space, own, other, address in zip(spaces, UNDERLAY, reversed(UNDERLAY), (A, B)):
        _, mvirt = contender.daemon(space=space)
        mvirt("port", "create", "lab", f"vxlan:///vni=42/remote={other}/local={own}")
        mvirt("port", "create", "lab", "tap://t0[create/up/mtu=1450]")
        space.shell(f"ip addr add {address}/24 dev t0")
    return Tcp(contender, *spaces)


def bridges_and_vxlan(contender):
    spaces = hosts(contender)
    for space, own, other, address in zip(spaces, UNDERLAY, reversed(UNDERLAY), (A, B)):
        space.shell(f"ip link add br0 type bridge; ip link add vx0 type vxlan id 42 local {own} remote {other} dstport 4789")
        space.shell(f"ip link set vx0 master br0 up; ip addr add {address}/24 dev br0; ip link set br0 mtu 1450 up")
    return Tcp(contender, *spaces)


@dataclass
class Measure:
    """A row of the table for each peer."""

    name: str
    slot: tuple
    """What a slot is asked for."""
    targets: dict[str, float]
    """How many times as much as each of these peers is wanted; of what is `less`, at most."""
    unit: str = "Mbit/s"
    field: str = "mbps"
    less: bool = False


@dataclass
class Stage:
    """What is measured together: ours comes first."""

    contenders: dict[str, Callable]
    measures: list[Measure]


def stages(options):
    kpps = {"unit": "kpps", "field": "kpps"}
    streams = {
        "mvirt-net": lambda c: Clients(c, "stream", *stream_port(c)),
        "mvirt-vswitch": lambda c: Clients(c, "stream", *vswitch(c, RELEASE / "mvirt-vswitch", 9998)),
        "no switch": lambda c: Clients(c, "direct"),
    }
    if options.vswitch:
        streams["vswitch"] = lambda c: Clients(c, "stream", *vswitch(c, options.vswitch, 9997))
    return [
        Stage(
            {
                "mvirt-net": lambda c: Clients(c, "vde", vde_port(c)),
                "vde_switch": lambda c: Clients(c, "vde", vde_switch(c)),
                "no switch": lambda c: Clients(c, "datagrams"),
            },
            [
                Measure("VDE clients, 64 B", ("blast", 64), {"vde_switch": 3}, **kpps),
                Measure("VDE clients, 1500 B", ("blast", 1500), {"vde_switch": 3}, **kpps),
                Measure("VDE clients, request/response", ("ask", 64), {"vde_switch": 0.7}, "us, p50", "p50_us", less=True),
            ],
        ),
        Stage(streams, [Measure("QEMU streams, 1500 B", ("blast", 1500), {"vswitch": 1.2, "no switch": 0.9}, **kpps)]),
        Stage(
            {
                "mvirt-net": lambda c: guests(c, vde_port(c)),
                "vde_switch": lambda c: guests(c, vde_switch(c)),
                "uml_switch": lambda c: guests(c, uml_switch(c)),
            },
            [Measure("TCP, two UML on VDE ports", (), {"vde_switch": 1.5, "uml_switch": 1.5})],
        ),
        Stage(
            {"mvirt-net": guest_and_tap, "bridge": guest_and_bridge},
            [
                Measure("TCP, UML vhost-user to TAP", (), {"bridge": 0.9}),
                Measure("TCP, TAP to UML vhost-user", ("-R",), {"bridge": 0.9}),
            ],
        ),
        Stage(
            {"mvirt-net": daemons_and_vxlan, "bridges": bridges_and_vxlan},
            [Measure("TCP over VXLAN, TAP to TAP", (), {"bridges": 0.8})],
        ),
    ]


class SystemCalls:
    """Counts those of processes."""

    def __init__(self, processes):
        pids = ",".join(map(str, processes))
        (there, self.control), (self.done, here) = os.pipe(), os.pipe()
        command = ["perf", "stat", "-x", ",", "-e", "raw_syscalls:sys_enter", "-p", pids, "-D", "-1", "--control", f"fd:{there},{here}"]
        self.perf = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, pass_fds=(there, here))
        os.close(there), os.close(here)
        self.tell("enable")

    def tell(self, what):
        os.write(self.control, f"{what}\n".encode())
        os.read(self.done, 8)

    def stop(self):
        """Returns how many there were."""
        self.tell("disable")
        self.perf.send_signal(signal.SIGINT)
        said = self.perf.communicate()[1]
        os.close(self.control), os.close(self.done)
        return next(int(line.split(",")[0]) for line in said.splitlines() if "sys_enter" in line)


class Bench:
    def __init__(self, options, directory):
        self.options, self.directory = options, directory
        self.clients = directory / "clients"
        subprocess.run(["cc", "-O3", "-o", self.clients, ROOT / "bench/clients.c"], check=True)
        self.slots, self.calls, self.rows = [], [], []

    def run(self, stage, measures):
        """Runs these measures of a stage."""
        with ExitStack() as stack:
            contenders = {name: Contender(self, stack) for name in stage.contenders}
            traffic = {name: start(contenders[name]) for name, start in stage.contenders.items()}
            # All guests boot at the same time.
            for ends in traffic.values():
                ends.open()
            for measure in measures:
                for number in range(self.options.rounds):
                    for name in traffic:
                        slot = traffic[name].slot(*measure.slot)
                        self.slots.append({"measure": measure.name, "switch": name, "round": number, **slot})
                    print(f"\r{measure.name}: round {number + 1} of {self.options.rounds}  ", end="", file=sys.stderr, flush=True)
                print(file=sys.stderr)
                calls = {name: self.calls_a_frame(contenders[name].switches, traffic[name], measure) for name in traffic}
                self.calls.append({"measure": measure.name, "calls_a_frame": calls})
                ours, *peers = traffic
                self.rows += [self.row(measure, ours, peer, calls) for peer in peers]

    def calls_a_frame(self, switches, traffic, measure):
        """Returns how many system calls each switch makes for a frame."""
        if not switches:
            return None
        calls = SystemCalls(switches)
        frames = traffic.slot(*measure.slot)["frames"]
        return calls.stop() / len(switches) / max(frames, 1)

    def row(self, measure, ours, peer, calls):
        of = lambda name: [slot[measure.field] for slot in self.slots if (slot["measure"], slot["switch"]) == (measure.name, name)]
        mine, its = of(ours), of(peer)
        ratios = [one / max(other, 1e-9) for one, other in zip(mine, its)]
        target, verdict = "", ""
        if peer in measure.targets:
            wanted, reached = measure.targets[peer], median(ratios)
            target = f"{'≤' if measure.less else '≥'} {wanted}"
            verdict = "met" if (reached <= wanted if measure.less else reached >= wanted) else "missed"
        digits = 1 if measure.less else 0
        cells = [spread(mine, digits), peer, spread(its, digits), f"{spread(ratios, 2)} n={len(ratios)}", target, verdict]
        made = ["-" if calls[name] is None else f"{calls[name]:.2f}" for name in (ours, peer)]
        return [f"{measure.name} ({measure.unit})", *cells, ", ".join(made)]


def arguments(stages, description, programs, json):
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    cpus = sorted(os.sched_getaffinity(0))
    pair = lambda text: [int(cpu) for cpu in text.split(",")]
    parser.add_argument("--cpus", type=pair, default=cpus[:2], metavar="A,B", help="the two CPUs (default: the first ones)")
    parser.add_argument("--rounds", type=int, default=8, help="slots of each contender and measure (default: 8)")
    parser.add_argument("--seconds", type=float, default=1, help="length of a slot; whole ones, at least 1, where iperf3 measures (default: 1)")
    parser.add_argument("--only", default="", help="measures whose name contains this")
    parser.add_argument("--queue", type=int, default=512, help="net.unix.max_dgram_qlen meanwhile; Linux has 10 (default: 512, as systemd sets it)")
    parser.add_argument("--vswitch", type=Path, metavar="PROGRAM", help="a program that takes vswitch's flags, to be measured beside")
    parser.add_argument("--json", type=Path, default=BIN / json, help=f"where every slot goes (default: target/{json})")
    options = parser.parse_args()
    names = [measure.name for stage in stages(options) for measure in stage.measures]
    if not any(options.only in name for name in names):
        parser.error(f"--only {options.only!r}: none of {names}")
    if len(options.cpus) != 2 or not set(options.cpus) <= set(cpus) or options.cpus[0] == options.cpus[1]:
        parser.error(f"--cpus: two different CPUs of {cpus} are needed")
    if os.geteuid() != 0:
        parser.error("only root can make network namespaces and TAP devices")
    missing = [program for program in PROGRAMS + programs if not shutil.which(program)]
    if missing:
        parser.error(f"{', '.join(missing)} missing: scripts/install.sh gcc libc6-dev linux-perf uml-utilities python3 slirp4netns passt")
    if not (GUESTS / "uml.cpio.gz").exists():
        parser.error("the guests are missing: guests/build.sh")
    return options


def main(stages, description, programs, json_name):
    options = arguments(stages, description, programs, json_name)
    # What was started is ended on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("bench: ended by SIGTERM"))
    if ctypes.CDLL(None).unshare(CLONE_NEWNET):
        fail("no network namespace can be made")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    QUEUE.write_text(str(options.queue))
    with tempfile.TemporaryDirectory(prefix="mvirt-bench.") as directory:
        bench = Bench(options, Path(directory))
        try:
            for stage in stages(options):
                measures = [measure for measure in stage.measures if options.only in measure.name]
                if measures:
                    bench.run(stage, measures)
        except subprocess.SubprocessError as error:
            logs = [log for log in sorted(Path(directory).glob("*/*log")) if log.stat().st_size]
            fail("\n".join([str(error), *(f"--- {log}\n{log.read_text(errors='replace')[-2000:]}" for log in logs)]))
    rows = [["measure", "mvirt-net", "beside", "its", "ratio", "target", "", "system calls a frame: ours, its"], *bench.rows]
    print_table(rows)
    print(f"Medians (min..max); ratios of slots of the same round. A UNIX socket of datagrams holds {options.queue} frames here.")
    options.json.parent.mkdir(parents=True, exist_ok=True)
    result = {"machine": machine(), "queue": options.queue, "table": rows, "system_calls": bench.calls, "slots": bench.slots}
    options.json.write_text(json.dumps(result, indent=1))
    print(f"Every slot: {options.json}")


if __name__ == "__main__":
    main(stages, __doc__, [], "ports-bench.json")
