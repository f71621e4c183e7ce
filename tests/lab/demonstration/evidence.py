"""What was seen, judged; and the words for it."""

from cases.failed import require
from cases.stage import Stage
from cases.traffic import Traffic
from cases.vmm import Vmm
from outlast_lab import journal_check

MEANING = {
    "stream": "requests; each answer has the count and the checksum of all before it",
    "download": "one endless answer of numbered blocks",
    "journal": "lines, acknowledged when they are on the guest's disk",
    "redis": "SETs of new keys in redis-server; at the end all are read back",
}
# The last answer may have been on its way when the power went.
CLOCK_SECONDS = 0.1
# In the host, where the image is: a mount replays the file system's journal, as a boot of the guest would.
READ_BACK = """set -e
modprobe loop
mkdir -p /tmp/guest
mount -t ext4 -o loop "$disk" /tmp/guest
cp "/tmp/guest$journal" /lab/host/vmm/journal.found
umount /tmp/guest
e2fsck -f -n "$disk" >/lab/host/vmm/fsck.log 2>&1
"""


def journal(stage: Stage, vmm: Vmm, traffic: Traffic, disk: str, path: str) -> dict:
    """Every acknowledged line is on the disk of the guest, once and in order, and the file system is clean."""
    stage.run(vmm.host, f"disk={disk} journal={path}\n{READ_BACK}", seconds=300)
    found = (stage.host(vmm.host).share / "vmm" / "journal.found").read_bytes().splitlines()
    # e2fsck's code is that of the script: it is 0 here.
    result = journal_check.compare(found, traffic.acked_file.read_bytes().splitlines(), 0, "")
    require(result["ok"], f"the journal on host {vmm.host}: {result}")
    return result


def told_flows(flows: dict[str, dict], cut_at: float) -> list[str]:
    """A line for each flow."""
    return [_told(name, flow, cut_at) for name, flow in flows.items()]


def gap_over_ms(flow: dict, cut_at: float) -> float:
    """The silence in which the power was cut; of a flow that had none of note, its longest."""
    around = [gap["ms"] for gap in flow["gaps"] if gap["begun_at"] - CLOCK_SECONDS <= cut_at <= gap["ended_at"]]
    return max(around, default=flow["longest_gap"]["ms"])


def gaps_over_ms(flows: dict[str, dict], cut_at: float) -> dict[str, float]:
    """The same of each flow."""
    return {name: gap_over_ms(flow, cut_at) for name, flow in flows.items()}


def longest_gaps_ms(flows: dict[str, dict]) -> dict[str, float]:
    """The longest silence of each flow, wherever it was."""
    return {name: flow["longest_gap"]["ms"] for name, flow in flows.items()}


def _told(name: str, flow: dict, cut_at: float) -> str:
    size = flow["acked_bytes"]
    amount = f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"
    back = f", {flow['checked']} read back" if flow["checked"] else ""
    silence = f"silent for {gap_over_ms(flow, cut_at) / 1000:.2f} s"
    return f"{name:8}  {flow['acked']} answers, {amount}, all right{back}; {silence}"
