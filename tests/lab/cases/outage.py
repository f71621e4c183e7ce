"""The power of both hosts goes at the same moment, and with it what their disks had in their write caches.

Nobody is left to take over, so what counts is what the disks have: once the logs beside them are applied, both images hold
every line that a client had an answer for. Then the guest is booted by the documented steps: first the backup, which states
that the one before it is gone, then the primary. Images, logs and register are those of the first boot all the way, so
each outage meets what the ones before it left.
"""

import re
import time

from outlast_lab import journal_check

from .failed import require
from .pair import BUSYBOX, DISK, FLOWS, STATES, Pair, wait_protected
from .soak import HEAVY
from .stage import Stage
from .traffic import Traffic
from .vmm import Vmm
from .waiting import wait_for

# Nobody is to be given up before the cut, however slow this machine is.
DETECT = "5s"
SPLIT_BRAIN = 6
# What had left before the cut has reached the client by then.
DRAIN_SECONDS = 0.3
SOON_SECONDS = 0.5


def plug_both_hosts(stage: Stage) -> str:
    """--outages N times both hosts lose their power at once: every acknowledged line is in both images, and the guest boots again."""
    site = Site(stage)
    site.start()
    for number in range(1, stage.options.outages + 1):
        site.protect()
        moment = MOMENTS[(number - 1) % len(MOMENTS)]
        moment(site)
        site.lose_power()
        told = site.come_back(number)
        print(f"     outage {number}: {moment.__name__[1:]}, {told}", flush=True)
    return f"{stage.options.outages} outages; {site.end()}"


class Site:
    """Both hosts, and what clients were promised since the guest's first boot."""

    def __init__(self, stage: Stage):
        self.stage = stage
        self.pair = Pair(stage, detect=DETECT)
        self.acked = stage.work / "outage.acked"
        self.acked.write_bytes(b"")
        self.pair.prepare("A")
        stage.run("B", f"{BUSYBOX.replica}; sync")

    def start(self) -> None:
        """The backup first, then the guest."""
        self._choose_guest()
        self.backup = self.pair.restart_backup("B")
        self.primary = self.pair.restart_primary("A", "B")

    def protect(self) -> None:
        """Clients are served, and the backup could take over."""
        self.traffic: Traffic = self.stage.traffic(*FLOWS)
        self.traffic.wait_more()
        wait_protected(self.primary, self.backup)

    def lose_power(self) -> None:
        """Cuts both, at a moment at which the guest is protected."""
        self.traffic.check()
        if self._states() != ["protected"] * 2:
            print(f"     parted before anything was done to them: {self._states()}; waiting", flush=True)
            wait_protected(self.primary, self.backup)
        self.stage.plug_all()
        time.sleep(DRAIN_SECONDS)
        require(self._states() == ["protected"] * 2, f"parted when the power went: {self._states()}")
        self.traffic.kill()
        with open(self.acked, "ab") as acked:
            acked.write(self.traffic.acked_file.read_bytes())

    def come_back(self, number: int) -> str:
        """Both hosts boot. Their images are judged as soon as their logs are applied: before the guest writes to them."""
        stage = self.stage
        stage.ports.forget()
        stage.boot("A", "B")
        self._choose_guest()
        refused = self._refused_alone() if stage.rng.random() < 0.5 else ""
        self.backup = self.pair.restart_backup("B")
        replica = self._judge("B", number)
        self.primary = self.pair.restart_primary("A", "B")
        self.primary.wait_event("booting", 60)
        self.primary.ctl("pause")
        image = self._judge("A", number)
        self.primary.ctl("resume")
        logs = f"{_recovered(self.primary)} and {_recovered(self.backup)} epochs out of the logs"
        return f"{image['acked']} acked, {image['found']} and {replica['found']} in the images, {logs}{refused}"

    def end(self) -> str:
        """The guest serves new clients, and can be stopped."""
        self.protect()
        self.traffic.finish()
        with open(self.acked, "ab") as acked:
            acked.write(self.traffic.acked_file.read_bytes())
        self.primary.stop()
        code = self.backup.wait_exit()
        require(code == 0, f"the backup ended with {code} after ctl stop: {self.backup.log()[-500:]}")
        image, replica = self._judge("A", "the end"), self._judge("B", "the end")
        return f"{image['acked']} lines acked, all of them in both images ({image['found']} and {replica['found']}), clean"

    def _choose_guest(self) -> None:
        self.pair.guest = BUSYBOX.with_words(self.stage.rng.choice(("", HEAVY)))
        self.pair.cpus = self.stage.rng.choice((1, 2))

    def _states(self) -> list[str | None]:
        return [vmm.last_of(*STATES) for vmm in (self.primary, self.backup)]

    def _refused_alone(self) -> str:
        """As long as nobody has said so of it, the backup may have the guest."""
        early = self.pair.restart_primary("A", "B")
        code = early.wait_exit(60)
        require(code == SPLIT_BRAIN and "on host B" in early.log(), f"`outlast run` before the backup's return ended with {code}: {early.log()}")
        return ", refused before the backup was back"

    def _judge(self, host: str, when: object) -> dict:
        image = self.stage.host(host).share / "vmm" / "disk.img"
        self.stage.run(host, f"cp {DISK} /lab/host/vmm/disk.img")
        result = journal_check.check(image, self.acked)
        require(result["ok"], f"the image on host {host} after outage {when}: {result}")
        image.unlink()
        return result


def _under_load(site: Site) -> None:
    site.traffic.wait_more()
    time.sleep(site.stage.rng.uniform(0, site.stage.options.seconds))


def _just_filled(site: Site) -> None:
    """What lies under the base was written past the logs, on both sides."""
    site.primary.ctl("unprotect")
    wait_for("a guest alone", lambda: site.primary.last_of(*STATES) == "solo" and site.backup.last_of(*STATES) == "discarded", 60, site.primary.ended)
    site.traffic.wait_more(10)
    site.primary.ctl("protect", site.pair.target("B"))
    wait_protected(site.primary, site.backup)
    time.sleep(site.stage.rng.uniform(0, SOON_SECONDS))


MOMENTS = (_under_load, _just_filled)


def _recovered(vmm: Vmm) -> int:
    """Epochs whose disk writes a VMM found in its log."""
    found = re.search(r"committed epochs were recovered.* epochs=(\d+)", vmm.log())
    return int(found[1]) if found else 0
