"""What every case judges in the same way."""

import time
from dataclasses import dataclass

from outlast_lab import journal_check

from .failed import Failed, require
from .pair import DISK
from .ports import Ports
from .stage import Stage
from .traffic import Traffic
from .vmm import Vmm


@dataclass(frozen=True)
class Takeover:
    """What was seen of one takeover."""

    fault_at: float
    finished_at: float
    silence_ms: float
    takeover_ms: float
    reemitted: int

    def __str__(self) -> str:
        on = (self.finished_at - self.fault_at) * 1000
        return f"goes on {on:.0f} ms after it (silence {self.silence_ms:.0f}, takeover {self.takeover_ms:.0f} ms, {self.reemitted} outputs again)"


def wait_takeover(backup: Vmm, fault_at: float, seconds: float = 30) -> Takeover:
    """Waits until the backup runs the guest."""
    finished = backup.wait_event("failover-finished", seconds)["properties"]
    at = time.time()
    started = backup.events("failover-started")[-1]["properties"]
    return Takeover(fault_at, at, started["silence_ms"], finished["takeover_ms"], finished["reemitted"])


def goes_on(traffic: Traffic) -> dict[str, int]:
    """Every flow gets more answers from now on."""
    return traffic.wait_more(5)


def one_voice(ports: Ports, old: str, new: str, since: float) -> str:
    """After the first frame of the guest from host `new`, host `old` lets none out that `new` does not send too.

    A frame that the old primary released and that was still on its way may arrive late; the new
    primary sends such output again, so it is a repeat. Anything else is a second guest.
    """
    require(ports.lost() == 0, "the record of the guest's frames is not complete")
    theirs = ports.of(new, since)
    require(theirs, f"no frame of the guest came from host {new}")
    first = theirs[0].at
    late = ports.of(old, first)
    known = {frame.digest for frame in theirs}
    strangers = [frame for frame in late if frame.digest not in known]
    if strangers:
        shown = "; ".join(map(str, strangers[:3]))
        raise Failed(f"two guests: {len(strangers)} frames from host {old} after the first from {new} at {first:.6f}: {shown}")
    return f"frames {len(ports.of(old, until=first))}+{len(theirs)}, late {len(late)}"


def silent(ports: Ports, host: str, since: float = 0.0, until: float = float("inf")) -> None:
    """No frame of the guest came from a host in a time."""
    require(ports.lost() == 0, "the record of the guest's frames is not complete")
    frames = ports.of(host, since, until)
    require(not frames, f"{len(frames)} frames of the guest from host {host}, where it must not run: {frames[:1]}")


def journal_kept(stage: Stage, vmm: Vmm, traffic: Traffic, disk: str = DISK) -> str:
    """Stops the guest; every acknowledged line is in the image of its host, and that is clean."""
    vmm.stop()
    image = stage.host(vmm.host).share / "vmm" / "disk.img"
    stage.run(vmm.host, f"cp {disk} /lab/host/vmm/disk.img")
    result = journal_check.check(image, traffic.acked_file)
    require(result["ok"], f"the journal on host {vmm.host}: {result}")
    image.unlink()
    return f"journal {result['acked']} acked, {result['found']} in the image, clean"


def gap_over(flows: dict[str, dict], fault_at: float) -> str:
    """Longest silence of each flow, and the answers it got."""
    parts = []
    for name, flow in flows.items():
        gap = flow["longest_gap"]
        around = gap["begun_at"] - 0.5 <= fault_at <= gap["ended_at"]
        parts.append(f"{name} {flow['acked']} acked, gap {gap['ms']:.0f} ms{'' if around else ' (elsewhere)'}")
    return ", ".join(parts)
