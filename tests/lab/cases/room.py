"""Both hosts' file systems under the images fill at the same time, as equal images on equal file systems do."""

import time
from dataclasses import replace

from outlast_lab import network
from outlast_lab.flows import Options

from . import checks
from .failed import require
from .pair import BUSYBOX, DISK, Pair, Scene, wait_protected
from .stage import Stage
from .waiting import wait_for

DETECT_SECONDS = 3
# Longer than a silence may be, and shorter than a backup without room is waited for: ten times as long.
FULL_SECONDS = 4 * DETECT_SECONDS
STALL_SECONDS = 3
WORK_PORT = 7004
# 16 MiB of a file that the guest did not have before.
WRITE = b"fsync 256 64\n"
# The image is full of holes, on both hosts.
SPARSE = replace(BUSYBOX, prepare=f"truncate -s 64M {DISK}; mke2fs -q -F -t ext4 -b 4096 {DISK}")
# All that root may have, in pieces that become smaller.
FILL = """i=0
for size in 1073741824 67108864 1048576 65536 4096; do
    while fallocate -l $size /data/work/fill.$i 2>/dev/null; do i=$((i + 1)); done
    i=$((i + 1))
done
sync
df /data | tail -n 1"""
GIVE_BACK = "rm /data/work/fill.*"


def no_room_on_both_hosts(stage: Stage) -> str:
    """Neither host has room for what the guest writes: it waits and nobody ends; with room it goes on, and survives its host."""
    scene = Pair(stage, SPARSE, detect=f"{DETECT_SECONDS}s").protected("stream", "journal")
    scene.load_for_a_while()
    given_up = _given_up(scene)
    for host in "AB":
        stage.run(host, FILL)
    with network.tcp_socket(stage.lab) as writer:
        writer.settimeout(30)
        writer.connect((Options().address, WORK_PORT))
        writer.sendall(WRITE)
        told = _waits_for_room(scene)
        require(_given_up(scene) == given_up, f"they gave each other up: {_given_up(scene)}")
        for host in "BA":
            stage.run(host, GIVE_BACK)
        writer.settimeout(120)
        answer = writer.recv(256)
        require(answer.startswith(b"WORK fsync"), f"the guest's writes came to an end with {answer!r}")
    checks.goes_on(scene.traffic)
    wait_protected(scene.primary, scene.backup)
    fault_at = stage.plug("A")
    takeover = checks.wait_takeover(scene.backup, fault_at, 60)
    checks.goes_on(scene.traffic)
    flows = scene.traffic.finish()
    journal = checks.journal_kept(stage, scene.backup, scene.traffic)
    return f"{told}; {takeover}; {checks.gap_over(flows, fault_at)}; {journal}"


def _waits_for_room(scene: Scene) -> str:
    """The guest comes to stand still, and nobody gives up anybody."""
    sides = (scene.primary, scene.backup)
    wait_for("a side without room", lambda: [side for side in sides if side.events("disk-full")], 120, scene.primary.ended)
    wait_for("a guest that stands still", lambda: _stands_still(scene), 120, scene.primary.ended)
    before = scene.traffic.acked()
    time.sleep(FULL_SECONDS)
    require(scene.traffic.acked() == before, f"answers went on without room: {before}, {scene.traffic.acked()}")
    for side in sides:
        require(side.ended() is None, f"{side.job} on host {side.host}: {side.ended()}")
    full = [f"{side.host} {side.events('disk-full')[0]['properties']['path']}" for side in sides if side.events("disk-full")]
    return f"no room for {', '.join(full)}; stood still for {FULL_SECONDS} s"


def _stands_still(scene: Scene) -> bool:
    before = scene.traffic.acked()
    time.sleep(STALL_SECONDS)
    return scene.traffic.acked() == before


def _given_up(scene: Scene) -> list[str]:
    names = ("peer-lost", "solo", "failover-started", "discarded")
    return [event["event"] for side in (scene.primary, scene.backup) for event in side.events() if event["event"] in names]
