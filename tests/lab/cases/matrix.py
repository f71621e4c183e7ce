"""Faults of the witness at each moment of a VM's life: one guest each time, frames recorded at both hosts.

    tests/lab/run-tests --only witness_matrix --cells etcd/*/takeover

A cell is KIND/FAULT/MOMENT. A cell that fails does not keep the others from being run.
"""

import contextlib
import fnmatch
import time
from collections.abc import Iterator

from outlast_lab import network

from . import counting
from .cell import Cell
from .failed import Failed, require
from .moments import MOMENTS
from .stage import Stage
from .witnesses import KINDS, Fault, Faulty, NoWitness, require_servers

# One of each fault that leaves a majority, one that leaves none, one that forgets; each at the moment that needs it most.
CHOSEN = (
    "etcd/leader-killed/takeover", "etcd/cluster-lost/parted", "etcd/restored/takeover", "etcd/A-all/start",
    "file/A-unmounted/resume", "file/server-hangs/parted",
)  # fmt: skip


def witness_cells(stage: Stage) -> str:
    """Some cells of the matrix of witness faults: a leader killed, a cluster lost, one restored, a host cut off, a mount gone."""
    return _run(stage, CHOSEN)


def two_guests_are_seen(stage: Stage) -> str:
    """Without a witness a cut makes two guests: what judges the cells finds them."""
    with contextlib.closing(Cell(stage, NoWitness(), Fault("none", contextlib.nullcontext), "none-0")) as cell:
        primary, backup = cell.pair()
        network.set_link(stage.lab, stage.host("A"), "repl", up=False)
        backup.wait_event("failover-finished")
        cell.serves(backup)
        cell.serves(primary)
    try:
        counting.one_line(stage.ports)
    except Failed as seen:
        require(str(seen).startswith("two guests: "), f"they were taken for something else: {seen}")
        return str(seen)
    raise Failed("two guests ran, and nothing was seen of it")


def witness_matrix(stage: Stage) -> str:
    """Every fault of etcd and of a directory, at each moment of a VM's life: one guest each time (or --cells PATTERN)."""
    return _run(stage, (stage.options.cells,))


def _run(stage: Stage, patterns: tuple[str, ...]) -> str:
    passed, failed, begun = 0, [], time.monotonic()
    kinds = [kind for kind in KINDS if any(fnmatch.fnmatch(kind, pattern.split("/")[0]) for pattern in patterns)]
    require_servers()
    for kind in kinds:
        with contextlib.closing(KINDS[kind](stage)) as witness:
            for number, (name, fault, moment) in enumerate(_cells(witness, patterns)):
                why, is_struck = _run_cell(stage, witness, fault, moment, f"{kind}-{number}", name)
                if why and not is_struck:
                    # Nothing had been done to it: on a machine at load 20 a directory took more than its 2 s to answer.
                    print(f"     AGAIN {name}: it came to nothing before the fault", flush=True)
                    why, _ = _run_cell(stage, witness, fault, moment, f"{kind}-{number}-again", name)
                failed += [f"{name}: {why}"] if why else []
                passed += not why
    seconds = (time.monotonic() - begun) / max(passed + len(failed), 1)
    require(not failed, f"{len(failed)} of {passed + len(failed)} cells, {seconds:.0f} s each: {' | '.join(failed)}")
    require(passed, f"no cell is called {' or '.join(patterns)}")
    return f"{passed} cells, {seconds:.0f} s each; one guest in each"


def _cells(witness: Faulty, patterns: tuple[str, ...]) -> Iterator[tuple[str, Fault, str]]:
    for fault in witness.faults():
        for moment in MOMENTS:
            name = f"{witness.name}/{fault.name}/{moment}"
            if any(fnmatch.fnmatch(name, pattern) for pattern in patterns):
                yield name, fault, moment


def _run_cell(stage: Stage, witness: Faulty, fault: Fault, moment: str, vm: str, name: str) -> tuple[str, bool]:
    """Why it failed, empty if it did not; and whether the fault had struck by then."""
    begun = time.monotonic()
    cell = Cell(stage, witness, fault, vm)
    try:
        runner, told = MOMENTS[moment](cell)
        cell.end(runner)
        print(f"     {name} ({time.monotonic() - begun:.1f} s): {told}; {cell.judge()}", flush=True)
        return "", True
    except Exception as error:  # whatever it is, the other cells are worth running
        kept = stage.keep_evidence(f"witness/{name.replace('/', '-')}")
        print(f"     FAIL {name} ({time.monotonic() - begun:.1f} s): {error} (see {kept})", flush=True)
        return str(error), cell.is_struck
    finally:
        for host in stage.lab.all_hosts():
            network.set_link(stage.lab, host, "all", up=True)
        cell.close()
