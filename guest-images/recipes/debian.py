"""Debian's kernels, fetched through apt and unpacked, never installed.

`kernel("cloud")` is the stock cloud kernel that guests run; `kernel("full")` is Debian's
ordinary kernel, which the emulated hosts run because it has 9p. Once a kernel is in the
cache apt is not asked again: `refresh=True` looks for a newer one.
"""

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from . import cache, vmlinux

META = {"cloud": "linux-image-cloud-amd64", "full": "linux-image-amd64"}


class RecipeError(Exception):
    """An image could not be made: what was tried, on what, why, and what to do."""


@dataclass(frozen=True)
class Kernel:
    """An unpacked kernel package; `vmlinux`, the ELF inside, is there for the cloud kernel only."""

    directory: Path
    release: str

    @property
    def vmlinuz(self) -> Path:
        return self.directory / "vmlinuz"

    @property
    def vmlinux(self) -> Path:
        return self.directory / "vmlinux"

    @property
    def modules(self) -> Path:
        return self.directory / "modules" / "lib" / "modules" / self.release


def kernel(flavour: str, refresh: bool = False) -> Kernel:
    """The kernel of a flavour, from the cache or from Debian."""
    name = f"kernel-{flavour}"
    found = None if refresh else cache.current(name)
    if found is None:
        package = _package_of(META[flavour])
        version = _candidate(package)
        key = f"{package.removeprefix('linux-image-')}-{version}".replace(":", "_")
        found = cache.entry(name, key, lambda out: _unpack(flavour, package, out))
    return Kernel(found, (found / "release").read_text().strip())


def _unpack(flavour: str, package: str, out: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="outlast-deb.") as work:
        deb = _download(package, Path(work))
        tree = out / "modules"
        tree.mkdir()
        _run(["dpkg-deb", "-x", str(deb), str(tree)])
    image = next((tree / "boot").glob("vmlinuz-*"))
    release = image.name.removeprefix("vmlinuz-")
    image.rename(out / "vmlinuz")
    if flavour == "cloud":
        vmlinux.extract(out / "vmlinuz", out / "vmlinux")
    _run(["depmod", "-b", str(tree), release])
    (out / "release").write_text(release + "\n")


def _download(package: str, into: Path) -> Path:
    into.chmod(0o777)
    if _try(["apt-get", "download", package], into) != 0:
        _run(["apt-get", "-qq", "update"])
        _run(["apt-get", "-qq", "download", package], cwd=into)
    return next(into.glob("*.deb"))


def _package_of(meta: str) -> str:
    """The versioned package that a meta package depends on."""
    for attempt in range(2):
        text = subprocess.run(["apt-cache", "depends", meta], capture_output=True, text=True, check=False).stdout
        match = re.search(r"Depends: (linux-image-\S+)", text)
        if match:
            return match.group(1)
        if attempt == 0:
            _run(["apt-get", "-qq", "update"])
    raise RecipeError(f"apt knows no package {meta}: check /etc/apt/sources.list for Debian 12 (bookworm) main")


def _candidate(package: str) -> str:
    text = subprocess.run(["apt-cache", "policy", package], capture_output=True, text=True, check=True).stdout
    return re.search(r"Candidate: (\S+)", text).group(1)


def _try(command: list[str], cwd: Path) -> int:
    return subprocess.run(command, cwd=cwd, capture_output=True, check=False).returncode


def _run(command: list[str], cwd: Path | None = None) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RecipeError(f"{' '.join(command)} failed with {done.returncode}: {done.stderr.strip()}")
