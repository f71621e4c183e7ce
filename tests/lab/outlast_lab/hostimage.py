"""What a lab host boots: Debian's full kernel and one initramfs that is its whole root.

The root holds busybox, this machine's own C library (so what was built here runs there),
a few network and disk tools, and the agent. It is unpacked into RAM: a host has no root disk,
and its only state is the data disk.
"""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from recipes import cache, debian, initramfs, vmlinux

HOST_DIR = Path(__file__).resolve().parents[1] / "host"
PROGRAMS = ["dash", "ip", "bridge", "tc", "e2fsck", "mke2fs", "dmsetup", "strace", "taskset", "stdbuf"]
OPTIONAL_PROGRAMS = {"strace", "taskset", "stdbuf"}
# Loaded at boot, in this order; what they depend on comes along.
BOOT_MODULES = [
    "virtio_pci", "virtio_blk", "virtio_net", "virtio_rng", "9pnet_virtio", "9p", "crc32c_generic", "ext4",
    "tun", "bridge", "kvm_amd",
]  # fmt: skip
# There for modprobe: fault injection, persistent memory, directories of a file server.
SPARE_MODULES = ["9pnet_fd", "sch_netem", "sch_tbf", "nfit", "nd_pmem", "vhost_net", "veth", "loop", "dm_mod"]


@dataclass(frozen=True)
class HostImage:
    """Paths of what the emulator is given."""

    kernel: Path
    initramfs: Path


def get(refresh: bool = False) -> HostImage:
    """The host image from the cache, made first if its recipe changed."""
    kernel = debian.kernel("full", refresh)
    sources = sorted(HOST_DIR.iterdir()) + [Path(__file__), Path(initramfs.__file__), Path("/bin/busybox")]
    key = cache.key_of(kernel.directory.name, *sources)
    found = cache.entry("lab-host", key, lambda out: _build(kernel, out))
    return HostImage(found / "vmlinux", found / "initramfs.cpio")


def _build(kernel: debian.Kernel, out: Path) -> None:
    # Undoing the kernel's compression takes an emulated processor seconds.
    vmlinux.extract(kernel.vmlinuz, out / "vmlinux")
    tree = out / "root"
    for directory in ("proc", "sys", "dev", "run", "tmp", "root", "etc", "bin", "sbin", "usr/bin", "usr/sbin", "usr/local/bin"):
        (tree / directory).mkdir(parents=True, exist_ok=True)
    _compile_agent(tree / "bin" / "labagent")
    for program in PROGRAMS:
        _add(tree, program)
    _add_c_library(tree)
    for name, place in (("init", "init"), ("inittab", "etc/inittab"), ("job", "bin/job"), ("pmem", "bin/pmem"), ("baddisk", "bin/baddisk")):
        (tree / place).write_bytes((HOST_DIR / name).read_bytes())
        (tree / place).chmod(0o755)
    # Not busybox's shell: it runs its own ip and modprobe whatever the PATH says.
    (tree / "bin" / "sh").symlink_to("/usr/bin/dash" if (tree / "usr/bin/dash").exists() else "dash")
    initramfs.add_busybox(tree)
    ordered = initramfs.add_modules(tree, kernel, BOOT_MODULES)
    initramfs.add_modules(tree, kernel, SPARE_MODULES)
    initramfs.strip_modules(tree)
    (tree / "etc" / "lab-modules").write_text(" ".join(ordered) + "\n")
    (tree / "etc" / "passwd").write_text("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n")
    (tree / "etc" / "group").write_text("root:x:0:\n")
    initramfs.pack(tree, out / "initramfs.cpio", [])
    shutil.rmtree(tree)


def _add(tree: Path, program: str) -> None:
    try:
        initramfs.add_program(tree, program)
    except debian.RecipeError:
        if program not in OPTIONAL_PROGRAMS:
            raise


def _compile_agent(target: Path) -> None:
    source = HOST_DIR / "labagent.c"
    done = subprocess.run(["gcc", "-static", "-O2", "-o", target, source], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise debian.RecipeError(f"gcc could not build {source}: {done.stderr.strip()}")


def _add_c_library(tree: Path) -> None:
    """What Rust programs link to beyond what the tools above brought along."""
    libraries = Path("/lib/x86_64-linux-gnu")
    for name in ("libgcc_s.so.1", "libm.so.6", "libpthread.so.0", "libdl.so.2", "librt.so.1", "libresolv.so.2", "libnss_files.so.2"):
        if (libraries / name).exists():
            initramfs.add_file(tree, libraries / name)
