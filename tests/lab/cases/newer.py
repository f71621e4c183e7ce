"""A guest on a kernel that is newer than the host's, and that other people built."""

import time

from . import checks
from .failed import Skipped
from .pair import BUSYBOX, Guest, Pair
from .stage import Stage

ALPINE = Guest(
    kernel="/data/alpine-vmlinuz", initramfs="/data/alpine.cpio.gz", cmdline=BUSYBOX.cmdline, memory="192M",
    disk=BUSYBOX.disk, prepare=BUSYBOX.prepare, replica=BUSYBOX.replica,
)  # fmt: skip
# Such a kernel compares its clocks twice a second, and forgives one comparison.
CLOCKS_SECONDS = 4


def plug_newer_kernel(stage: Stage) -> str:
    """Alpine's kernel 6.18 loses its host under load; its clocks keep in step, and it complains of nothing."""
    if stage.no_alpine:
        raise Skipped(stage.no_alpine)
    scene = Pair(stage, ALPINE).protected()
    scene.load_for_a_while()
    fault_at = stage.plug("A")
    takeover = checks.wait_takeover(scene.backup, fault_at)
    time.sleep(CLOCKS_SECONDS)
    checks.goes_on(scene.traffic)
    flows = scene.traffic.finish()
    voice = checks.one_voice(stage.ports, "A", "B", 0)
    journal = checks.journal_kept(stage, scene.backup, scene.traffic)
    return f"{takeover}; {checks.gap_over(flows, fault_at)}; {journal}; {voice}"
