"""The layout of a small site: etcd's members on the two hosts and on a third machine. A host that loses its power takes its
member along, and here that member leads.
"""

import contextlib

from outlast_lab.etcd import Etcd
from outlast_lab.onhost import OnHost
from outlast_lab.station import Station

from . import counting
from .cell import Cell
from .failed import require
from .pair import wait_protected
from .stage import Stage, other
from .witnesses import Fault, require_servers

# An emulated host that boots or copies keeps its member waiting for seconds.
ELECTION_MS = 5000
SECONDS_MAX = 120


class OnHosts:
    """Such a cluster, as a witness."""

    name = "etcd"

    def __init__(self, stage: Stage):
        self.etcd = Etcd(stage.lab, [*(OnHost(stage.lab, host) for host in stage.lab.all_hosts()), Station(stage.lab, "e3", 3)], ELECTION_MS)
        self.option, self.records = self.etcd.witness, self.etcd.records
        self.etcd.start()

    def close(self) -> None:
        """Ends its members, and begins with those on the hosts."""
        for member in self.etcd.members:
            member.remove()

    def remember(self) -> None:
        """Nothing is restored here."""

    def leading_host(self, stage: Stage) -> str:
        """The host whose member leads; the third machine's is stopped for a while if it does."""
        third = self.etcd.members[-1]
        if self.etcd.leader() == third:
            third.kill()
            self.etcd.wait_leader()
            self.etcd.revive()
        leader = self.etcd.leader()
        return next(host.name for host in stage.lab.all_hosts() if host.lan_address == leader.address)


def witness_on_the_hosts(stage: Stage) -> str:
    """etcd's members are on both hosts and a third machine: the guest's host, whose member leads, loses its power; then the other one."""
    require_servers()
    with contextlib.closing(OnHosts(stage)) as witness, contextlib.closing(Cell(stage, witness, Fault("power", contextlib.nullcontext), "hosts")) as cell:
        first = witness.leading_host(stage)
        primary, backup = cell.pair(first)
        told = []
        for _ in range(2):
            at = stage.plug(primary.host)
            backup.wait_event("failover-finished", SECONDS_MAX)
            cell.serves(backup)
            ms = (next(one.at for one in counting.answers(stage.ports) if one.host == backup.host and one.at > at) - at) * 1000
            told.append(f"{primary.host} goes, {backup.host} answers {ms:.0f} ms after it")
            stage.boot(primary.host)
            witness.etcd.revive()
            primary, backup = backup, cell.backup(primary.host)
            require(not (said := cell.protect(primary, backup)), f"ctl protect: {said}")
            wait_protected(primary, backup, SECONDS_MAX)
        cell.end(primary)
        return f"{'; '.join(told)}; {cell.judge()}"
