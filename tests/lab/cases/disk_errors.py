"""Disks that are full or fail, under one file of one side or of both, while a guest is protected and its clients are served.

Each side has its image, the log beside it and what else it keeps on small file systems of their own (tests/lab/host/baddisk),
so an error meets exactly one file, and meets it as a real disk's does: through ext4 and its journal. The rows run one after
the other with the same guest and the same connections; between them what failed is mended, and the guest is protected again,
by a fresh backup where a side was lost.
"""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from outlast_lab import journal_check, network
from outlast_lab.flows import Options

from . import checks
from .failed import Failed, require
from .pair import BUSYBOX, Pair, wait_protected
from .stage import Stage
from .traffic import Traffic
from .vmm import Vmm
from .waiting import wait_for

IMAGE, LOG, STATE = "image", "log", "state"
DISK = f"/bad/{IMAGE}/disk.img"
IMAGE_MIB = 48
# The log takes four times the image, and is to find all of that free.
FILES = {IMAGE: IMAGE_MIB + 16, LOG: 4 * IMAGE_MIB + 24}
GUEST = replace(BUSYBOX, disk=DISK, prepare=f"truncate -s {IMAGE_MIB}M {DISK}; mke2fs -q -F -t ext4 -b 4096 {DISK}", replica=f"truncate -s {IMAGE_MIB}M {DISK}")
# Guest memory, its redo log and the machine's state.
STATE_MIB = 448
STATE_DIR = f"/bad/{STATE}/vm0"
FLOWS = ("stream", "journal")
DETECT_SECONDS = 4
# Longer than a peer's silence may be.
STILL_SECONDS = 2 * DETECT_SECONDS
# ext4 commits its journal every five seconds, and finds then what no sync has asked for.
NOTICE_SECONDS = 120
ERROR, REFUSED = 1, 6
WORK_PORT = 7004
WRITTEN_SECONDS = 300
# The guest writes its file anew, longer by so much each time: its image never had all of the blocks before.
WRITE_MIB = 8
DISK_TROUBLE = re.compile(r"Input/output error|Read-only file system")
NO_ROOM = "disk-full"
GIVEN_UP = ("peer-lost", "solo", "failover-started", "discarded")


@dataclass(frozen=True)
class Row:
    """What goes wrong, where, and what is promised then."""

    file: str
    error: str
    side: str
    promise: Callable[["Site", "Row"], str]

    def __str__(self) -> str:
        return f"{self.error} in the {self.file} of {self.side}"


class Site:
    """Both hosts with their small file systems: which of them runs the guest changes from row to row."""

    def __init__(self, stage: Stage, local: bool = False):
        self.stage = stage
        self.pair = DiskPair(stage, GUEST, detect=f"{DETECT_SECONDS}s")
        self.written_mib = 0
        for host in "AB":
            self.make(host)
        if local:
            stage.run("A", f"baddisk make {STATE} {STATE_MIB}")
        self.primary = self.pair.start_primary("A", "B", local=STATE_DIR if local else None)
        self.traffic: Traffic = stage.traffic(*FLOWS)
        self.traffic.wait_more()
        self.backup = self.pair.start_backup("B")
        wait_protected(self.primary, self.backup)

    def make(self, host: str) -> None:
        """Empty file systems, whatever became of those before."""
        self.stage.run(host, "; ".join(f"baddisk make {name} {mib}" for name, mib in FILES.items()))

    def sides(self, row: Row) -> list[Vmm]:
        return {"primary": [self.primary], "backup": [self.backup], "both": [self.primary, self.backup]}[row.side]

    def tell(self, verb: str, row: Row) -> None:
        """What a row does to its disks."""
        for vmm in self.sides(row):
            self.stage.run(vmm.host, f"baddisk {verb} {row.file}")

    def give_backup(self, host: str, told: bool) -> None:
        """A fresh backup on a host whose disks are new; the primary looks for it by itself, or is told."""
        self.make(host)
        self.backup = self.pair.start_backup(host)
        if told:
            self.primary.ctl("protect", self.pair.target(host))
        wait_protected(self.primary, self.backup)

    def boot_where_it_ran_last(self) -> str:
        """Boots the guest where the primary was; or, when it is refused there because the backup won the claim before its own
        disk ended it, there. Gives the host."""
        held, standby = self.primary.host, self.backup.host
        self.backup = self.pair.restart_backup(standby)
        self.primary = self.pair.restart_primary(held, standby)
        began = lambda: self.primary.events("booting") or self.primary.exit_code() is not None
        wait_for("the guest's boot, or why not", began, 60)
        if self.primary.exit_code() is None:
            return held
        refused = self.primary.log()
        require(self.primary.exit_code() == REFUSED and f"on host {standby}" in refused, f"not booted on host {held}: {refused[-800:]}")
        self.backup.stop()
        self.backup = self.pair.restart_backup(held)
        self.primary = self.pair.restart_primary(standby, held)
        self.primary.wait_event("booting", 60)
        return standby

    def swap(self) -> None:
        """The backup has become the primary, and the other host gets a backup."""
        lost, self.primary = self.primary, self.backup
        self.give_backup(lost.host, told=True)

    def writer(self):
        """A connection on which the guest can be told to write a new file; it answers when all of it is on its disk."""
        writer = network.tcp_socket(self.stage.lab)
        writer.settimeout(WRITTEN_SECONDS)
        writer.connect((Options().address, WORK_PORT))
        return writer

    def given_up(self) -> list[str]:
        return [event["event"] for side in (self.primary, self.backup) for event in side.events() if event["event"] in GIVEN_UP]


class DiskPair(Pair):
    """Sides whose logs lie apart from their images."""

    def devices(self) -> list[str]:
        return [*super().devices(), "--disk-log", f"/bad/{LOG}"]


def waits_for_room(site: Site, row: Row) -> str:
    """Nobody is given up, the guest stands still or goes on, and all of what it wrote is there when there is room."""
    before, full = site.given_up(), [len(side.events(NO_ROOM)) for side in site.sides(row)]
    # Connected before: a guest that waits for room may not answer any more.
    with site.writer() as writer:
        site.tell("fill", row)
        site.written_mib += WRITE_MIB
        writer.sendall(_write(site.written_mib))
        wait_for("a side without room", lambda: any(len(side.events(NO_ROOM)) > count for side, count in zip(site.sides(row), full)), 60, site.primary.ended)
        acked = site.traffic.acked()
        time.sleep(STILL_SECONDS)
        went_on = site.traffic.acked() != acked
        require(site.given_up() == before, f"they gave each other up: {site.given_up()}")
        site.tell("free", row)
        _written(writer)
    checks.goes_on(site.traffic)
    wait_for("room for everything", lambda: all(side.ctl("status")["disk_full"] is None for side in site.sides(row)), 60, site.primary.ended)
    require(site.given_up() == before, f"they gave each other up: {site.given_up()}")
    return f"{'went on' if went_on else 'stood still'} without room, nobody given up, all written with it"


def has_its_room(site: Site, row: Row) -> str:
    """The file's room was set aside: the guest goes on as if nothing were."""
    before, full = site.given_up(), [len(side.events(NO_ROOM)) for side in site.sides(row)]
    with site.writer() as writer:
        site.tell("fill", row)
        writer.sendall(_write(WRITE_MIB))
        _written(writer)
    checks.goes_on(site.traffic)
    require(site.given_up() == before, f"they gave each other up: {site.given_up()}")
    now = [len(side.events(NO_ROOM)) for side in site.sides(row)]
    site.tell("free", row)
    require(now == full, "its room was not set aside: the guest waited")
    return "its room was set aside, the guest went on"


def backup_is_lost(site: Site, row: Row) -> str:
    """The backup ends and says why; the guest goes on alone, and has a new backup when its disks are mended."""
    solo, lost = site.primary.next_of("solo"), site.backup
    site.tell("fail", row)
    told = _ended_by_disk(lost, row)
    site.primary.wait_event("solo", count=solo)
    checks.goes_on(site.traffic)
    site.give_backup(lost.host, told=False)
    return f"{told}, the guest went on alone, protected again"


def primary_is_lost(site: Site, row: Row) -> str:
    """The primary ends and says why; the backup continues the guest with the same connections."""
    site.tell("fail", row)
    at = time.time()
    told = _ended_by_disk(site.primary, row)
    takeover = checks.wait_takeover(site.backup, at, NOTICE_SECONDS)
    checks.goes_on(site.traffic)
    site.swap()
    return f"{told}, {takeover}, protected again"


def all_is_lost_but_nothing_acknowledged(site: Site, row: Row) -> str:
    """Both end and say why. With mended disks the guest boots where it ran last, and no acknowledged line is missing."""
    # Paused, so that neither side meets its error before both have one: the other would rightly go on.
    site.primary.ctl("pause")
    site.tell("fail", row)
    _resume_what_ends(site.primary)
    told = [_ended_by_disk(side, row) for side in (site.primary, site.backup)]
    require(not site.backup.events("failover-finished"), "the guest ran on a disk that fails")
    site.traffic.kill()
    site.tell("mend", row)
    held = site.boot_where_it_ran_last()
    site.primary.ctl("pause")
    site.stage.run(held, f"cp {DISK} /lab/host/vmm/disk.img")
    image = site.stage.host(held).share / "vmm" / "disk.img"
    result = journal_check.check(image, site.traffic.acked_file)
    image.unlink()
    require(result["ok"], f"the image on host {held}: {result}")
    site.primary.ctl("resume")
    site.traffic = site.stage.traffic(*FLOWS)
    site.traffic.wait_more()
    wait_protected(site.primary, site.backup)
    return f"{', '.join(told)}; {result['acked']} lines acked, {result['found']} in the image; booted and protected again"


def goes_on_without_state(site: Site, row: Row) -> str:
    """The state directory takes no more epochs: that is told, and the guest goes on with its backup, which could take over."""
    before = site.given_up()
    site.tell("fail", row)
    why = site.primary.wait_event("degraded", NOTICE_SECONDS)["properties"]["reason"]
    checks.goes_on(site.traffic)
    require(site.given_up() == before, f"they gave each other up: {site.given_up()}")
    at = site.stage.plug(site.primary.host)
    takeover = checks.wait_takeover(site.backup, at, NOTICE_SECONDS)
    checks.goes_on(site.traffic)
    site.primary = site.backup
    return f"degraded ('{why[-120:]}'), the guest went on with its backup; then its host lost its power: {takeover}"


# Those that need room in an image come first: later rows leave fewer holes in it.
ROWS = [
    Row(IMAGE, "ENOSPC", "backup", waits_for_room),
    Row(IMAGE, "ENOSPC", "primary", waits_for_room),
    Row(IMAGE, "ENOSPC", "both", waits_for_room),
    Row(IMAGE, "EIO", "both", all_is_lost_but_nothing_acknowledged),
    Row(LOG, "EIO", "both", all_is_lost_but_nothing_acknowledged),
    Row(IMAGE, "EIO", "backup", backup_is_lost),
    Row(LOG, "ENOSPC", "backup", has_its_room),
    Row(LOG, "EIO", "primary", primary_is_lost),
    Row(LOG, "ENOSPC", "primary", has_its_room),
    Row(LOG, "EIO", "backup", backup_is_lost),
    Row(IMAGE, "EIO", "primary", primary_is_lost),
    Row(LOG, "ENOSPC", "both", has_its_room),
]
FEW = [row for row in ROWS if row.error == "EIO" and (row.file, row.side) in [(IMAGE, "backup"), (LOG, "primary")]]


STATE_ROWS = [Row(STATE, "ENOSPC", "primary", has_its_room), Row(STATE, "EIO", "primary", goes_on_without_state)]


def disks_that_fail(stage: Stage) -> str:
    """I/O errors in the backup's image, then in the primary's log: that side is lost, the other goes on with the guest."""
    return _run(stage, FEW)


def disks_that_fail_or_are_full(stage: Stage) -> str:
    """No room, and I/O errors, in image and log, on each side and on both: the guest lives or stops as promised, nothing acknowledged is lost."""
    return _run(stage, ROWS)


def state_directory_that_fails(stage: Stage) -> str:
    """No room, then I/O errors, in the state directory of a guest that has a backup too: it goes on, and its backup could take over."""
    return _run(stage, STATE_ROWS, local=True)


def guest_alone_on_a_disk_that_fails(stage: Stage) -> str:
    """A guest without protection is told of an I/O error as by any disk, its operator too, and its VMM goes on and can be stopped."""
    stage.run("A", f"baddisk make {IMAGE} {FILES[IMAGE]}")
    vmm = Pair(stage, GUEST).start_primary("A", None)
    stage.breaks(vmm.console_file)
    traffic = stage.traffic("stream")
    traffic.wait_more()
    with network.tcp_socket(stage.lab) as writer:
        writer.settimeout(WRITTEN_SECONDS)
        writer.connect((Options().address, WORK_PORT))
        stage.run("A", f"baddisk fail {IMAGE}")
        writer.sendall(_write(1))
        error = vmm.wait_event("disk-failed", NOTICE_SECONDS)["properties"]["error"]
    require(DISK in error, f"the disk is not named: {error}")
    checks.goes_on(traffic)
    traffic.finish()
    vmm.stop()
    return f"told '{error}', went on, stopped"


def _run(stage: Stage, rows: list[Row], local: bool = False) -> str:
    site = Site(stage, local)
    for row in rows:
        begun = time.monotonic()
        told = row.promise(site, row)
        print(f"     {row}: {told} ({time.monotonic() - begun:.1f} s)", flush=True)
    site.traffic.finish()
    return f"{len(rows)} rows; {checks.journal_kept(stage, site.primary, site.traffic, DISK)}"


def _resume_what_ends(vmm: Vmm) -> None:
    """Its guest may meet the disk before the answer is out."""
    try:
        vmm.ctl("resume")
    except Failed as failed:
        require(wait_for("its end", lambda: vmm.exit_code() is not None, NOTICE_SECONDS), str(failed))


def _write(mib: int) -> bytes:
    return f"fsync {mib} 1024\n".encode()


def _written(writer) -> None:
    answer = writer.recv(256)
    require(answer.startswith(b"WORK fsync"), f"the guest's writes came to an end with {answer!r}")


def _ended_by_disk(vmm: Vmm, row: Row) -> str:
    code = vmm.wait_exit(NOTICE_SECONDS)
    require(code == ERROR, f"{vmm.job} on host {vmm.host} ended with {code}: {vmm.log()[-800:]}")
    said = next((line for line in reversed(vmm.log().splitlines()) if DISK_TROUBLE.search(line)), "")
    require(f"/bad/{row.file}/" in said, f"{vmm.job} on host {vmm.host} does not name its disk: {vmm.log()[-800:]}")
    return f"{vmm.job} ended with {code} ('{said.strip()[-160:]}')"
