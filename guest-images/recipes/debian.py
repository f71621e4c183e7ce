"""Debian's kernels and a few programs, fetched through apt and unpacked, never installed.

`program` unpacks what must not be installed, because its package would start a server.
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


def program(name: str, packages: list[str]) -> Path:
    """A program that is run on this machine and not installed: a directory with the files of `packages`, the program's first."""
    found = cache.current(f"program-{name}")
    return found or cache.entry(f"program-{name}", _candidate(packages[0]).replace(":", "_"), lambda out: _unpack_all(out, packages))


def _unpack_all(tree: Path, packages: list[str]) -> None:
    for package in packages:
        _unpack_into(tree, package)


def _unpack(flavour: str, package: str, out: Path) -> None:
    tree = out / "modules"
    tree.mkdir()
    _unpack_into(tree, package)
    image = next((tree / "boot").glob("vmlinuz-*"))
    release = image.name.removeprefix("vmlinuz-")
    image.rename(out / "vmlinuz")
    if flavour == "cloud":
        vmlinux.extract(out / "vmlinuz", out / "vmlinux")
    _run(["depmod", "-b", str(tree), release])
    (out / "release").write_text(release + "\n")


def _unpack_into(tree: Path, package: str) -> None:
    with tempfile.TemporaryDirectory(prefix="outlast-deb.") as work:
        deb = _download(package, Path(work))
        _run(["dpkg-deb", "-x", str(deb), str(tree)])


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
