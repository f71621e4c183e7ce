"""The Debian guest: a stock Debian 12 root with systemd, redis and PostgreSQL, and Debian's own initramfs."""

import os
import shutil
import subprocess
from pathlib import Path

from . import busybox, cache, debian

IMAGES = Path(__file__).resolve().parents[1]
RECIPE = IMAGES / "debian"
PACKAGES = [
    "systemd-sysv", "udev", "dbus", "kmod", "e2fsprogs", "iproute2", "procps", "login", "passwd",
    "initramfs-tools", "redis-server", "postgresql-15",
]  # fmt: skip
IMAGE_BYTES = 1 << 30


def get(refresh: bool = False) -> Path:
    """Directory with `debian.img` and `debian-initrd.img`, made if the recipe changed."""
    kernel = debian.kernel("cloud", refresh)
    files = sorted(path for path in RECIPE.rglob("*") if path.is_file())
    key = cache.key_of(kernel.directory.name, *files, *busybox.AGENT_SOURCES, Path(__file__))
    return cache.entry("guest-debian", key, lambda out: _build(kernel, out))


def _build(kernel: debian.Kernel, out: Path) -> None:
    root = out / "root"
    _bootstrap(kernel, root)
    busybox.compile_agent(root / "usr" / "local" / "bin" / "agent")
    shutil.move(root / "boot" / f"initrd.img-{kernel.release}", out / "debian-initrd.img")
    if (root / "boot" / f"vmlinuz-{kernel.release}").read_bytes() != kernel.vmlinuz.read_bytes():
        raise debian.RecipeError(f"Debian has a newer build of kernel {kernel.release} than the cache: run with --refresh")
    with open(out / "debian.img", "wb") as image:
        image.truncate(IMAGE_BYTES)
    _run(["mkfs.ext4", "-q", "-F", "-b", "4096", "-L", "guest-root", "-d", str(root), str(out / "debian.img")])
    shutil.rmtree(root)


def _bootstrap(kernel: debian.Kernel, root: Path) -> None:
    packages = ",".join([*PACKAGES, f"linux-image-{kernel.release}"])
    _run([
        "mmdebstrap", "--quiet", "--variant=minbase", f"--include={packages}",
        "--dpkgopt=path-exclude=/usr/share/man/*", "--dpkgopt=path-exclude=/usr/share/locale/*",
        "--dpkgopt=path-exclude=/usr/share/doc/*", f"--customize-hook={RECIPE / 'customize'}",
        "bookworm", str(root),
    ])  # fmt: skip


def _run(command: list[str]) -> None:
    environment = {**os.environ, "LC_ALL": "C.UTF-8"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode != 0:
        raise debian.RecipeError(f"{command[0]} failed with {done.returncode}: {done.stderr.strip()[-1500:]}")
