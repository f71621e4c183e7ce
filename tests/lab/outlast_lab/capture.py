"""All frames of a bridge in a pcap file, by tcpdump; complete up to the moment of `stop`."""

import json
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

from . import network, process
from .errors import Conflict, LabError, NotFound
from .instance import Instance

# IEEE 802's number for local experiments: no stack answers it.
LOCAL_ETHERTYPE = b"\x88\xb5"
DRAIN_SECONDS_MAX = 30.0
MARK_SEARCH_BYTES = 1 << 20


def start(instance: Instance, link: str, path: Path) -> None:
    """Records every frame of a bridge to a pcap file; returns when the capture has begun."""
    if process.pid_of(instance.capture_record):
        raise Conflict(f"lab {instance.name} captures already", "lab capture stop")
    log = instance.directory / "capture.log"
    (instance.directory / "capture.json").write_text(json.dumps([link, str(path)]))
    command = network.inside(instance, ["tcpdump", "-i", link, "-n", "-U", "--immediate-mode", "-s", "0", "-B", "16384", "-Z", "root", "-w", str(path)])
    with open(log, "wb") as out:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True)
    process.remember(instance.capture_record, child.pid)
    deadline = time.monotonic() + 10
    while b"listening on" not in log.read_bytes():
        if child.poll() is not None or time.monotonic() > deadline:
            raise LabError(f"tcpdump did not begin: {log.read_text().strip()}", "is tcpdump installed?")
        time.sleep(0.01)


def stop(instance: Instance) -> str:
    """Ends the capture; returns tcpdump's own summary (captured, dropped)."""
    if process.pid_of(instance.capture_record) is None:
        raise NotFound(f"lab {instance.name} captures nothing", "lab capture start")
    _drain(instance)
    process.end(instance.capture_record, signal.SIGINT)
    return (instance.directory / "capture.log").read_text()


def _drain(instance: Instance) -> None:
    """Sends a marked frame of our own and waits for it in the file: all before it is there too."""
    link, path = json.loads((instance.directory / "capture.json").read_text())
    mark = os.urandom(32)
    with network.entered(instance), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind((link, 0))
        raw.send(b"\xff" * 6 + bytes(6) + LOCAL_ETHERTYPE + mark)
    deadline = time.monotonic() + DRAIN_SECONDS_MAX
    while mark not in _end_of(Path(path)):
        if time.monotonic() > deadline:
            raise LabError(f"{path} does not catch up with the bridge", "is the disk full?")
        time.sleep(0.01)


def _end_of(path: Path) -> bytes:
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - MARK_SEARCH_BYTES))
        return file.read()
