"""The client's flows: each is one long-lived TCP connection whose every answer is checked.

An answer depends on all that was sent before on the connection, so a guest that lost,
repeated or altered something is found out by the next one. A flow never reconnects: a reset
or an end of the stream is a failure.
"""

import random
import socket
import struct
import time
import zlib
from dataclasses import dataclass
from pathlib import Path

from .meters import Meter, Stop

STREAM_PORT, DOWNLOAD_PORT, JOURNAL_PORT, REDIS_PORT = 7001, 7002, 7003, 6379
BLOCK_BYTES = 4096
STREAM_STEP = 0x9E3779B97F4A7C15
REDIS_BATCH = 100


@dataclass(frozen=True)
class Options:
    """What all flows are told."""

    address: str = "10.77.0.10"
    connect_seconds: float = 10.0
    # No answer for so long ends the flow as failed.
    stall_seconds: float = 60.0
    interval_seconds: float = 0.0
    payload_bytes: int = 64
    rate_bytes: int = 262144
    seed: int = 1
    acked_file: Path | None = None


class Connection:
    """A connected socket that reads lines and exact lengths."""

    def __init__(self, options: Options, port: int, meter: Meter, stop: Stop):
        self.socket = _connect(options, port, stop)
        self.socket.settimeout(options.stall_seconds)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = bytearray()
        stop.connected()
        meter.connected()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def line(self) -> bytes:
        while (end := self._buffer.find(b"\n")) < 0:
            self._fill()
        return self._cut(end + 1).rstrip(b"\r\n")

    def exactly(self, count: int) -> bytes:
        while len(self._buffer) < count:
            self._fill()
        return self._cut(count)

    def _fill(self) -> None:
        data = self.socket.recv(1 << 16)
        if not data:
            raise ConnectionError("the guest closed the connection")
        self._buffer += data

    def _cut(self, count: int) -> bytes:
        data = bytes(self._buffer[:count])
        del self._buffer[:count]
        return data


def _connect(options: Options, port: int, stop: Stop) -> socket.socket:
    """Connects, trying again while the guest is still booting."""
    deadline = time.monotonic() + options.connect_seconds
    while True:
        try:
            return socket.create_connection((options.address, port), timeout=2)
        except OSError:
            if stop or time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def stream(options: Options, meter: Meter, stop: Stop) -> None:
    """Numbered requests, one at a time; the answer carries the count and the CRC of them all."""
    with Connection(options, STREAM_PORT, meter, stop) as link:
        crc = 0
        for number, line in enumerate(_lines("stream", options), 1):
            if stop:
                return
            crc = zlib.crc32(line, crc)
            begun = time.monotonic()
            meter.sent()
            link.send(line + b"\n")
            answer, wanted = link.line(), b"%d %08x" % (number, crc)
            if answer != wanted:
                meter.fail(f"request {number}: answer {answer!r}, expected {wanted!r}")
                return
            meter.answer(len(answer) + 1, time.monotonic() - begun)
            _pace(options, stop)


def download(options: Options, meter: Meter, stop: Stop) -> None:
    """One long answer of numbered blocks at a steady rate; every byte is compared."""
    with Connection(options, DOWNLOAD_PORT, meter, stop) as link:
        first = options.seed
        meter.sent()
        link.send(b"%d %d %d\n" % (first, 1 << 40, options.rate_bytes))
        number = first
        while not stop:
            block = link.exactly(BLOCK_BYTES)
            if block != struct.pack("<QQ", number, number * STREAM_STEP % (1 << 64)) * (BLOCK_BYTES // 16):
                meter.fail(f"block {number} (byte {(number - first) * BLOCK_BYTES} of the download) is wrong")
                return
            meter.answer(BLOCK_BYTES)
            number += 1


def journal(options: Options, meter: Meter, stop: Stop) -> None:
    """Lines that the guest acknowledges when they are on its disk; those go to `acked_file`."""
    with Connection(options, JOURNAL_PORT, meter, stop) as link:
        size = 0
        with open(options.acked_file or "/dev/null", "wb") as acked:
            for line in _lines("journal", options):
                if stop:
                    return
                begun = time.monotonic()
                meter.sent()
                link.send(line + b"\n")
                words = link.line().split()
                grown = len(words) == 2 and int(words[0]) - size
                if len(words) != 2 or words[1] != b"%08x" % zlib.crc32(line) or (size and grown != len(line) + 1):
                    meter.fail(f"line {line[:40]!r}: answer {words!r} after size {size}")
                    return
                size = int(words[0])
                acked.write(line + b"\n")
                acked.flush()
                meter.answer(len(line) + 1, time.monotonic() - begun)
                _pace(options, stop)


def redis(options: Options, meter: Meter, stop: Stop) -> None:
    """SETs of new keys, one at a time; at the end every acknowledged one is read back."""
    with Connection(options, REDIS_PORT, meter, stop) as link:
        values = []
        prefix = f"lab:{options.seed}:{time.time_ns()}"
        for number, value in enumerate(_lines("redis", options)):
            if stop:
                break
            begun = time.monotonic()
            meter.sent()
            link.send(_resp(b"SET", f"{prefix}:{number}".encode(), value))
            answer = link.line()
            if answer != b"+OK":
                meter.fail(f"SET {number}: {answer!r}")
                return
            values.append(value)
            meter.answer(len(value), time.monotonic() - begun)
            _pace(options, stop)
        _read_back(link, prefix, values, meter)


def _read_back(link: Connection, prefix: str, values: list[bytes], meter: Meter) -> None:
    for start in range(0, len(values), REDIS_BATCH):
        batch = values[start : start + REDIS_BATCH]
        link.send(b"".join(_resp(b"GET", f"{prefix}:{start + i}".encode()) for i in range(len(batch))))
        for offset, value in enumerate(batch):
            head = link.line()
            found = link.exactly(int(head[1:]) + 2)[:-2] if head.startswith(b"$") and head != b"$-1" else head
            if found != value:
                meter.fail(f"GET {start + offset}: {found[:60]!r}, acknowledged was {value[:60]!r}")
            else:
                meter.report.checked += 1


def _resp(*words: bytes) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)


def _lines(flow: str, options: Options):
    """Numbered lines with random text, the same for the same seed."""
    source = random.Random(f"{flow} {options.seed}")
    number = 0
    while True:
        number += 1
        yield b"%s %d %s" % (flow.encode(), number, source.randbytes(options.payload_bytes // 2).hex().encode())


def _pace(options: Options, stop: Stop) -> None:
    if options.interval_seconds:
        stop.wait(options.interval_seconds)


FLOWS = {"stream": stream, "download": download, "journal": journal, "redis": redis}
