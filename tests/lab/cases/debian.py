"""An unmodified Debian with redis from Debian's own package."""

from . import checks
from .failed import require
from .pair import LOUD, Guest, Pair
from .stage import Stage

DISK = "/data/debian.img"
# Both hosts have the image from the start, so the replica equals it until the guest writes.
DEBIAN = Guest(
    kernel="/data/vmlinuz", initramfs="/data/debian-initrd.img", cmdline=f"console=ttyS0 root=/dev/vda rw {LOUD}",
    memory="384M", disk=DISK, prepare="", replica="",
)  # fmt: skip
BOOT_SECONDS = 240


def debian_redis(stage: Stage) -> str:
    """Debian boots to its login; every SET that redis acknowledged is there after the plug, on the same connection."""
    scene = Pair(stage, DEBIAN).protected("redis", connect_seconds=BOOT_SECONDS)
    require("login:" in scene.primary.wait_console("login:", BOOT_SECONDS), "no login on the console")
    scene.load_for_a_while()
    fault_at = stage.plug("A")
    takeover = checks.wait_takeover(scene.backup, fault_at)
    checks.goes_on(scene.traffic)
    flows = scene.traffic.finish()
    voice = checks.one_voice(stage.ports, "A", "B", 0)
    redis = flows["redis"]
    require(redis["checked"] == redis["acked"], f"{redis['acked']} SETs acknowledged, {redis['checked']} read back")
    scene.backup.stop()
    resync = f"resync {scene.resync['ms']} ms, {scene.resync['bytes'] >> 20} MiB"
    return f"login; {takeover}; {checks.gap_over(flows, fault_at)}; {redis['checked']} SETs read back; {voice}; {resync}"
