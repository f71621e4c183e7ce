"""A kernel that crashes: the host ends by its own fault, at once, with whatever it had in memory.

The emulator ends with it, because a lab host's kernel asks for a reboot after a panic. What the host's disk had taken
reaches the disk; what only the page cache had does not. `lab power` boots it again.
"""

from . import agent, process
from .errors import HostGone, LabError
from .instance import Host, Instance

SECONDS_MAX = 20.0


def kernel(instance: Instance, host: Host) -> None:
    """Crashes the host's kernel by its SysRq key, and returns when the host is gone."""
    if process.pid_of(host.pid_record) is None:
        raise HostGone(f"host {host.name} is not running", f"lab power {host.name}")
    try:
        agent.capture(instance, host, ["sh", "-c", "echo c >/proc/sysrq-trigger"], timeout=SECONDS_MAX)
    except HostGone:
        pass
    if not process.wait_end(host.pid_record, SECONDS_MAX):
        raise LabError(f"the kernel of host {host.name} was told to crash and the host still runs", f"see {host.serial_log}")
