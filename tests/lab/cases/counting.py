"""A guest that counts its answers, asked at both hosts at once: the proof that there is one.

Every request goes out at each host's tap, past the bridge, as a broadcast with a number of its own. So a guest that runs
where no frame of a client would find it is asked too. Each answer carries how many the guest has given (guest `net-echo`).
Two guests that continue from one state give the same count to different numbers, whatever either of them was asked.
"""

import socket
import struct
import threading
import time
from collections import Counter
from dataclasses import dataclass

from outlast_lab import network
from outlast_lab.instance import Instance

from .failed import require
from .ports import Frame, Ports
from .waiting import wait_for

PERIOD_SECONDS = 0.02
CLIENT_MAC = bytes.fromhex("020000007701")
BROADCAST = b"\xff" * 6
CLIENT, GUEST = socket.inet_aton("10.77.0.1"), socket.inet_aton("10.77.0.10")
GUEST_PORT = 7000
# A life's requests come from a port of its own: answers to an earlier one are told apart.
FIRST_PORT = 41000
ETHERTYPE_IP, PROTOCOL_UDP = b"\x08\x00", 17
HEADER = struct.Struct("!BBHHHBBH4s4s")
UDP = struct.Struct("!HHHH")
ANSWER = struct.Struct("<QQ")
ANSWER_AT = 42


@dataclass(frozen=True)
class Answer:
    """Which request, by its number, a host's guest gave which count, and when (Unix, seconds)."""

    at: float
    host: str
    life: int
    request: int
    count: int


class Requests:
    """Asks until it is closed."""

    def __init__(self, lab: Instance):
        self.life = 0
        self._number = 0
        self._taps = [self._open(lab, network.tap_name(host, "lan")) for host in lab.all_hosts()]
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @staticmethod
    def _open(lab: Instance, tap: str) -> socket.socket:
        with network.entered(lab):
            one = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
            one.bind((tap, 0))
        return one

    def close(self) -> None:
        """Asks no more."""
        self._closing.set()
        self._thread.join()
        for one in self._taps:
            one.close()

    def _run(self) -> None:
        while not self._closing.wait(PERIOD_SECONDS):
            for one in self._taps:
                self._number += 1
                try:
                    one.send(_request(self.life, self._number))
                except OSError:
                    # The host has no power.
                    continue


def answers(ports: Ports, life: int | None = None) -> list[Answer]:
    """What guests answered, in order: in one life, or in all."""
    found = (_answer(frame) for frame in list(ports.frames))
    return sorted((one for one in found if one and life in (None, one.life)), key=lambda one: one.at)


def hosts_since(ports: Ports, at: float) -> Counter:
    """How many answers each host's guest gave since a time."""
    return Counter(one.host for one in answers(ports) if one.at >= at)


def wait_answers(ports: Ports, host: str, seconds: float, alive, count: int = 5) -> None:
    """Waits until the guest on `host` gave `count` answers more."""
    since = time.time()
    wait_for(f"{count} answers from host {host}", lambda: hosts_since(ports, since)[host] >= count, seconds, alive)


def one_line(ports: Ports) -> str:
    """All that was answered in each life lies on one line: no count was given to two requests, no request got two counts.

    And whoever answered last had passed everything that anybody answered before. Returns what there was.
    """
    require(ports.lost() == 0, "the record of the guest's frames is not complete")
    told = []
    for life in sorted({one.life for one in answers(ports)}):
        line = answers(ports, life)
        by_count: dict[int, Answer] = {}
        by_request: dict[int, Answer] = {}
        for one in line:
            for known, key, what in ((by_count, one.count, "count"), (by_request, one.request, "request")):
                before = known.setdefault(key, one)
                same = (before.request, before.count) == (one.request, one.count)
                require(same, f"two guests: {what} {key} stands for both {before} and {one}")
        last = line[-1]
        require(last.count == max(by_count), f"two guests: host {last.host} answers with {last.count} after {max(by_count)} was answered")
        told.append("+".join(f"{number} {host}" for host, number in Counter(one.host for one in line).items()))
    require(told, "nobody answered")
    return ", ".join(told)


def _request(life: int, number: int) -> bytes:
    payload = struct.pack("<Q", number)
    udp = UDP.pack(FIRST_PORT + life, GUEST_PORT, UDP.size + len(payload), 0) + payload
    header = HEADER.pack(0x45, 0, HEADER.size + len(udp), number & 0xFFFF, 0, 64, PROTOCOL_UDP, 0, CLIENT, GUEST)
    header = header[:10] + _checksum(header) + header[12:]
    return BROADCAST + CLIENT_MAC + ETHERTYPE_IP + header + udp


def _checksum(header: bytes) -> bytes:
    total = sum(struct.unpack(f"!{len(header) // 2}H", header))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!H", ~total & 0xFFFF)


def _answer(frame: Frame) -> Answer | None:
    head = frame.head
    if len(head) < ANSWER_AT + ANSWER.size or head[12:14] != ETHERTYPE_IP or head[23] != PROTOCOL_UDP:
        return None
    source, port = struct.unpack_from("!HH", head, 34)
    if source != GUEST_PORT or port < FIRST_PORT:
        return None
    return Answer(frame.at, frame.host, port - FIRST_PORT, *ANSWER.unpack_from(head, ANSWER_AT))
