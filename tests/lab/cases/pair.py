"""A protected guest: a primary on one host, a backup on the other, with what each is told."""

import time
from dataclasses import dataclass, replace

from .failed import require
from .ports import GUEST_MAC
from .stage import Stage
from .steal import LITTLE, Steal
from .traffic import Traffic
from .vmm import STATE_DIR, Vmm
from .waiting import wait_for

PORT = 7100
DISK = "/data/work/disk.img"
WITNESS = "file:/lab/share/witness"
# A log of 256 MiB is read first.
WAITING_SECONDS = 60
FLOWS = ("stream", "download", "journal")
# Events that change how a running guest is protected.
STATES = ("resync-started", "protected", "peer-lost", "solo", "fenced", "failover-started", "failover-finished", "kept", "discarded")


@dataclass(frozen=True)
class Guest:
    """What is booted. `prepare` makes the primary's disk, `replica` the backup's, each by a shell command."""

    kernel: str
    initramfs: str
    cmdline: str
    memory: str
    disk: str
    prepare: str
    replica: str

    def with_words(self, words: str) -> "Guest":
        """The same with more on its kernel's command line."""
        return replace(self, cmdline=f"{self.cmdline} {words}")


# Warnings come on the console too: `stage.require_sound_guests` reads it.
LOUD = "quiet loglevel=5"
# The replica begins empty: all that is in it afterwards has been replicated.
BUSYBOX = Guest(
    kernel="/data/vmlinux", initramfs="/data/busybox.cpio.gz", cmdline=f"console=ttyS0 {LOUD}", memory="128M",
    disk=DISK, prepare=f"cp /data/journal.img {DISK}", replica=f"truncate -s 64M {DISK}",
)  # fmt: skip


@dataclass
class Scene:
    """A guest under load that is protected: what most cases begin with."""

    pair: "Pair"
    primary: Vmm
    backup: Vmm
    traffic: Traffic
    resync: dict

    def load_for_a_while(self) -> None:
        """Until a random moment, at which the guest is protected."""
        steal = Steal()
        self.traffic.wait_more()
        time.sleep(self.pair.stage.rng.uniform(0, self.pair.stage.options.seconds))
        if self.primary.last_of(*STATES) == "protected":
            return
        seen = f"the two lost sight of each other before anything was done to them{steal}"
        require(steal.share() >= LITTLE, seen)
        print(f"     {seen}; waiting until the guest is protected again", flush=True)
        self.resync = wait_protected(self.primary, self.backup)


class Pair:
    """What both sides of a guest's protection are told."""

    def __init__(self, stage: Stage, guest: Guest = BUSYBOX, cpus: int = 1, detect: str = "1s"):
        self.stage, self.guest, self.cpus, self.detect = stage, guest, cpus, detect

    def protected(self, *flows: str, primary_detect: str | None = None, backup_detect: str | None = None, **options) -> Scene:
        """A guest on A whose clients are served, and a backup on B that could take over."""
        primary = self.start_primary("A", "B", primary_detect)
        traffic = self.stage.traffic(*(flows or FLOWS), **options)
        traffic.wait_more()
        backup = self.start_backup("B", backup_detect)
        return Scene(self, primary, backup, traffic, wait_protected(primary, backup))

    def start_backup(self, host: str, detect: str | None = None) -> Vmm:
        """A backup with a fresh replica that listens on its host's replication address."""
        self.stage.run(host, f"rm -f {DISK}*; {self.guest.replica or ':'}")
        return self.restart_backup(host, detect)

    def restart_backup(self, host: str, detect: str | None = None) -> Vmm:
        """A backup whose replica, and the log beside it, are what is there."""
        words = ["--listen", self.target(host), *self.devices(), *self._protection(detect), "--net", "tap=tap0"]
        backup = Vmm(self.stage, host, "backup", words)
        backup.wait_event("waiting", WAITING_SECONDS)
        return backup

    def start_local(self, host: str, *words: str, state_dir: str = STATE_DIR) -> Vmm:
        """Boots the guest, protected by the state directory of its host."""
        return self._boot(host, ["--protect", "local", *words], state_dir)

    def start_primary(self, host: str, backup: str | None, detect: str | None = None, local: str | None = None, more: tuple[str, ...] = ()) -> Vmm:
        """Boots the guest; with `local` it is protected by that state directory too."""
        words = [*self._protection(detect), *(["--protect", self.target(backup)] if backup else []), *more]
        return self._boot(host, [*words, *(["--protect", "local"] if local else [])], local or STATE_DIR)

    def restart_primary(self, host: str, backup: str) -> Vmm:
        """Boots the guest from the image, and the log beside it, that are there."""
        return self._run(host, [*self._protection(None), "--protect", self.target(backup)], STATE_DIR)

    def prepare(self, host: str) -> None:
        """Puts a fresh image onto a host."""
        # Synced: the host may lose its power before its kernel writes the image out by itself.
        self.stage.run(host, f"rm -f {DISK}*; {self.guest.prepare or ':'}; sync")

    def _boot(self, host: str, protection: list[str], state_dir: str = STATE_DIR) -> Vmm:
        self.prepare(host)
        return self._run(host, protection, state_dir)

    def _run(self, host: str, protection: list[str], state_dir: str) -> Vmm:
        guest = self.guest
        words = ["--kernel", guest.kernel, "--initramfs", guest.initramfs, "--cmdline", guest.cmdline]
        words += ["--cpus", str(self.cpus), "--memory", guest.memory]
        words += [*self.devices(), *protection, "--net", f"tap=tap0,mac={GUEST_MAC}"]
        return Vmm(self.stage, host, "run", words, state_dir)

    def target(self, host: str) -> str:
        """Where the backup of a host listens: on a network that only the two hosts have."""
        return f"tcp:{self.stage.host(host).repl_address}:{PORT},clear"

    def devices(self) -> list[str]:
        """The guest's disk, as every VMM that runs it is told."""
        return ["--disk", f"path={self.guest.disk}"]

    def _protection(self, detect: str | None) -> list[str]:
        return ["--witness", WITNESS, "--detect", detect or self.detect]


def wait_protected(primary: Vmm, backup: Vmm, seconds: float = 180) -> dict:
    """Waits until both say that the backup could take over; returns the primary's resync-finished."""
    for vmm in (backup, primary):
        what = f"{vmm.job} on host {vmm.host} protected"
        wait_for(what, lambda vmm=vmm: vmm.last_of(*STATES) == "protected", seconds, vmm.ended)
    return primary.events("resync-finished")[-1]["properties"]
