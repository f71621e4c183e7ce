"""Looks for every acknowledged journal line in a disk image, after whatever happened to it.

Works on a copy: the file system's own journal is replayed as a mount would, then the file
system must check clean, and /journal must hold the acknowledged lines in their order, each once.
"""

import shutil
import subprocess
import tempfile
from pathlib import Path


def check(image: Path, acked_file: Path) -> dict:
    """Verdict and figures as a plain dictionary."""
    with tempfile.TemporaryDirectory(prefix="journal-check.") as work:
        copy = Path(work, "image")
        shutil.copyfile(image, copy)
        subprocess.run(["e2fsck", "-p", "-E", "journal_only", str(copy)], capture_output=True, check=False)
        fsck = subprocess.run(["e2fsck", "-f", "-n", str(copy)], capture_output=True, text=True, check=False)
        found = subprocess.run(["debugfs", "-R", "cat /journal", str(copy)], capture_output=True, check=False).stdout
    return compare(found.splitlines(), acked_file.read_bytes().splitlines(), fsck.returncode, fsck.stdout)


def compare(found: list[bytes], acked: list[bytes], fsck_code: int, fsck_text: str) -> dict:
    """The verdict on what was found in the image."""
    places = {line: place for place, line in enumerate(found)}
    missing = [line.decode(errors="replace") for line in acked if line not in places]
    order = [places[line] for line in acked if line in places]
    result = {
        "acked": len(acked),
        "found": len(found),
        "missing": len(missing),
        "first_missing": missing[:1],
        "repeated": len(found) - len(places),
        "in_order": order == sorted(order),
        "fsck_code": fsck_code,
        "fsck": "" if fsck_code == 0 else fsck_text[-2000:],
    }
    result["ok"] = bool(acked) and not missing and not result["repeated"] and result["in_order"] and fsck_code == 0
    return result
