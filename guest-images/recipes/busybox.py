"""The busybox guest: the stock cloud kernel, an initramfs of about 2 MiB, a small empty disk."""

import shutil
import subprocess
from pathlib import Path

from . import cache, debian, initramfs

IMAGES = Path(__file__).resolve().parents[1]
AGENT_SOURCES = sorted((IMAGES / "agent").glob("*.[ch]"))
# virtio_pci and failover are for other monitors; Outlast offers virtio over MMIO.
MODULES = ["virtio_mmio", "virtio_pci", "virtio_blk", "virtio_net", "virtio_rng", "pvpanic_mmio", "wdat_wdt"]
DISK_BYTES = 64 << 20


def get(refresh: bool = False) -> Path:
    """Directory with `busybox.cpio.gz` and `journal.img`, made if the recipe changed."""
    kernel = debian.kernel("cloud", refresh)
    sources = [*AGENT_SOURCES, IMAGES / "busybox" / "init", Path(__file__), Path(initramfs.__file__), Path("/bin/busybox")]
    return cache.entry("guest-busybox", cache.key_of(kernel.directory.name, *sources), lambda out: build(kernel, MODULES, out))


def compile_agent(target: Path) -> None:
    """Builds the static guest agent."""
    sources = [path for path in AGENT_SOURCES if path.suffix == ".c"]
    done = subprocess.run(["gcc", "-static", "-O2", "-o", target, *sources], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise debian.RecipeError(f"gcc could not build the guest agent: {done.stderr.strip()}")


def build(kernel: debian.Kernel, modules: list[str], out: Path) -> None:
    """Makes `busybox.cpio.gz` for a kernel, with modules of it, and `journal.img`."""
    tree = out / "root"
    for directory in ("bin", "dev", "etc", "proc", "sys"):
        (tree / directory).mkdir(parents=True)
    compile_agent(tree / "bin" / "agent")
    initramfs.add_busybox(tree)
    init = tree / "init"
    init.write_bytes((IMAGES / "busybox" / "init").read_bytes())
    init.chmod(0o755)
    ordered = initramfs.add_modules(tree, kernel, modules)
    files = {path.stem.replace("-", "_"): path for path in (tree / "lib").rglob("*.ko")}
    lines = [f"/{files[name].relative_to(tree)}\n" for name in ordered]
    (tree / "etc" / "modules-in-order").write_text("".join(lines))
    initramfs.pack(tree, out / "busybox.cpio.gz", ["gzip", "-9n"])
    shutil.rmtree(tree)
    _make_disk(out / "journal.img")


def _make_disk(path: Path) -> None:
    with open(path, "wb") as image:
        image.truncate(DISK_BYTES)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-b", "4096", "-E", "root_owner=0:0", str(path)], check=True)
