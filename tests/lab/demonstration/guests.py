"""What is booted: Debian's stock cloud kernel with one of two roots."""

import os
import platform
from dataclasses import dataclass
from pathlib import Path

from cases.pair import Guest
from recipes import busybox, debian, debian_root

BUSY_LOAD_PER_CPU = 2.0


@dataclass(frozen=True)
class Choice:
    """A guest for the demo: how it is called, booted and known to be up, and what its clients do."""

    name: str
    title: str
    guest: Guest
    ready: str
    flows: tuple[str, ...]
    # In the guest's disk.
    journal: str


# The disk is the image that came with the data disks: both hosts begin with the same, a replica differs little.
CHOICES = {
    "busybox": Choice(
        "busybox", "a small root of busybox",
        Guest(
            kernel="/data/vmlinuz", initramfs="/data/busybox.cpio.gz", cmdline="console=ttyS0 quiet",
            memory="128M", disk="/data/journal.img", prepare="", replica="",
        ),
        "agent: serving", ("stream", "download", "journal"), "/journal",
    ),
    "debian": Choice(
        "debian", "Debian 12 with systemd and redis-server",
        Guest(
            kernel="/data/vmlinuz", initramfs="/data/debian-initrd.img", cmdline="console=ttyS0 root=/dev/vda rw quiet",
            memory="256M", disk="/data/debian.img", prepare="", replica="",
        ),
        "login:", ("stream", "download", "journal", "redis"), "/data/journal",
    ),
}  # fmt: skip


def machine_is_busy() -> bool:
    """Other work takes so much of this machine that emulated hosts would be several times slower yet."""
    return os.getloadavg()[0] / os.cpu_count() > BUSY_LOAD_PER_CPU


def files(choice: Choice) -> list[Path]:
    """What its boot needs, made if it is not in the cache."""
    kernel = debian.kernel("cloud").vmlinuz
    if choice.name == "debian":
        root = debian_root.get()
        return [kernel, root / "debian.img", root / "debian-initrd.img"]
    root = busybox.get()
    return [kernel, root / "busybox.cpio.gz", root / "journal.img"]


def versions() -> dict[str, str]:
    """The versions of what ran in the hosts."""
    return {
        "guest kernel": debian.kernel("cloud").directory.name.removeprefix("kernel-cloud-"),
        "host kernel": debian.kernel("full").directory.name.removeprefix("kernel-full-"),
        "python": platform.python_version(),
    }
