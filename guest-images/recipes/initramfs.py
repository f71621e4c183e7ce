"""Packs a directory tree into an initramfs, and fills such trees.

Three fillers: programs with the shared libraries that they need, busybox with a link for
each of its commands, and kernel modules with everything that they depend on.
"""

import re
import shutil
import subprocess
from pathlib import Path

from .debian import Kernel, RecipeError


def add_program(tree: Path, program: str) -> None:
    """Copies a program of this machine and its libraries to the same paths in the tree."""
    found = shutil.which(program, path="/usr/sbin:/usr/bin:/sbin:/bin")
    if found is None:
        raise RecipeError(f"{program} is not on this machine: scripts/setup installs it")
    target = tree / found.lstrip("/")
    _copy(Path(found), target)
    listing = subprocess.run(["ldd", found], capture_output=True, text=True, check=False).stdout
    for library in re.findall(r"(/\S+) \(0x", listing):
        add_file(tree, Path(library))


def add_busybox(tree: Path) -> None:
    """Puts the static busybox into the tree, with a link for every command not there yet."""
    binary = tree / "bin" / "busybox"
    _copy(Path(shutil.which("busybox") or "/bin/busybox"), binary)
    names = subprocess.run([binary, "--list"], capture_output=True, text=True, check=True).stdout.split()
    for name in names:
        link = tree / "bin" / name
        if not any((tree / place / name).exists() for place in ("bin", "sbin", "usr/bin", "usr/sbin")):
            link.symlink_to("busybox")


def strip_modules(tree: Path) -> None:
    """Takes signatures and type information off the modules: an emulated processor loads them faster."""
    files = [str(path) for path in (tree / "lib" / "modules").rglob("*.ko")]
    subprocess.run(["strip", "--strip-debug", "--remove-section=.BTF", *files], check=True)


def add_modules(tree: Path, kernel: Kernel, names: list[str]) -> list[str]:
    """Copies modules and what they depend on; returns all their names in loading order.

    A name that is built into the kernel is passed over; one that does not exist is an error.
    """
    paths, needs = _dependencies(kernel)
    builtin = {_module_name(line) for line in (kernel.modules / "modules.builtin").read_text().split()}
    ordered: list[str] = []

    def visit(name: str) -> None:
        if name in builtin or name in ordered:
            return
        if name not in paths:
            raise RecipeError(f"kernel {kernel.release} has no module {name}")
        for other in needs[name]:
            visit(other)
        ordered.append(name)

    for name in names:
        visit(name.replace("-", "_"))
    base = tree / "lib" / "modules" / kernel.release
    for name in ordered:
        _copy(kernel.modules / paths[name], base / paths[name])
    for index in ("modules.builtin", "modules.builtin.modinfo", "modules.order"):
        _copy(kernel.modules / index, base / index)
    subprocess.run(["depmod", "-b", str(tree), kernel.release], check=True)
    return ordered


def pack(tree: Path, archive: Path, compress: list[str]) -> None:
    """Writes the tree as a newc archive owned by root; `compress` is a filter or empty."""
    tail = f" | {' '.join(compress)}" if compress else ""
    script = f"find . -mindepth 1 | LC_ALL=C sort | cpio --quiet -o -H newc -R 0:0 --reproducible{tail}"
    with open(archive, "wb") as out:
        subprocess.run(["bash", "-o", "pipefail", "-c", script], cwd=tree, stdout=out, check=True)


def _dependencies(kernel: Kernel) -> tuple[dict[str, str], dict[str, list[str]]]:
    paths, needs = {}, {}
    for line in (kernel.modules / "modules.dep").read_text().splitlines():
        path, _, rest = line.partition(":")
        name = _module_name(path)
        paths[name] = path
        needs[name] = [_module_name(other) for other in rest.split()]
    return paths, needs


def _module_name(path: str) -> str:
    return Path(path).name.removesuffix(".ko").replace("-", "_")


def add_file(tree: Path, source: Path) -> None:
    """Copies a file of this machine to the same path in the tree."""
    _copy(source, tree / str(source).lstrip("/"))


def _copy(source: Path, target: Path) -> None:
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source.resolve(), target)
    target.chmod(target.stat().st_mode | 0o200)
