"""A machine beside the hosts: a network namespace with one card on `lan`, and one program in it.

It is not emulated. What a witness runs on needs no KVM, and so its faults cost nothing: the program is killed, stopped or
started in no time, and the way between it and any one address is cut alone.
"""

import os
import shutil
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

from . import network, process
from .errors import Conflict, LabError
from .instance import Instance

RECORD = "process.pid"
NO_PROXY = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "")


@dataclass(frozen=True)
class Station:
    """`index` counts from 1 and gives its address."""

    lab: Instance
    name: str
    index: int

    @property
    def address(self) -> str:
        return f"10.77.0.{20 + self.index}"

    @property
    def directory(self) -> Path:
        return self.lab.directory / "stations" / self.name

    @property
    def data(self) -> Path:
        """Where its program keeps what it has."""
        return self.directory / "data"

    @property
    def log(self) -> Path:
        return self.directory / "log"

    @property
    def pid_record(self) -> Path:
        return self.directory / RECORD

    def make(self) -> None:
        """Puts it into the network; nothing runs on it yet."""
        self.directory.mkdir(parents=True)
        network.make_station(self.lab, self.name, self.index, self.address)

    def start(self, command: list[str]) -> None:
        """Starts its program. It asks no proxy for what is beside it."""
        if process.pid_of(self.pid_record):
            raise Conflict(f"station {self.name} of lab {self.lab.name} runs already")
        inner = ["ip", "netns", "exec", network.station_namespace(self.lab.namespace, self.name), *command]
        with open(self.log, "ab") as log:
            child = subprocess.Popen(
                inner, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd=self.directory, env={**os.environ, **NO_PROXY}
            )
        process.remember(self.pid_record, child.pid)

    def remove(self) -> None:
        """Ends its program and takes it out of the network; its files are gone."""
        remove(self.lab.name, self.directory)

    @property
    def is_running(self) -> bool:
        return process.pid_of(self.pid_record) is not None

    def kill(self) -> None:
        """kill -9 of its program; what it wrote stays."""
        process.end(self.pid_record)

    def freeze(self) -> None:
        """SIGSTOP: its program takes connections and answers none."""
        self._send(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        self._send(signal.SIGCONT)

    def cut(self, address: str) -> None:
        """Nothing gets through between it and an address any more, either way."""
        network.set_path(self.lab, self.name, address, up=False)

    def join(self, address: str) -> None:
        """Undoes `cut`."""
        network.set_path(self.lab, self.name, address, up=True)

    def _send(self, number: int) -> None:
        if not process.send(self.pid_record, number):
            raise LabError(f"nothing runs on station {self.name}: {self.log.read_text(errors='replace')[-400:]}")


def remove(lab: str, directory: Path) -> None:
    """Removes the station of a lab whose files are in `directory`."""
    process.end(directory / RECORD)
    network.remove_station(f"ol-{lab}", directory.name)
    shutil.rmtree(directory, ignore_errors=True)
