"""A directory of a file server on a station, which hosts mount over the network: 9p by Debian's `diod`.

As behind any file server, a host whose way to it is cut hangs in its system calls until the way is joined. A mount whose
server ended gives errors until it is made anew, which NFS would do by itself.
"""

import shutil
import subprocess
from pathlib import Path

from recipes import debian

from . import agent
from .errors import LabError
from .instance import Host, Instance
from .station import Station

PORT = 564
# What is mounted; and where it is shown.
HELD, MOUNT = "/lab/.server", "/lab/server"
PACKAGES = ["diod", "liblua5.1-0", "libmunge2", "libwrap0"]
MOUNT_SECONDS = 20.0
REPEAT_SECONDS = 120.0


def program() -> Path:
    """A directory with diod's files; Debian's packages are unpacked and not installed."""
    return debian.program("diod", PACKAGES)


class FileServer:
    """Station s1 with one directory."""

    def __init__(self, lab: Instance):
        self.lab = lab
        self.station = Station(lab, "s1", 11)
        self._program = program()

    @property
    def directory(self) -> Path:
        """Where it lies on this machine."""
        return self.station.directory / "exported"

    @property
    def witness(self) -> str:
        """What `outlast` is told: a directory below the mount, which is not there when the mount is not."""
        return f"file:{MOUNT}/witness"

    def start(self) -> None:
        """Serves an empty directory to all hosts."""
        self.station.make()
        (self.directory / "witness").mkdir(parents=True)
        self.serve()
        for host in self.lab.all_hosts():
            self.mount(host)

    def serve(self) -> None:
        """Starts the server, on whatever is in its directory."""
        # It drops a client whose address a name server would have to give a name to.
        names = self.station.directory / "hosts"
        names.write_text("".join(f"{host.lan_address} {host.name}\n" for host in self.lab.all_hosts()))
        libraries = self._program / "usr" / "lib" / "x86_64-linux-gnu"
        command = [str(self._program / "usr/sbin/diod"), "--foreground", "--no-auth", "--listen", f"{self.station.address}:{PORT}"]
        command += ["--export", str(self.directory), "--logdest", "stderr", "--config-file", "/dev/null"]
        # The station's program has mounts of its own.
        inside = ["sh", "-c", f'mount --bind {names} /etc/hosts && LD_LIBRARY_PATH={libraries} exec "$@"', "sh", *command]
        self.station.start(inside)

    def mount(self, host: Host) -> None:
        """Mounts the directory on a host, in place of what may be there: for the host's kernel it is another file system then."""
        options = f"trans=tcp,port={PORT},version=9p2000.L,msize=65536,cache=none,access=any,uname=root,aname={self.directory}"
        self._on(host, f"modprobe 9pnet_fd; mkdir -p {HELD} {MOUNT}; umount -l {MOUNT} {HELD} 2>/dev/null", may_fail=True)
        self._on(host, f"mount -t 9p -o {options} {self.station.address} {HELD}")
        self.show(host)

    def hide(self, host: Host) -> None:
        """Takes the mount away under whoever uses it: an empty directory is left."""
        self._on(host, f"umount -l {MOUNT}")

    def show(self, host: Host) -> None:
        """What `hide` took away is there again, and is the same file system."""
        self._on(host, f"mount --bind {HELD} {MOUNT}")

    def wait_seen(self, host: Host) -> None:
        """Returns when the host's way to the server, which was cut, carries its requests again: the host repeats them ever more seldom."""
        self._on(host, f"stat {MOUNT}/witness >/dev/null", REPEAT_SECONDS)

    def _on(self, host: Host, script: str, seconds: float = MOUNT_SECONDS, may_fail: bool = False) -> None:
        done = agent.capture(self.lab, host, ["sh", "-c", script], timeout=seconds)
        if done.code != 0 and not may_fail:
            said = done.stderr.decode(errors="replace").strip()
            raise LabError(f"'{script}' on host {host.name} ended with {done.code}: {said}", f"see {self.station.log}")

    def copy(self, to: Path) -> None:
        """Copies what is in the directory."""
        shutil.rmtree(to, ignore_errors=True)
        subprocess.run(["cp", "-a", self.directory, to], check=True)

    def restore(self, source: Path) -> None:
        """Puts the directory's content back to what `copy` copied; the directories stay what they are."""
        for path in (self.directory / "witness").iterdir():
            path.unlink()
        subprocess.run(["cp", "-a", f"{source}/witness/.", self.directory / "witness"], check=True)

    def records(self, vm: str) -> list[bytes]:
        """The records of a VM's register, the first first."""
        found = []
        while (path := self.directory / "witness" / f"{vm}.view-{len(found) + 1}").exists():
            found.append(path.read_bytes())
        return found
