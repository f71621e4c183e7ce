"""One lab: its name, its hosts, and where its files lie.

Everything else is derived from the instance name: the state directory and the network
namespace `ol-NAME`; bridges and taps have fixed names inside that namespace. Two instances
share nothing but the image cache.
"""

import json
import os
import re
import uuid
from dataclasses import asdict, dataclass, field
from pathlib import Path

from .errors import LabError, NotFound

NAME_PATTERN = re.compile(r"[a-z0-9][a-z0-9-]{0,23}")
HOST_PATTERN = re.compile(r"[A-Z]")
DEFAULT_NAME = "main"


def base() -> Path:
    """Where instances live: $OUTLAST_LAB_DIR, else /tmp/outlast-lab."""
    return Path(os.environ.get("OUTLAST_LAB_DIR", "/tmp/outlast-lab"))


@dataclass(frozen=True)
class Host:
    """One emulated host; `index` counts from 1 and gives its addresses."""

    name: str
    index: int
    directory: Path

    @property
    def pid_record(self) -> Path:
        return self.directory / "emulator.pid"

    @property
    def disk_record(self) -> Path:
        """Of the process that serves the disk, if it is one with a write cache."""
        return self.directory / "disk.pid"

    @property
    def serial_log(self) -> Path:
        return self.directory / "serial.log"

    @property
    def emulator_log(self) -> Path:
        return self.directory / "emulator.log"

    @property
    def disk(self) -> Path:
        return self.directory / "data.img"

    @property
    def nvdimm(self) -> Path:
        """What the memory module holds, if the host has one."""
        return self.directory / "nvdimm.img"

    @property
    def share(self) -> Path:
        """Seen inside as /lab/host."""
        return self.directory / "share"

    @property
    def agent_port(self) -> int:
        """On the loopback of the instance's namespace."""
        return 7000 + self.index

    @property
    def lan_address(self) -> str:
        return f"10.77.0.{self.index + 1}"

    @property
    def repl_address(self) -> str:
        return f"10.78.0.{self.index}"


@dataclass
class Instance:
    """What `lab up` was asked for; kept as JSON in the state directory."""

    name: str
    hosts: list[str] = field(default_factory=lambda: ["A", "B"])
    mem_mib: int = 1536
    smp: int = 1
    data_mib: int = 8192
    nice: int = 0
    nvdimm_mib: int = 0
    volatile_disk: bool = False
    counted: bool = False
    # Of this lab and no other, whatever names they have.
    id: str = field(default_factory=lambda: uuid.uuid4().hex)

    def __post_init__(self):
        if not NAME_PATTERN.fullmatch(self.name):
            raise LabError(f"'{self.name}' is no instance name", "use 1 to 24 of a-z, 0-9 and -")
        bad = [host for host in self.hosts if not HOST_PATTERN.fullmatch(host)]
        if bad or len(set(self.hosts)) != len(self.hosts) or not 1 <= len(self.hosts) <= 8:
            raise LabError(f"'{','.join(self.hosts)}' are no host names", "use 1 to 8 different capital letters: A,B")

    @property
    def directory(self) -> Path:
        return base() / self.name

    @property
    def namespace(self) -> str:
        return f"ol-{self.name}"

    @property
    def share(self) -> Path:
        """Seen by all hosts as /lab/share."""
        return self.directory / "share"

    @property
    def reaper_record(self) -> Path:
        return self.directory / "reaper.pid"

    @property
    def capture_record(self) -> Path:
        return self.directory / "capture.pid"

    def host(self, name: str) -> Host:
        if name not in self.hosts:
            raise NotFound(f"lab {self.name} has no host {name}", f"hosts: {', '.join(self.hosts)}")
        return Host(name, self.hosts.index(name) + 1, self.directory / f"host-{name}")

    def machine_id(self, host: Host) -> str:
        """What a host finds in /etc/machine-id at each of its boots, and no other host does."""
        return uuid.uuid5(uuid.UUID(self.id), host.name).hex

    def all_hosts(self) -> list[Host]:
        return [self.host(name) for name in self.hosts]

    def save(self) -> None:
        (self.directory / "instance.json").write_text(json.dumps(asdict(self), indent=2) + "\n")


def load(name: str) -> Instance:
    """The instance as `up` recorded it."""
    path = base() / name / "instance.json"
    try:
        return Instance(**json.loads(path.read_text()))
    except FileNotFoundError:
        raise NotFound(f"there is no lab {name}", f"lab up --name {name}") from None


def names() -> list[str]:
    """All instances with a state directory, whole or half made."""
    return sorted(path.name for path in base().iterdir() if path.is_dir()) if base().is_dir() else []
