"""From nothing to a running lab, and back to nothing.

`up` is covered by a reaper: a process of its own that ends the whole lab as soon as the one
it is tied to is gone. While `up` runs that is `up` itself, so a script killed half-way leaves
nothing; afterwards it is whoever `--tie-to-pid` named, or nobody.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from . import disk, emulator, hostimage, instance as instances, network, process, station
from .errors import Conflict, LabError
from .instance import Host, Instance

LAB = Path(__file__).resolve().parents[1] / "lab"


def up(instance: Instance, seed: list[Path], tie_to_pid: int | None) -> None:
    """Makes the lab and returns when every host can be used."""
    _require_root()
    disk.require_room(instances.base(), len(instance.all_hosts()), instance.data_mib, instance.nvdimm_mib, seed)
    hostimage.get()
    _claim(instance)
    guard = _start_reaper(instance, os.getpid())
    try:
        instance.save()
        network.make(instance)
        instance.share.mkdir()
        for host in instance.all_hosts():
            host.share.mkdir(parents=True)
            disk.make(host, instance.data_mib, seed)
            disk.make_nvdimm(host, instance.nvdimm_mib)
        power_on_all(instance, instance.all_hosts())
        if tie_to_pid is not None:
            _start_reaper(instance, tie_to_pid)
    except BaseException:
        down(instance.name)
        raise
    finally:
        guard.kill()
        guard.wait()


def power_on_all(instance: Instance, hosts: list[Host]) -> None:
    """Starts hosts at once and waits for all of them."""
    for host in hosts:
        emulator.power_on(instance, host)
    deadline = time.monotonic() + emulator.BOOT_SECONDS_MAX
    for host in hosts:
        emulator.wait_ready(host, deadline)


def down(name: str) -> None:
    """Ends and removes everything of the instance, whatever state it is in."""
    directory = instances.base() / name
    for record in sorted(directory.glob("host-*/emulator.pid")) + sorted(directory.glob("host-*/disk.pid")) + [directory / "capture.pid"]:
        process.end(record)
    for place in sorted(directory.glob("stations/*")):
        station.remove(name, place)
    network.remove(f"ol-{name}")
    _end_reaper(directory / "reaper.pid")
    shutil.rmtree(directory, ignore_errors=True)


def reap(name: str, pid: int, started: int) -> None:
    """Waits for the end of a process, then ends the lab."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    process.wait_pid(pid, started)
    down(name)


def _claim(instance: Instance) -> None:
    """The state directory is the lock: whoever makes it owns the name."""
    instances.base().mkdir(parents=True, exist_ok=True)
    try:
        instance.directory.mkdir()
    except FileExistsError:
        raise Conflict(f"lab {instance.name} is there already", f"lab down --name {instance.name}, or another --name") from None


def _start_reaper(instance: Instance, pid: int) -> subprocess.Popen:
    started = process.start_time(pid)
    if started is None:
        raise LabError(f"there is no process {pid} to tie the lab to")
    command = [sys.executable, str(LAB), "reap", "--name", instance.name, str(pid), str(started)]
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    process.remember(instance.reaper_record, child.pid)
    return child


def _end_reaper(record: Path) -> None:
    if process.pid_of(record) != os.getpid():
        process.end(record)


def _require_root() -> None:
    if os.geteuid() != 0:
        raise LabError("the lab makes network namespaces and taps", "run it as root or with sudo")
