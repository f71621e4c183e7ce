"""Every frame of the guest, recorded at the port of the host that let it out.

A packet socket on each host's tap on `lan` sees what the host sends before the bridge does
anything with it: also what the bridge then drops. The kernel stamps the time, this machine's
for both, so the two records have one order.
"""

import hashlib
import selectors
import socket
import struct
import threading
from dataclasses import dataclass

from outlast_lab import network
from outlast_lab.instance import Instance

GUEST_MAC = "52:54:00:77:00:10"
_GUEST = bytes.fromhex(GUEST_MAC.replace(":", ""))
ETH_P_ALL = 0x0003
SO_TIMESTAMPNS = 35
SOL_PACKET, PACKET_STATISTICS = 263, 6
SO_RCVBUFFORCE = 33
RECEIVE_BYTES = 32 << 20
TIMESPEC = struct.Struct("@qq")
# Ethernet, IPv4 and UDP headers, and two words of what follows.
HEAD_BYTES = 58


@dataclass(frozen=True)
class Frame:
    """One frame with the guest's address as its source; `at` is Unix time in seconds."""

    at: float
    host: str
    digest: bytes
    length: int
    head: bytes

    def __str__(self) -> str:
        return f"{self.at:.6f} {self.host} {self.length:5} {self.head.hex()} {self.digest.hex()}"


class Ports:
    """Records until it is closed."""

    def __init__(self, lab: Instance):
        self.frames: list[Frame] = []
        self._hosts: dict[int, str] = {}
        self._closing, wake = socket.socketpair()
        self._selector = selectors.DefaultSelector()
        self._selector.register(wake, selectors.EVENT_READ)
        self._sockets = [self._open(lab, host) for host in lab.all_hosts()]
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _open(self, lab: Instance, host) -> socket.socket:
        with network.entered(lab):
            one = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
            one.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BYTES)
            one.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
            one.bind((network.tap_name(host, "lan"), ETH_P_ALL))
        one.setblocking(False)
        self._hosts[one.fileno()] = host.name
        self._selector.register(one, selectors.EVENT_READ)
        return one

    def close(self) -> None:
        """Ends the record."""
        if self._thread.is_alive():
            self._closing.send(b"x")
            self._thread.join()

    def lost(self) -> int:
        """Frames that the kernel could not keep for this record since it was asked last."""
        return sum(struct.unpack("II", one.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))[1] for one in self._sockets)

    def forget(self) -> None:
        """Drops what was recorded: another guest begins."""
        self.frames.clear()

    def of(self, host: str, since: float = 0.0, until: float = float("inf")) -> list[Frame]:
        """The guest's frames out of one host in a time, in order."""
        return sorted((f for f in list(self.frames) if f.host == host and since <= f.at < until), key=lambda f: f.at)

    def _run(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.fileobj not in self._sockets:
                    return
                self._read(key.fileobj)

    def _read(self, one: socket.socket) -> None:
        try:
            while True:
                data, ancillary, _, address = one.recvmsg(1 << 17, 256)
                if data[6:12] == _GUEST and address[2] != socket.PACKET_OUTGOING:
                    at = next(TIMESPEC.unpack(body) for _, kind, body in ancillary if kind == SO_TIMESTAMPNS)
                    digest = hashlib.blake2b(data, digest_size=12).digest()
                    self.frames.append(Frame(at[0] + at[1] / 1e9, self._hosts[one.fileno()], digest, len(data), data[:HEAD_BYTES]))
        except BlockingIOError:
            return
        except OSError:
            # The interface went down: the socket hears again when it is up.
            return
