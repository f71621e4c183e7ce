"""A host's persistent disk: a sparse raw file with one ext4 file system.

Files given as seed are in it from the start, equal on all hosts, so a guest's disk image need
not be copied through a running host. The emulator writes through this machine's page cache:
what the host has written survives the end of the emulator.
"""

import os
import subprocess
import tempfile
from pathlib import Path

from .errors import LabError, NotFound
from .instance import Host

MIB = 1 << 20


def make(host: Host, size_mib: int, seed: list[Path]) -> None:
    """Makes the disk of a host that has none yet."""
    for path in seed:
        if not path.is_file():
            raise NotFound(f"{path}: no such file to put on the data disks")
    with open(host.disk, "wb") as image:
        image.truncate(size_mib * MIB)
    with tempfile.TemporaryDirectory(dir=host.directory) as tree:
        for path in seed:
            _sparse_copy(path.resolve(), Path(tree, path.name))
        command = ["mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=1,lazy_journal_init=1,root_owner=0:0", "-d", tree, str(host.disk)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise LabError(f"mkfs.ext4 on {host.disk} failed: {done.stderr.strip()}", "a larger disk: lab up --data-mib N")


def make_nvdimm(host: Host, size_mib: int) -> None:
    """Makes the file behind a host's memory module; none for 0."""
    if size_mib:
        with open(host.nvdimm, "wb") as image:
            image.truncate(size_mib * MIB)


def _sparse_copy(source: Path, target: Path) -> None:
    subprocess.run(["cp", "--sparse=always", "--reflink=auto", source, target], check=True)
    os.chmod(target, 0o644)
