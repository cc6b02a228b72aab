#!/usr/bin/env python3
"""Measures vhost-user switches side by side: mvirt-net, DPDK's testpmd and, where it is installed, Open vSwitch.

Each switch runs on one CPU, between guests that bench/generator.c plays on another. Those of a chapter are started and
connected at once; then they take turns in short slots, the others stopped (SIGSTOP), so that what the machine does meanwhile
befalls all of them. Before and after each slot the time that a cache line takes between the two CPUs is taken: on a
virtual machine it changes under our feet, and with it every rate. Only slots of one kind are compared: near (both times
less than twice the shortest of the whole run) or far (both longer).

Prints a table for each chapter and writes every slot as JSON. Needs root: for hugepages, which it gives back.
"""

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()
GUESTS = [(f"52:54:00:00:00:{at + 1:02x}", f"10.0.0.{at + 11}") for at in range(16)]
GATEWAY = "02:00:00:00:00:01"
HUGEPAGES = Path("/proc/sys/vm/nr_hugepages")
NEEDED_PAGES = 1400
LEARNED_MACS = 8192
# Exit status where there are none of them: nothing was measured, nothing is wrong.
NO_HUGEPAGES = 77
VECTORISED = "mrg_rxbuf=0,in_order=0,packed_vq=0,vectorized=1"


@dataclass
class Measure:
    """One row of the table."""

    name: str
    size: int
    who: str = "one"
    """Who sends to whom, in the generator's words."""
    headers_only: bool = False
    rate: int = 0
    driver: str = ""
    """What the guests' driver is told beside its defaults."""
    shows: str = ""
    """What is of interest: the rate, unless this names something else of a slot."""

    def fields(self):
        """What is shown: the name in a slot, digits, unit."""
        if self.shows == "loss":
            return [("loss", 4, "share lost")]
        if self.rate:
            return [("p50_ns", 0, "ns, p50"), ("p99_ns", 0, "ns, p99")]
        return [("mpps", 2, "Mpps")]


def fail(message):
    sys.exit(f"bench: {message}")


def wait_for(what, ready, seconds=20):
    end = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > end:
            fail(f"{what} did not happen in {seconds} s")
        time.sleep(0.05)


class Switch:
    """A switch on CPU `cpu` with a vhost-user socket for each guest, whose processes this program has started."""

    name = ""
    routes = False
    """Whether frames go to a gateway, rather than to the other guest's MAC."""

    def __init__(self, directory, cpu, options, guests):
        self.directory, self.cpu, self.options, self.guests = directory, cpu, options, guests
        self.processes, self.sockets = [], []
        directory.mkdir()

    def open(self):
        """Starts it; its sockets listen when this returns."""
        self.start()
        wait_for(f"{self.name}: sockets", lambda: all(Path(path).exists() for path in self.sockets))

    def spawn(self, command, **options):
        log = open(self.directory / "log", "ab")
        process = subprocess.Popen(
            ["taskset", "-c", str(self.cpu), *map(str, command)], stdout=log, stderr=log, process_group=0, **options
        )
        self.processes.append(process)
        return process

    def signal(self, number):
        for process in self.processes:
            os.kill(process.pid, number)

    def work(self):
        """Frames and nanoseconds of the switch's CPU for them since the start, where the switch counts them."""
        return None

    def cpu_seconds(self):
        def ticks(process):
            fields = Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
            return int(fields[11]) + int(fields[12])

        return sum(map(ticks, self.processes)) / os.sysconf("SC_CLK_TCK")

    def stop(self):
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.terminate()
        for process in self.processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


class MvirtNet(Switch):
    name = "mvirt-net"
    routes = True

    def binaries(self):
        return BIN / "release"

    network = ["--ipv4-subnet", "10.0.0.0/24"]

    def start(self):
        api = f"unix:{self.directory}/api"
        self.mvirt = [self.binaries() / "mvirt", "--net-server", api, "-o", "json"]
        flags = ["--socket-dir", self.directory / "s", "--metadata-dir", self.directory / "m", "--reactors", "1"]
        # In a network namespace of its own, for the TAP devices that it may make.
        self.spawn(["unshare", "--net", self.binaries() / "mvirt-net", "--listen", api, *flags])
        wait_for("mvirt-net: its API", lambda: subprocess.run([*self.mvirt, "version"], capture_output=True).returncode == 0)
        self.ask("network", "create", "--name", "bench", *self.network)
        for at, (mac, address) in enumerate(self.guests):
            nic = self.ask("nic", "create", "--network", "bench", "--name", f"nic{at}", "--mac", mac, "--ipv4", address)
            self.sockets.append(nic["socket_path"])

    def ask(self, *command):
        return json.loads(subprocess.run([*self.mvirt, *command], check=True, stdout=subprocess.PIPE).stdout)

    def work(self):
        reactor = self.ask("reactor", "list")["reactors"][0]
        return int(reactor["frames"]), int(reactor["busy_ns"])


class Switched(MvirtNet):
    name = "mvirt-net switched"
    routes = False
    network = ["--kind", "switched", "--ipv4-subnet", "10.0.0.0/24", "--storm", "none", "--mac-aging", "3600"]


class SwitchedBusy(Switched):
    """With a bridge behind it that has more MACs than fit a cache."""

    name = "mvirt-net switched, 8,192 MACs"

    def start(self):
        super().start()
        self.ask("port", "create", "bench", "tap://behind[create/up]", "--role", "uplink", "--mac-limit", str(LEARNED_MACS))
        learn_behind(self.processes[0].pid, "behind")
        wait_for("mvirt-net: MACs", lambda: len(self.ask("mac", "list", "bench")["macs"]) >= LEARNED_MACS)


def learn_behind(pid, interface):
    """Sends a frame from each of so many MACs out of an interface in the namespace of `pid`."""
    program = f"""
import socket
out = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
out.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 24)
out.bind(("{interface}", 0))
for at in range({LEARNED_MACS}):
    out.send(bytes.fromhex("{GUESTS[0][0].replace(':', '')}0200") + at.to_bytes(4, "big") + bytes.fromhex("88b5") + bytes(46))
    if at % 128 == 127:
        import time; time.sleep(0.01)
"""
    subprocess.run(["nsenter", "--target", str(pid), "--net", sys.executable, "-c", program], check=True, timeout=60)


class Beside(MvirtNet):
    name = "mvirt-net beside"

    def binaries(self):
        return self.options.beside


class Testpmd(Switch):
    name = "testpmd io"

    def start(self):
        self.sockets = [f"{self.directory}/{at}" for at in range(len(self.guests))]
        vdevs = [f"--vdev=net_vhost{at},iface={path},queues=1" for at, path in enumerate(self.sockets)]
        eal = ["--no-pci", "--in-memory", "--single-file-segments", "--no-telemetry", "-m", "128"]
        lcores = ["--lcores", f"0@{self.cpu},1@{self.cpu}"]
        options = ["--", "--nb-cores=1", "--total-num-mbufs=16384", "--forward-mode=io"]
        # It ends at the end of its input, which is the pipe's.
        self.spawn(["dpdk-testpmd", *eal, *lcores, *vdevs, *options], stdin=subprocess.PIPE)


class Baseline(Switch):
    """The crates of rust-vmm, without a ring or a session of ours (benches/baseline.rs)."""

    name = "rust-vmm relay"

    def start(self):
        build = ["cargo", "build", "--release", "--locked", "--quiet", "--example", "baseline", "--message-format=json"]
        lines = subprocess.run(build, check=True, stdout=subprocess.PIPE, cwd=ROOT, text=True).stdout.splitlines()
        built = (json.loads(line) for line in lines)
        program = next(m["executable"] for m in built if m.get("executable") and m["target"]["name"] == "baseline")
        self.sockets = [f"{self.directory}/{at}" for at in range(len(self.guests))]
        self.spawn([program, *self.sockets])


class OpenVswitch(Switch):
    """With a rule for each guest that does what a router does: address, MACs, TTL."""

    name = "OVS-DPDK L3"
    routes = True
    program = Path("/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk")

    def start(self):
        d = self.directory
        os.environ.update(OVS_RUNDIR=str(d), OVS_DBDIR=str(d), OVS_SYSCONFDIR=str(d), OVS_LOGDIR=str(d))
        database = f"unix:{d}/db.sock"
        run = lambda *command: subprocess.run([*map(str, command)], check=True, timeout=60)
        vsctl = lambda *command: run("ovs-vsctl", f"--db={database}", "--timeout=30", *command)
        run("ovsdb-tool", "create", d / "conf.db", "/usr/share/openvswitch/vswitch.ovsschema")
        self.spawn(["ovsdb-server", d / "conf.db", f"--remote=p{database}"])
        wait_for("ovsdb-server: its socket", (d / "db.sock").exists)
        config = {
            "dpdk-init": "true",
            "dpdk-extra": "--in-memory --no-pci --single-file-segments",
            "dpdk-socket-mem": "256",
            "dpdk-lcore-mask": hex(1 << self.cpu),
            "pmd-cpu-mask": hex(1 << self.cpu),
            "vhost-sock-dir": ".",
        }
        vsctl("--no-wait", "init")
        vsctl("--no-wait", "set", "Open_vSwitch", ".", *(f'other_config:{k}="{v}"' for k, v in config.items()))
        # In a network namespace of its own, for the TAP devices that it makes.
        self.spawn(["unshare", "--net", self.program, database, "--mlockall"])
        self.bridge(vsctl)
        for at in range(len(self.guests)):
            vsctl("add-port", "br0", f"vhu{at}", "--", "set", "Interface", f"vhu{at}", "type=dpdkvhostuser", f"ofport_request={at + 1}")
            self.sockets.append(f"{d}/vhu{at}")
        for flow in self.flows():
            run("ovs-ofctl", "add-flow", d / "br0.mgmt", flow)

    def bridge(self, vsctl):
        vsctl("add-br", "br0", "--", "set", "bridge", "br0", "datapath_type=netdev", "fail_mode=secure")

    def flows(self):
        for at, (mac, address) in enumerate(self.guests):
            rewrite = f"mod_dl_src:{GATEWAY},mod_dl_dst:{mac},dec_ttl,output:{at + 1}"
            yield f"ip,dl_dst={GATEWAY},nw_dst={address},actions={rewrite}"


class OpenVswitchNormal(OpenVswitch):
    """As a switch that learns MACs."""

    name = "OVS-DPDK NORMAL"
    routes = False

    def bridge(self, vsctl):
        table = ["other_config:mac-aging-time=3600", f"other_config:mac-table-size={2 * LEARNED_MACS}"]
        vsctl("add-br", "br0", "--", "set", "bridge", "br0", "datapath_type=netdev", "fail_mode=standalone", *table)

    def flows(self):
        return []


class OpenVswitchBusy(OpenVswitchNormal):
    name = "OVS-DPDK NORMAL, 8,192 MACs"

    def start(self):
        super().start()
        daemon = self.processes[1].pid
        subprocess.run(["nsenter", "--target", str(daemon), "--net", "ip", "link", "set", "br0", "up"], check=True)
        learn_behind(daemon, "br0")


@dataclass
class Chapter:
    """Switches that are measured side by side. The first is ours."""

    name: str
    switches: list
    measures: list
    guests: int = 2


CHAPTERS = [
    Chapter(
        "routed",
        [MvirtNet, Beside, Baseline, Testpmd, OpenVswitch],
        [
            Measure("64 B", 64),
            Measure("64 B, vectorised driver", 64, driver=VECTORISED),
            Measure("1500 B", 1500),
            Measure("1500 B, headers written", 1500, headers_only=True),
            Measure("64 B, both ways", 64, "two"),
            Measure("1500 B, both ways", 1500, "two"),
            Measure("64 B at 100 kpps", 64, rate=100_000),
        ],
    ),
    Chapter(
        "switched",
        [Switched, MvirtNet, OpenVswitchNormal],
        [Measure("64 B", 64), Measure("1500 B", 1500), Measure("64 B at 100 kpps", 64, rate=100_000)],
    ),
    Chapter(
        "segment",
        [Switched, SwitchedBusy, OpenVswitchNormal, OpenVswitchBusy],
        [
            Measure("64 B among 16 guests", 64, "all"),
            Measure("64 B to all of 16 guests, copies", 64, "flood"),
            Measure("500 kpps of two", 64, rate=500_000, shows="loss"),
            Measure("500 kpps of two, a third floods", 64, "attacked", rate=500_000, shows="loss"),
        ],
        guests=16,
    ),
]


class Generator:
    """The guests of a switch."""

    def __init__(self, program, switch, cpu, driver):
        driver = f",{driver}" if driver else ""
        vdevs = [
            f"--vdev=net_virtio_user{at},path={path},queues=1,queue_size=256,mac={switch.guests[at][0]}{driver}"
            for at, path in enumerate(switch.sockets)
        ]
        eal = ["--no-pci", "--in-memory", "--single-file-segments", "--no-telemetry", "-m", "128" if len(vdevs) > 2 else "64"]
        guests = [word for mac, ip in switch.guests for word in (mac, ip, GATEWAY if switch.routes else mac)]
        self.patience = 60 + switch.options.seconds
        self.log = open(switch.directory / "generator.log", "ab")
        command = [program, *eal, "--lcores", f"0@{cpu}", *vdevs, "--", *guests]
        self.process = subprocess.Popen(
            [*map(str, command)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True, process_group=0
        )
        self.answer()

    def answer(self):
        # A switch that does not take its guests would keep the generator, and with it all, waiting for ever.
        timer = threading.Timer(self.patience, self.process.kill)
        timer.start()
        try:
            for line in self.process.stdout:
                if line.startswith("{"):
                    return json.loads(line)
        finally:
            timer.cancel()
        fail(f"the generator ended; see {self.log.name}:\n{Path(self.log.name).read_text()[-2000:]}")

    def ask(self, *command):
        print(*command, file=self.process.stdin, flush=True)
        return self.answer()

    def stop(self):
        self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()


class Bench:
    """All switches of a chapter, each stopped but in its slots."""

    def __init__(self, chapter, options, directory):
        self.chapter, self.options = chapter, options
        self.measures = [measure for measure in chapter.measures if options.only in measure.name]
        self.cpu, self.guest_cpu = options.cpus
        self.slots, self.idle = [], {}
        self.switches, self.generators = [], {}
        self.program = directory / "generator"
        flags = subprocess.run(["pkg-config", "--cflags", "--libs", "libdpdk"], check=True, stdout=subprocess.PIPE, text=True)
        source = ROOT / "bench/generator.c"
        subprocess.run(["cc", "-O3", "-march=native", "-w", "-o", self.program, source, *flags.stdout.split(), "-pthread"], check=True)
        self.directory = directory

    def start(self):
        for kind in self.chapter.switches:
            if kind is Beside and not self.options.beside or issubclass(kind, OpenVswitch) and not kind.program.exists():
                continue
            switch = kind(self.directory / kind.__name__, self.cpu, self.options, GUESTS[: self.chapter.guests])
            self.switches.append(switch)
            switch.open()
            switch.signal(signal.SIGSTOP)

    def connect(self, driver):
        for switch in self.switches:
            switch.signal(signal.SIGCONT)
            self.generators[switch] = Generator(self.program, switch, self.guest_cpu, driver)
            # The first frames go before all queues run, and a switch floods until it has learned all MACs.
            who = "two" if self.chapter.guests == 2 else "all"
            settled = lambda seen: seen["received"] and not seen["stray"]
            wait_for(f"{switch.name}: a frame", lambda: settled(self.generators[switch].ask("run", 0.01, 64, who, 0, 1000)))
            switch.signal(signal.SIGSTOP)

    def disconnect(self):
        for switch in self.switches:
            switch.signal(signal.SIGCONT)
            self.generators.pop(switch).stop()
            # While it is stopped, it keeps the memory of guests that have gone.
            time.sleep(0.5)
            switch.signal(signal.SIGSTOP)

    def distance(self, switch):
        return self.generators[switch].ask("distance", self.cpu)["ns"]

    def slot(self, measure, switch, number):
        generator = self.generators[switch]
        before = self.distance(switch)
        switch.signal(signal.SIGCONT)
        run = lambda seconds: generator.ask("run", seconds, measure.size, measure.who, int(measure.headers_only), measure.rate)
        run(0.05)
        work = switch.work()
        result = run(self.options.seconds)
        if work:
            frames, busy = (after - before for after, before in zip(switch.work(), work))
            result["switch_ns"] = busy / max(frames, 1)
        switch.signal(signal.SIGSTOP)
        distances = [before, self.distance(switch)]
        if result["bad"]:
            fail(f"{switch.name}: {result['bad']} damaged frames in {measure.name}")
        self.slots.append({"chapter": self.chapter.name, "measure": measure.name, "switch": switch.name, "round": number, "distances_ns": distances, **result})

    def measure(self):
        for driver in dict.fromkeys(measure.driver for measure in self.measures):
            self.connect(driver)
            for number in range(self.options.rounds):
                for measure in (m for m in self.measures if m.driver == driver):
                    for switch in self.switches:
                        self.slot(measure, switch, number)
                print(f"\r{self.chapter.name}, {driver.split(',')[-1] or 'default driver'}: round {number + 1} of {self.options.rounds}  ", end="", file=sys.stderr, flush=True)
            print(file=sys.stderr)
            self.disconnect()

    def classify(self):
        shortest = min(ns for slot in self.slots for ns in slot["distances_ns"])
        for slot in self.slots:
            kinds = {"near" if ns < 2 * shortest else "far" for ns in slot["distances_ns"]}
            slot["kind"] = kinds.pop() if len(kinds) == 1 else "mixed"

    def measure_idle(self):
        """CPU that a switch uses for connected guests that are silent."""
        self.connect("")
        for switch in self.switches:
            switch.signal(signal.SIGCONT)
            time.sleep(0.5)
            before = switch.cpu_seconds()
            time.sleep(self.options.idle)
            self.idle[switch.name] = (switch.cpu_seconds() - before) / self.options.idle * 100
            switch.signal(signal.SIGSTOP)
        self.disconnect()

    def stop(self):
        for switch in self.switches:
            switch.signal(signal.SIGCONT)
        for generator in self.generators.values():
            generator.stop()
        for switch in self.switches:
            switch.stop()


def spread(values, digits):
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}..{max(values):.{digits}f})"


def table(bench):
    """Rows of text: a measure and kind of slot each, ours beside theirs."""
    names = [switch.name for switch in bench.switches]
    ours, others = names[0], names[1:]
    rows = [["measure", "slots", *names, *(f"to {other}" for other in others), f"{ours}: ring full, loss, CPU a frame"]]
    for measure in bench.measures:
        for kind in ("near", "far"):
            of = lambda name: {s["round"]: s for s in bench.slots if (s["measure"], s["switch"], s["kind"]) == (measure.name, name, kind)}
            found = {name: of(name) for name in names}
            if not all(found.values()):
                continue
            for field, digits, unit in measure.fields():
                cells = [spread([s[field] for s in found[name].values()], digits) for name in names]
                ratios = []
                for other in others:
                    both = found[ours].keys() & found[other].keys()
                    pairs = [found[ours][n][field] / max(found[other][n][field], 1e-9) for n in both]
                    ratios.append(f"{spread(pairs, 2)} n={len(pairs)}" if pairs else "-")
                mine = list(found[ours].values())
                median = lambda key: statistics.median(s[key] for s in mine)
                own = f"{median('ring_full'):.1%}, {median('loss'):.2%}, {median('switch_ns'):.0f} ns"
                rows.append([f"{measure.name} ({unit})", f"{kind} n={len(mine)}", *cells, *ratios, own])
    if bench.idle:
        rows.append([f"{bench.chapter.guests} silent guests (% of a CPU)", "", *(f"{bench.idle[name]:.1f}" for name in names), *("" for _ in others), ""])
    return rows


def print_table(rows):
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    line = lambda cells: "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths)) + " |"
    print(line(rows[0]), "|" + "|".join("-" * (width + 2) for width in widths) + "|", *map(line, rows[1:]), sep="\n")


def machine():
    model = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "unknown")
    return {"cpu": model, "cpus": os.cpu_count(), "kernel": os.uname().release, "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cpus = sorted(os.sched_getaffinity(0))
    pair = lambda text: [int(cpu) for cpu in text.split(",")]
    parser.add_argument("--cpus", type=pair, default=cpus[:2], metavar="A,B", help="CPUs of the switch and of the guests (default: the first two)")
    parser.add_argument("--rounds", type=int, default=8, help="slots of each switch and measure (default: 8)")
    parser.add_argument("--seconds", type=float, default=0.3, help="length of a slot (default: 0.3)")
    parser.add_argument("--idle", type=float, default=3, help="seconds of silence in which CPU use is taken; 0: none (default: 3)")
    parser.add_argument("--chapter", choices=[chapter.name for chapter in CHAPTERS], help="one alone")
    parser.add_argument("--only", default="", help="measures whose name contains this")
    parser.add_argument("--beside", type=Path, metavar="FOLDER", help="another mvirt and mvirt-net, such as an older release's")
    parser.add_argument("--json", type=Path, default=BIN / "bench.json", help="where every slot goes (default: target/bench.json)")
    options = parser.parse_args()
    options.chapters = [chapter for chapter in CHAPTERS if options.chapter in (None, chapter.name)]
    names = [measure.name for chapter in options.chapters for measure in chapter.measures]
    if len(options.cpus) != 2 or not set(options.cpus) <= set(cpus) or options.cpus[0] == options.cpus[1]:
        parser.error(f"--cpus: two different CPUs of {cpus} are needed")
    if os.geteuid() != 0:
        parser.error("only root can reserve the hugepages that DPDK needs")
    if not any(options.only in name for name in names):
        parser.error(f"--only {options.only!r}: none of {names}")
    for program in ("cc", "pkg-config", "dpdk-testpmd", "taskset"):
        if not shutil.which(program):
            parser.error(f"{program} is missing: scripts/install.sh gcc pkgconf libdpdk-dev")
    return options


def main():
    options = arguments()
    reserved = int(HUGEPAGES.read_text())
    try:
        HUGEPAGES.write_text(str(max(reserved, NEEDED_PAGES)))
    except OSError as error:
        print(f"bench: hugepages cannot be reserved: {error}", file=sys.stderr)
        sys.exit(NO_HUGEPAGES)
    if int(HUGEPAGES.read_text()) < NEEDED_PAGES:
        HUGEPAGES.write_text(str(reserved))
        print(f"bench: {NEEDED_PAGES} hugepages of 2 MiB cannot be had: memory is short or scattered", file=sys.stderr)
        sys.exit(NO_HUGEPAGES)
    benches = []
    try:
        for chapter in options.chapters:
            with tempfile.TemporaryDirectory(prefix="mvirt-bench.") as directory:
                bench = Bench(chapter, options, Path(directory))
                if bench.measures:
                    benches.append(bench)
                    run(bench)
    finally:
        HUGEPAGES.write_text(str(reserved))
    if not OpenVswitch.program.exists():
        print("Open vSwitch is not installed (Debian: openvswitch-switch-dpdk).")
    slots = [slot for bench in benches for slot in bench.slots]
    distances = [ns for slot in slots for ns in slot["distances_ns"]]
    print(f"A cache line between the two CPUs: {spread(distances, 0)} ns. Medians (min..max); ratios of slots of the same round.")
    chapters = {bench.chapter.name: {"table": table(bench), "idle_cpu_percent": bench.idle} for bench in benches}
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps({"machine": machine(), "chapters": chapters, "slots": slots}, indent=1))
    print(f"Every slot: {options.json}")


def run(bench):
    """Measures a chapter and prints its table."""
    try:
        bench.start()
        bench.measure()
        if bench.options.idle:
            bench.measure_idle()
    except subprocess.SubprocessError as error:
        logs = sorted(bench.directory.glob("*/*log"))
        fail("\n".join([str(error), *(f"--- {log}\n{log.read_text(errors='replace')[-2000:]}" for log in logs)]))
    finally:
        bench.stop()
    bench.classify()
    print(f"\n{bench.chapter.name}")
    print_table(table(bench))


if __name__ == "__main__":
    main()
