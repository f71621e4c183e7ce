"""Files into and out of a running host, through the host's shared directory.

A file appears whole: it is copied beside its name and renamed, so a program that is running
under that name is replaced, not overwritten.
"""

import shutil
import tempfile
from pathlib import Path

from . import agent
from .errors import LabError, NotFound
from .instance import Host, Instance

PUT = 'mkdir -p "$2" && for f in "$1"/*; do n=${f##*/}; cp -a "$f" "$2/.$n.new" && mv -f "$2/.$n.new" "$2/$n" || exit 1; done'
GET = 'd=$1; shift; for f; do cp -a "$f" "$d/" || exit 1; done'


def put(instance: Instance, host: Host, files: list[Path], to: str) -> None:
    """Copies files and directories of this machine into directory `to` of the host."""
    for path in files:
        if not path.exists():
            raise NotFound(f"{path}: no such file to put")
    with tempfile.TemporaryDirectory(prefix="put.", dir=host.share) as work:
        for path in files:
            _copy(path, Path(work, path.resolve().name))
        _run(instance, host, PUT, f"/lab/host/{Path(work).name}", to)


def get(instance: Instance, host: Host, files: list[str], to: Path) -> None:
    """Copies files of the host into a directory of this machine."""
    to.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="get.", dir=host.share) as work:
        _run(instance, host, GET, f"/lab/host/{Path(work).name}", *files)
        for path in Path(work).iterdir():
            _copy(path, to / path.name)


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)
    else:
        shutil.copy2(source, target)


def _run(instance: Instance, host: Host, script: str, *words: str) -> None:
    result = agent.capture(instance, host, ["sh", "-c", script, "lab", *words], timeout=300)
    if result.code != 0:
        raise LabError(f"copying on host {host.name} failed: {result.stderr.decode(errors='replace').strip()}")
