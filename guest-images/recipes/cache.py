"""The image cache: things that are slow to make, kept outside the source tree.

An entry is a directory `NAME-KEY` where KEY is a hash of everything the entry is made
from; the symbolic link `NAME` points at the newest one. Entries never change once they
are there: they are built beside their final place and renamed into it, under a lock
file, so that any number of builders may ask for the same entry at once.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
from pathlib import Path

OLDER_ENTRIES_KEPT = 2


def root() -> Path:
    """The cache directory: $OUTLAST_CACHE, else ~/.cache/outlast."""
    chosen = os.environ.get("OUTLAST_CACHE")
    path = Path(chosen) if chosen else Path.home() / ".cache" / "outlast"
    path.mkdir(parents=True, exist_ok=True)
    return path


def key_of(*parts) -> str:
    """A key over texts, bytes and the content of files (given as Path)."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.read_bytes() if isinstance(part, Path) else str(part).encode()
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()[:16]


@contextlib.contextmanager
def locked(name: str):
    """Holds the lock of one entry name; the kernel drops it if the process dies."""
    with open(root() / f".{name}.lock", "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def entry(name: str, key: str, build) -> Path:
    """Returns the directory of an entry, making it with `build(directory)` if it is missing."""
    final = root() / f"{name}-{key}"
    if not final.is_dir():
        with locked(name):
            if not final.is_dir():
                _make(final, build)
                _prune(name, final)
    _point(root() / name, final.name)
    return final


def current(name: str) -> Path | None:
    """The entry that `NAME` points at, if there is one."""
    link = root() / name
    return link.resolve() if link.is_dir() else None


def _make(final: Path, build) -> None:
    work = Path(tempfile.mkdtemp(prefix=f".{final.name}.", dir=root()))
    try:
        work.chmod(0o755)
        build(work)
        work.rename(final)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _prune(name: str, newest: Path) -> None:
    """Keeps the newest entry and the ones before it that another work tree may still use."""
    others = [path for path in root().glob(f"{name}-*") if path.is_dir() and not path.is_symlink() and path != newest]
    others.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    for path in others[OLDER_ENTRIES_KEPT:]:
        shutil.rmtree(path, ignore_errors=True)


def _point(link: Path, target: str) -> None:
    if link.is_symlink() and os.readlink(link) == target:
        return
    fresh = link.with_name(f".{link.name}.{os.getpid()}")
    fresh.symlink_to(target)
    fresh.rename(link)
