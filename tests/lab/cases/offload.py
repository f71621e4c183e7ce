"""A guest that leaves its segments to the host's kernel."""

from . import checks
from .failed import require
from .pair import Pair
from .stage import Stage

# Bytes a second of the download. Its answers are written as fast as that, in pieces of many segments.
RATE = 4_000_000
# A frame on a wire: what is longer is to be cut into segments by whoever sends it on.
WIRE_FRAME_BYTES = 1514


def plug_under_bulk(stage: Stage) -> str:
    """A guest that sends large segments loses its host: the backup sends them too, and no byte is wrong."""
    scene = Pair(stage).protected("download", rate=RATE)
    scene.load_for_a_while()
    fault_at = stage.plug("A")
    takeover = checks.wait_takeover(scene.backup, fault_at)
    checks.goes_on(scene.traffic)
    flows = scene.traffic.finish()
    large = {host: _large(stage, host) for host in ("A", "B")}
    require(all(large.values()), f"frames longer than {WIRE_FRAME_BYTES} bytes by host: {large}")
    voice = checks.one_voice(stage.ports, "A", "B", 0)
    scene.backup.stop()
    return f"{takeover}; {checks.gap_over(flows, fault_at)}; large frames {large['A']}+{large['B']}; {voice}"


def _large(stage: Stage, host: str) -> int:
    return sum(frame.length > WIRE_FRAME_BYTES for frame in stage.ports.of(host))
