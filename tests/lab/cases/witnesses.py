"""The kinds of witness, and what can happen to each.

A fault is a context: it strikes at the beginning and is healed at the end. `blind` names the hosts that have no witness
meanwhile; a fault that blinds none must not be noticed by anybody but the witness. `forgets` means that the witness answers
and lacks what was seen there: then nothing may be appended on any host that saw it. `renews` means that what is there after
the fault is another directory for whoever had the one before open.
"""

import contextlib
import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from outlast_lab import etcd, fileserver
from outlast_lab.errors import LabError
from outlast_lab.etcd import Etcd
from outlast_lab.fileserver import FileServer
from outlast_lab.station import Station
from recipes.debian import RecipeError

from .failed import Skipped
from .stage import Stage

HOSTS = ("A", "B")


@dataclass(frozen=True)
class Fault:
    """What happens to a witness, and to whom it makes a difference."""

    name: str
    strike: Callable[[], AbstractContextManager]
    blind: frozenset[str] = frozenset()
    forgets: bool = False
    renews: bool = False


class Witness(Protocol):
    """What a cell needs of one: what `outlast` is told, and what is written there."""

    option: str

    def records(self, vm: str) -> list[bytes]:
        """The records of a VM's register, the first first."""

    def remember(self) -> None:
        """What it knows now is what it will know when it is restored."""


class EtcdWitness:
    """Three members beside the hosts; all hosts reach all members, unless a fault is about that."""

    name = "etcd"

    def __init__(self, stage: Stage):
        self._stage = stage
        self._etcd = Etcd(stage.lab)
        self._old, self._true = stage.work / "etcd-old", stage.work / "etcd-true"
        self.option = self._etcd.witness
        self.records = self._etcd.records
        self._etcd.start()

    def close(self) -> None:
        """Nothing of it is left."""
        for member in self._etcd.members:
            member.remove()

    def remember(self) -> None:
        """What it knows now is what `restored` brings back."""
        self._etcd.copy(self._old)

    def faults(self) -> list[Fault]:
        """All of this kind."""
        members = self._etcd.members
        single = [Fault(f"{host}-{member.name}", self._cut([host], [member])) for host in HOSTS for member in members]
        return [
            Fault("leader-killed", self._leader_killed), Fault("member-lost", self._member_lost),
            Fault("leader-alone", self._leader_alone), *single,
            Fault("A-all", self._cut(["A"], members), frozenset("A")), Fault("B-all", self._cut(["B"], members), frozenset("B")),
            Fault("cluster-lost", self._cluster_lost, frozenset("AB")), Fault("restored", self._restored, frozenset("AB"), forgets=True),
        ]  # fmt: skip

    def _cut(self, hosts: list[str], members: list[Station]) -> Callable[[], AbstractContextManager]:
        addresses = [self._stage.host(host).lan_address for host in hosts]
        return lambda: _cut(list(itertools.product(members, addresses)))

    @contextlib.contextmanager
    def _leader_killed(self) -> Iterator[None]:
        self._etcd.leader().kill()
        yield
        self._etcd.revive()

    @contextlib.contextmanager
    def _member_lost(self) -> Iterator[None]:
        leader = self._etcd.leader()
        self._stage.rng.choice([member for member in self._etcd.members if member != leader]).kill()
        yield
        self._etcd.revive()

    @contextlib.contextmanager
    def _leader_alone(self) -> Iterator[None]:
        """The hosts reach it, and the other members do not."""
        leader = self._etcd.leader()
        others = [member.address for member in self._etcd.members if member != leader]
        with _cut([(leader, address) for address in others]):
            yield
        self._etcd.wait_up()

    @contextlib.contextmanager
    def _cluster_lost(self) -> Iterator[None]:
        for member in self._etcd.members:
            member.kill()
        yield
        self._etcd.revive()

    @contextlib.contextmanager
    def _restored(self) -> Iterator[None]:
        self._etcd.copy(self._true)
        self._etcd.restore(self._old)
        yield
        self._etcd.restore(self._true)


class DirectoryWitness:
    """A directory of a file server that both hosts mount."""

    name = "file"

    def __init__(self, stage: Stage):
        self._stage = stage
        self._server = FileServer(stage.lab)
        self._old, self._true = stage.work / "directory-old", stage.work / "directory-true"
        self.option = self._server.witness
        self.records = self._server.records
        self._server.start()

    def close(self) -> None:
        """Nothing of it is left."""
        for host in self._stage.lab.all_hosts():
            with contextlib.suppress(LabError):
                self._server.hide(host)
        self._server.station.remove()

    def remember(self) -> None:
        """What it knows now is what `restored` brings back."""
        self._server.copy(self._old)

    def faults(self) -> list[Fault]:
        """All of this kind."""
        both = frozenset("AB")
        return [
            Fault("A-server", self._cut("A"), frozenset("A")), Fault("B-server", self._cut("B"), frozenset("B")),
            Fault("A-unmounted", self._unmounted("A"), frozenset("A")), Fault("B-unmounted", self._unmounted("B"), frozenset("B")),
            Fault("server-hangs", self._server_hangs, both), Fault("server-lost", self._server_lost, both, renews=True),
            Fault("restored", self._restored, both, forgets=True),
        ]  # fmt: skip

    def _cut(self, name: str) -> Callable[[], AbstractContextManager]:
        host = self._stage.host(name)

        @contextlib.contextmanager
        def strike() -> Iterator[None]:
            with _cut([(self._server.station, host.lan_address)]):
                yield
            self._server.wait_seen(host)

        return strike

    def _unmounted(self, name: str) -> Callable[[], AbstractContextManager]:
        host = self._stage.host(name)

        @contextlib.contextmanager
        def strike() -> Iterator[None]:
            self._server.hide(host)
            yield
            self._server.show(host)

        return strike

    @contextlib.contextmanager
    def _server_hangs(self) -> Iterator[None]:
        self._server.station.freeze()
        yield
        self._server.station.thaw()
        for host in self._stage.lab.all_hosts():
            self._server.wait_seen(host)

    @contextlib.contextmanager
    def _server_lost(self) -> Iterator[None]:
        self._server.station.kill()
        yield
        self._server.serve()
        for host in self._stage.lab.all_hosts():
            self._server.mount(host)

    @contextlib.contextmanager
    def _restored(self) -> Iterator[None]:
        self._server.copy(self._true)
        self._server.restore(self._old)
        yield
        self._server.restore(self._true)


class NoWitness:
    """Nobody decides, and nothing is written down."""

    name = option = "none"

    def records(self, _vm: str) -> list[bytes]:
        """None."""
        return []

    def remember(self) -> None:
        """Nothing can be lost."""


Faulty = EtcdWitness | DirectoryWitness
KINDS: dict[str, type[Faulty]] = {"etcd": EtcdWitness, "file": DirectoryWitness}


def require_servers() -> None:
    """Skips a case on a machine that cannot have the programs."""
    try:
        etcd.program()
        fileserver.program()
    except RecipeError as error:
        raise Skipped(f"the witness's server cannot be had: {error}") from None


@contextlib.contextmanager
def _cut(ways: list[tuple[Station, str]]) -> Iterator[None]:
    """No way lets anything through meanwhile."""
    for station, address in ways:
        station.cut(address)
    try:
        yield
    finally:
        for station, address in ways:
            station.join(address)
