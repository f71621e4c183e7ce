"""The command line: can it run here, does it end well, is nothing left behind."""

import argparse
import fcntl
import os
import random
import shutil
import signal
import subprocess
import sys
import traceback
from pathlib import Path

from cases.failed import Failed
from cases.stage import Options
from outlast_lab import errors
from outlast_lab.errors import LabError
from recipes.debian import RecipeError

from . import guests, report
from .acts import Demo, chance
from .report import Facts
from .screen import WIDTH, Screen

ROOT = Path(__file__).resolve().parents[3]
PICTURE = """
      client ────────┬──── host A   runs the guest                   10.77.0.10 is the guest,
   10.77.0.1         └──── host B   has every committed epoch of it  wherever it runs
"""
INTERRUPTED = 130


def main(argv: list[str]) -> int:
    """Exit code 0 only for a good verdict; 4 if another demo writes to the same directory."""
    args = _parser().parse_args(argv)
    screen = Screen()
    try:
        _check(args.binary)
        args.out.mkdir(parents=True, exist_ok=True)
        with _locked(args.out):
            return _run(args, screen)
    except (LabError, OSError) as error:
        hint = getattr(error, "hint", "")
        print(f"outlast demo: {error}" + (f"\n  hint: {hint}" if hint else ""), file=sys.stderr)
        return getattr(error, "code", errors.ERROR)


def _run(args, screen: Screen) -> int:
    for stale in (args.out / "report.json", args.out / "traceback.txt", args.out / "logs"):
        shutil.rmtree(stale) if stale.is_dir() else stale.unlink(missing_ok=True)
    small = args.guest is None and guests.machine_is_busy()
    choice = guests.CHOICES["busybox" if small else args.guest or "debian"]
    facts = Facts(args.seed, choice.title, begun=screen.begun)
    demo = Demo(Options(args.binary, args.seed, 0, 0, 0, 0, "", False, args.out), choice, screen, facts, os.getpid())
    demo.rng = chance(args.seed)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    screen.plain(screen.paint("A guest outlasts the host that it runs on", "bold") + f"{'seed ' + str(args.seed):>{WIDTH - 41}}")
    screen.plain(PICTURE.rstrip("\n"), "dim")
    if small:
        screen.plain("\nThis machine is busy with other work: a small guest is shown; --guest debian insists on the whole Debian.", "yellow")
    try:
        code = _play(demo, facts, screen)
    finally:
        # A second Ctrl-C must not leave hosts behind.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        with screen.waiting("ending the hosts"):
            demo.keep_evidence("logs")
            demo.down()
    path = args.out / "report.json"
    report.write(facts, path)
    if code == errors.OK:
        report.show(facts, screen, path)
    return code


def _play(demo: Demo, facts: Facts, screen: Screen) -> int:
    """Plays the story; what goes wrong becomes words and an exit code."""
    try:
        demo.play()
        facts.versions = {"outlast": _version(demo.options.binary), "qemu": _qemu(), **guests.versions()}
        if facts.ok:
            return errors.OK
        raise Failed("not everything was seen")
    except KeyboardInterrupt:
        facts.failure = "interrupted"
        screen.say("lab", "interrupted: ending what was started", colour="yellow")
        return INTERRUPTED
    except Exception as error:  # whatever it is, the reader is told where to look
        facts.failure = str(error) if isinstance(error, (Failed, LabError, RecipeError)) else f"{type(error).__name__}: {error}"
        _explain(demo, facts, screen, getattr(error, "hint", ""))
        return errors.ERROR


def _explain(demo: Demo, facts: Facts, screen: Screen, hint: str) -> None:
    kept = demo.options.results / "logs"
    (demo.options.results / "traceback.txt").write_text(traceback.format_exc())
    rows = [("why", facts.failure[:1500])]
    rows += [("try", hint)] if hint else []
    rows += [
        ("look at", f"{kept}: A and B have each host's serial.log, vmm/*.events and *.console, jobs/*.log; traffic-* is the client's side"),
        ("again", f"outlast demo --seed {facts.seed}"),
    ]
    screen.box("the demo failed", rows, "red")


def _check(binary: Path) -> None:
    """What would go wrong later, said now."""
    if os.geteuid() != 0:
        raise LabError("the demo makes network namespaces and taps, which needs root", "sudo make demo")
    if not Path("/dev/net/tun").exists():
        raise errors.NotFound("there is no /dev/net/tun", "modprobe tun")
    missing = [tool for tool in ("qemu-system-x86_64", "ip", "mkfs.ext4", "gcc", "dpkg-deb", "lz4") if not shutil.which(tool)]
    if missing:
        raise errors.NotFound(f"not installed: {', '.join(missing)}", "scripts/setup installs what the demo needs; `make demo` does all of it")
    if not binary.is_file():
        raise errors.NotFound(f"there is no program {binary}", "cargo build --release -p vmm; `make demo` does all of it")


class _locked:
    """The output directory is for one demo at a time; the kernel drops the lock if the process dies."""

    def __init__(self, out: Path):
        self._file, self._out = open(out / ".lock", "w"), out

    def __enter__(self):
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise errors.Conflict(f"another demo writes to {self._out}", "wait for it, or give this one another --out DIR") from None

    def __exit__(self, *_):
        self._file.close()


def _interrupt(*_) -> None:
    raise KeyboardInterrupt


def _version(binary: Path) -> str:
    return subprocess.run([binary, "--version"], capture_output=True, text=True, check=True).stdout.split()[-1]


def _qemu() -> str:
    text = subprocess.run(["qemu-system-x86_64", "--version"], capture_output=True, text=True, check=True).stdout
    return text.split("version ", 1)[1].split("\n", 1)[0]


def _parser() -> argparse.ArgumentParser:
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    parser = argparse.ArgumentParser(prog="outlast demo", description="A guest, a backup, a power cut, and a client that is told nothing false.")
    parser.add_argument("--out", type=Path, default=target / "demo", metavar="DIR", help="for report.json, and logs if it fails")
    parser.add_argument("--guest", choices=sorted(guests.CHOICES), help="root of the guest; the kernel is Debian's with both (default debian; busybox on a busy machine)")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 31), help="of the random moments (default: a new one)")
    parser.add_argument("--binary", type=Path, default=target / "release" / "outlast", metavar="FILE", help="the program to show")
    return parser
