"""The lab that the cases share: two hosts, cleaned between cases, and the files that guests need.

Hosts are booted once; a case that took one's power gets it back at the next `clean`. Files come
onto the data disks before the hosts boot, so nothing is copied through a running host.
"""

import contextlib
import os
import random
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from outlast_lab import agent, crash, emulator, lifecycle, network, process
from outlast_lab.instance import Host, Instance
from recipes import alpine, busybox, debian, debian_root

from . import trouble
from .failed import Failed, require
from .ports import Ports
from .traffic import Traffic
from .waiting import wait_for

# What a host is given by `clean`: the program on the PATH, no VMM running, no state of a former case.
CLEAN = """set -e
running() {
    for exe in /proc/[0-9]*/exe; do
        case $(readlink $exe) in */outlast*) pid=${exe%/exe}; echo ${pid#/proc/} ;; esac
    done
}
while pids=$(running); [ -n "$pids" ]; do
    for pid in $pids; do kill -9 $pid 2>/dev/null || true; done
    usleep 10000
done
baddisk remove
rm -rf /dev/shm/outlast /pmem/outlast /data/work
mkdir -p /lab/host/vmm /data/work
ip link set tap0 up
"""
# The program comes onto the PATH; a host that has booted does not have it.
INSTALL = """set -e
cp /data/outlast /usr/local/bin/outlast
chmod 755 /usr/local/bin/outlast
"""
BARE = Path(debian.__file__).resolve().parents[1] / "bare"
# A guest of 128 MiB, its state, and before-images of both.
NVDIMM_MIB = 640


# States of a bridge's port (linux/if_bridge.h).
PORT_DISABLED, PORT_FORWARDING = "0", "3"

@dataclass(frozen=True)
class Options:
    """What the command line says."""

    binary: Path
    seed: int
    seconds: float
    plugs: int
    outages: int
    hops: int
    cells: str
    keep: bool
    results: Path


class Stage:
    """Two hosts with a client. `rng` is all the chance that a case may use."""

    def __init__(self, options: Options, with_debian: bool, with_alpine: bool):
        self.options = options
        self.rng = random.Random(options.seed)
        self.with_debian = with_debian
        self.with_alpine = with_alpine
        # Why there is none, of a guest that was asked for.
        self.no_alpine: str | None = None
        nice = int(os.environ.get("OUTLAST_LAB_NICE", "0"))
        self.lab = Instance(f"lt-{os.getpid()}", mem_mib=1536, nice=nice, nvdimm_mib=NVDIMM_MIB, volatile_disk=True)
        self.work = Path(tempfile.mkdtemp(prefix="lab-tests."))
        self.ports: Ports | None = None
        self._traffic: list[Traffic] = []
        # Consoles of guests that are broken on purpose.
        self._broken: set[Path] = set()
        self._vmms = 0

    def up(self) -> None:
        """Makes the images that are missing and boots the hosts."""
        images, kernel = busybox.get(), debian.kernel("cloud")
        seed = [self._named(self.options.binary, "outlast"), kernel.vmlinux, kernel.vmlinuz]
        seed += [images / "busybox.cpio.gz", images / "journal.img", self._bare("net-echo")]
        if self.with_debian:
            root = debian_root.get()
            seed += [root / "debian.img", root / "debian-initrd.img"]
        if self.with_alpine:
            seed += self._alpine()
        lifecycle.up(self.lab, seed, None if self.options.keep else os.getpid())

    def _bare(self, guest: str) -> Path:
        subprocess.run([BARE / "build", self.work / "bare"], check=True)
        return self.work / "bare" / guest

    def _alpine(self) -> list[Path]:
        """Its files come from elsewhere than all others: without them only its own case is missing."""
        try:
            images = alpine.get()
        except debian.RecipeError as error:
            self.no_alpine = f"Alpine's kernel cannot be had: {error}"
            return []
        return [images / "alpine-vmlinuz", images / "alpine.cpio.gz"]

    def down(self) -> None:
        """Ends all of it, or says where it is kept."""
        self._end_traffic()
        if self.options.keep:
            print(f"kept: lab {self.lab.name} (tests/lab/lab status), {self.work}")
            return
        lifecycle.down(self.lab.name)
        shutil.rmtree(self.work, ignore_errors=True)

    def clean(self) -> None:
        """Both hosts run, are joined and thawed, and hold nothing of a former case."""
        self._end_traffic()
        hosts = self.lab.all_hosts()
        for host in hosts:
            emulator.thaw(host) if process.state(host.pid_record) == "stopped" else None
            network.set_link(self.lab, host, "all", up=True)
        lifecycle.power_on_all(self.lab, [host for host in hosts if process.state(host.pid_record) == "dead"])
        for host in hosts:
            self.set_port(host.name, forwarding=True)
            shutil.rmtree(host.share / "vmm", ignore_errors=True)
            self.run(host.name, CLEAN + INSTALL)
        shutil.rmtree(self.witness, ignore_errors=True)
        self.witness.mkdir()

    def revive(self, host: str) -> None:
        """Gives a host its power back, within a case."""
        self.boot(host)
        self.run(host, CLEAN)

    def boot(self, *hosts: str) -> None:
        """Boots hosts that went down; what they keep stays as it is."""
        lifecycle.power_on_all(self.lab, [self.host(host) for host in hosts])
        for host in hosts:
            self.run(host, INSTALL)

    @property
    def witness(self) -> Path:
        """Seen by both hosts as /lab/share/witness."""
        return self.lab.share / "witness"

    def host(self, name: str) -> Host:
        return self.lab.host(name)

    def run(self, host: str, script: str, seconds: float = 120) -> str:
        """Runs a shell script in a host; it must succeed."""
        done = agent.capture(self.lab, self.host(host), ["sh", "-c", script], timeout=seconds)
        output = (done.stdout + done.stderr).decode(errors="replace").strip()
        require(done.code == 0, f"on host {host} '{script.strip().splitlines()[-1]}' ended with {done.code}: {output[-800:]}")
        return output

    def set_port(self, host: str, forwarding: bool) -> None:
        """Opens or closes a host's port of the bridge `lan`. What comes in at a closed port is recorded and dropped."""
        tap = network.tap_name(self.host(host), "lan")
        state = PORT_FORWARDING if forwarding else PORT_DISABLED
        command = ["ip", "-n", self.lab.namespace, "link", "set", tap, "type", "bridge_slave", "state", state]
        # The bridge refuses for a moment after the tap got its carrier.
        wait_for(" ".join(command), lambda: subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode == 0, 10)

    def plug(self, host: str) -> float:
        """Takes a host's power; returns when (Unix, seconds)."""
        at = time.time()
        emulator.pull_plug(self.host(host))
        return at

    def plug_all(self) -> float:
        """Takes the power of all hosts at once; returns when (Unix, seconds)."""
        hosts = self.lab.all_hosts()
        self.rng.shuffle(hosts)
        at = time.time()
        emulator.pull_plugs(hosts)
        return at

    def crash(self, host: str) -> float:
        """Crashes a host's kernel; returns when (Unix, seconds)."""
        at = time.time()
        crash.kernel(self.lab, self.host(host))
        return at

    @contextlib.contextmanager
    def watched(self):
        """Records the guest's frames at both hosts' ports meanwhile."""
        self.ports = Ports(self.lab)
        try:
            yield self.ports
        finally:
            self.ports.close()

    def traffic(self, *flows: str, **options) -> Traffic:
        """Starts flows of the client; they try to connect until the guest answers."""
        self._traffic.append(Traffic(self.lab, self.work, len(self._traffic), flows, self.rng.randrange(1 << 30), options))
        return self._traffic[-1]

    def number_vmm(self) -> int:
        """A number for each VMM that is started: its files keep their names apart."""
        self._vmms += 1
        return self._vmms

    def breaks(self, console: Path) -> None:
        """The guest of this console will say that it is broken, and is meant to."""
        self._broken.add(console)

    def require_sound_guests(self) -> None:
        """No guest of this case has printed that it, or its time, is broken."""
        for host in self.lab.all_hosts():
            for console in set((host.share / "vmm").glob("*.console")) - self._broken:
                found = trouble.found(console.read_text(errors="replace"))
                require(not found, f"the guest of {console.stem} on host {host.name} printed '{found}': {console}")

    def keep_evidence(self, case: str) -> Path:
        """Copies what a failed case left: events, logs, consoles, the client's reports."""
        target = self.options.results / case
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        for host in self.lab.all_hosts():
            for name in ("vmm", "jobs"):
                shutil.copytree(host.share / name, target / host.name / name, dirs_exist_ok=True) if (host.share / name).is_dir() else None
            shutil.copy(host.serial_log, target / host.name / "serial.log") if host.serial_log.exists() else None
        for report in self.work.glob("traffic-*"):
            shutil.copy(report, target)
        if self.ports:
            (target / "frames.txt").write_text("".join(f"{frame}\n" for frame in self.ports.frames))
        return target

    def _end_traffic(self) -> None:
        for traffic in self._traffic:
            traffic.kill()
        self._traffic.clear()

    def _named(self, path: Path, name: str) -> Path:
        if not path.is_file():
            raise Failed(f"there is no program {path}: cargo build --release -p vmm")
        target = self.work / name
        subprocess.run(["cp", path, target], check=True)
        return target


def other(host: str) -> str:
    """The host that is not this one."""
    return "B" if host == "A" else "A"


