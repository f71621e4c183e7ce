"""A host's persistent disk: a sparse raw file with one ext4 file system.

Files given as seed are in it from the start, equal on all hosts, so a guest's disk image need
not be copied through a running host. The emulator writes through this machine's page cache:
what the host has written survives the end of the emulator.
"""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from .errors import LabError, NotFound
from .instance import Host

MIB = 1 << 20
# What the cases write to a host's disk beside its seed, with room for the logs of the host and its emulator.
WORK_MIB = 2048


def require_room(directory: Path, hosts: int, data_mib: int, nvdimm_mib: int, seed: list[Path]) -> None:
    """Refuses a lab whose disks, which are sparse, would fill the file system that `directory` is to be on.

    A host whose disk finds no room there sees I/O errors that no case has made, and so does everything else on that file
    system.
    """
    seeded = sum(path.stat().st_blocks * 512 for path in seed if path.is_file()) // MIB
    needed = hosts * (min(seeded + WORK_MIB, data_mib) + nvdimm_mib)
    place = next(path for path in [directory, *directory.parents] if path.exists())
    free = shutil.disk_usage(place).free // MIB
    if free < needed:
        raise LabError(
            f"{place} has {free} MiB free, and {hosts} hosts of the lab may write {needed} MiB there",
            "make room on its file system, or put the lab on another: OUTLAST_LAB_DIR=DIR",
        )


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
