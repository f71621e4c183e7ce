"""Processes that the lab started, remembered so that only they are ever ended.

A record holds the process id and its start time in clock ticks since boot. A reused id has
another start time, so a record of a dead process never names a stranger. Signals go through
a pidfd that was opened before the start time was checked: no window between check and kill.
"""

import contextlib
import os
import select
import signal
from pathlib import Path


def remember(record: Path, pid: int) -> None:
    """Writes the record of a process that this program has just started."""
    fresh = record.with_suffix(".new")
    fresh.write_text(f"{pid} {start_time(pid)}\n")
    fresh.rename(record)


def start_time(pid: int) -> int | None:
    """Start time of a process in ticks, or None if there is no such process."""
    state_and_rest = _stat(pid)
    return int(state_and_rest[19]) if state_and_rest else None


def pid_of(record: Path) -> int | None:
    """The recorded process if it is alive (a zombie is not)."""
    with _opened(record) as (pid, _):
        return pid


def send(record: Path, number: int) -> bool:
    """Sends a signal to the recorded process; False if it is not alive."""
    with _opened(record) as (pid, pidfd):
        if pid is None:
            return False
        signal.pidfd_send_signal(pidfd, number)
        return True


def end(record: Path, number: int = signal.SIGKILL, seconds: float = 10.0) -> bool:
    """Ends the recorded process and waits until it is gone; False if it was gone already."""
    with _opened(record) as (pid, pidfd):
        if pid is not None:
            signal.pidfd_send_signal(pidfd, number)
            if not _gone(pidfd, seconds):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                _gone(pidfd, seconds)
    record.unlink(missing_ok=True)
    return pid is not None


def wait_end(record: Path, seconds: float) -> bool:
    """Waits until the recorded process ends by itself; False if it does not in time."""
    with _opened(record) as (pid, pidfd):
        return pid is None or _gone(pidfd, seconds)


def wait_pid(pid: int, started: int) -> None:
    """Returns when the process with this id and start time is no more."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if start_time(pid) == started:
            select.select([pidfd], [], [])
    finally:
        os.close(pidfd)


def state(record: Path) -> str:
    """`running`, `stopped` (SIGSTOP) or `dead`."""
    pid = pid_of(record)
    fields = _stat(pid) if pid else None
    if not fields:
        return "dead"
    return "stopped" if fields[0] in "Tt" else "running"


def resident_bytes(record: Path) -> int:
    """Memory of the process that is in RAM now."""
    pid = pid_of(record)
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) if pid else 0
    except OSError:
        pages = 0
    return pages * os.sysconf("SC_PAGE_SIZE")


@contextlib.contextmanager
def _opened(record: Path):
    """Yields (pid, pidfd) of the recorded process, or (None, None) if it is not alive."""
    pid, pidfd = _open(record)
    try:
        yield pid, pidfd
    finally:
        if pidfd is not None:
            os.close(pidfd)


def _open(record: Path) -> tuple[int | None, int | None]:
    try:
        pid, started = (int(word) for word in record.read_text().split())
        pidfd = os.pidfd_open(pid)
    except (FileNotFoundError, ProcessLookupError):
        return None, None
    fields = _stat(pid)
    if fields and int(fields[19]) == started and fields[0] not in "ZX":
        return pid, pidfd
    os.close(pidfd)
    return None, None


def _gone(pidfd: int, seconds: float) -> bool:
    return bool(select.select([pidfd], [], [], seconds)[0])


def _stat(pid: int) -> list[str] | None:
    """Fields of /proc/PID/stat from the state on."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return text.rpartition(")")[2].split()
