"""An etcd cluster of three members, each on a station of its own.

`leader` and `records` ask etcd itself, through the client's network stack and etcd's JSON gateway: what the program under
test says of its witness is not asked.
"""

import base64
import http.client
import json
import shutil
import subprocess
import time
from pathlib import Path

from recipes import debian

from . import network
from .errors import LabError
from .instance import Instance
from .onhost import OnHost
from .station import Station

ROOT = Path(__file__).resolve().parents[3]
CLIENT_PORT, PEER_PORT = 2379, 2380
ANSWER_SECONDS = 3.0
UP_SECONDS = 60.0
POLL_SECONDS = 0.05


Member = Station | OnHost


def program() -> Path:
    """etcd itself; Debian's package is unpacked and not installed."""
    done = subprocess.run([ROOT / "scripts" / "etcd"], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise debian.RecipeError(f"scripts/etcd ended with {done.returncode}: {done.stderr.strip()}")
    return Path(done.stdout.strip(), "etcd")


class Etcd:
    """Members e1, e2 and e3: on stations, or those that are given. An emulated host is slow to hear of a leader."""

    def __init__(self, lab: Instance, members: list[Member] | None = None, election_ms: int = 1000):
        self.lab, self._election_ms = lab, election_ms
        self.members: list[Member] = members or [Station(lab, f"e{n}", n) for n in (1, 2, 3)]
        self._program = program()

    @property
    def witness(self) -> str:
        """What `outlast` is told."""
        return "etcd:" + ",".join(f"http://{member.address}:{CLIENT_PORT}" for member in self.members)

    def start(self) -> None:
        """A new cluster; returns when every member writes."""
        for member in self.members:
            member.make()
            self._run(member)
        self.wait_up()

    def revive(self) -> None:
        """Starts the members that are down; returns when every member writes."""
        for member in self.members:
            if not member.is_running:
                self._run(member)
        self.wait_up()

    def wait_up(self) -> None:
        """Returns when every member writes."""
        deadline = time.monotonic() + UP_SECONDS
        for member in self.members:
            while not self._writes(member):
                if time.monotonic() > deadline:
                    raise LabError(f"etcd's member {member.name} does not write: {member.log.read_text(errors='replace')[-600:]}")
                time.sleep(POLL_SECONDS)

    def wait_leader(self) -> None:
        """Returns when the members that run have a leader and write."""
        deadline = time.monotonic() + UP_SECONDS
        while not any(self._writes(member) for member in self.members if member.is_running):
            if time.monotonic() > deadline:
                raise LabError("etcd has no leader")
            time.sleep(POLL_SECONDS)

    def leader(self) -> Member:
        """The member that leads, as most of them say."""
        said = [self._leader_by(member) for member in self.members]
        leading = next((id_ for id_ in said if id_ and said.count(id_) > len(said) // 2), None)
        found = [member for member in self.members if leading and self._status(member).get("header", {}).get("member_id") == leading]
        if not found:
            raise LabError(f"etcd has no leader: its members say {said}")
        return found[0]

    def copy(self, to: Path) -> None:
        """Copies the files of all members at one moment, as a snapshot of their disks would."""
        shutil.rmtree(to, ignore_errors=True)
        to.mkdir()
        for member in self.members:
            member.freeze()
        for member in self.members:
            subprocess.run(["cp", "-r", "--sparse=always", member.data, to / member.name], check=True)
        for member in self.members:
            member.thaw()
        self.wait_up()

    def restore(self, source: Path) -> None:
        """Puts the files of all members back to what `copy` copied."""
        for member in self.members:
            member.kill()
            shutil.rmtree(member.data)
            subprocess.run(["cp", "-r", "--sparse=always", source / member.name, member.data], check=True)
        self.revive()

    def records(self, vm: str) -> list[bytes]:
        """The records of a VM's register, the first first."""
        first, last = f"outlast/{vm}/view/", f"outlast/{vm}/view0"
        request = {"key": _encode(first), "range_end": _encode(last), "sort_order": "ASCEND"}
        answers = (self._ask(member, "kv/range", request) for member in self.members if member.is_running)
        answer = next((answer for answer in answers if answer is not None), None)
        if answer is None:
            raise LabError("no member of etcd answers")
        return [base64.b64decode(pair["value"]) for pair in answer.get("kvs", [])]

    def _run(self, member: Member) -> None:
        here = f"http://{member.address}"
        cluster = ",".join(f"{one.name}=http://{one.address}:{PEER_PORT}" for one in self.members)
        options = {
            "name": member.name, "data-dir": str(member.data), "heartbeat-interval": str(self._election_ms // 10), "election-timeout": str(self._election_ms), "listen-client-urls": f"{here}:{CLIENT_PORT}", "advertise-client-urls": f"{here}:{CLIENT_PORT}",
            "listen-peer-urls": f"{here}:{PEER_PORT}", "initial-advertise-peer-urls": f"{here}:{PEER_PORT}",
            "initial-cluster": cluster, "initial-cluster-token": self.lab.id,
        }  # fmt: skip
        member.start([str(self._program), *(word for key, value in options.items() for word in (f"--{key}", value))])

    def _leader_by(self, member: Member) -> str | None:
        return self._status(member).get("leader")

    def _status(self, member: Member) -> dict:
        return (self._ask(member, "maintenance/status", {}) or {}) if member.is_running else {}

    def _writes(self, member: Member) -> bool:
        return self._ask(member, "kv/put", {"key": _encode(f"lab/{member.name}"), "value": ""}) is not None

    def _ask(self, member: Member, path: str, request: dict) -> dict | None:
        """One member's answer; None if it gives none."""
        with network.entered(self.lab):
            connection = http.client.HTTPConnection(member.address, CLIENT_PORT, timeout=ANSWER_SECONDS)
            try:
                connection.request("POST", f"/v3/{path}", json.dumps(request))
                answer = connection.getresponse()
                text = answer.read()
            except (OSError, http.client.HTTPException):
                return None
            finally:
                connection.close()
        return json.loads(text) if answer.status == 200 else None


def _encode(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
