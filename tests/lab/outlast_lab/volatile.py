"""A disk with a write cache that a loss of power empties: a server for the emulator's NBD client.

What was written and not flushed is lost with this process, or is on the disk, block by block as chance has it: a disk may
write its cache in any order. What a flush was answered for is in the image. A program that forgets to sync, or syncs in
the wrong order, is found out by `lab plug`.

Protocol: the NBD project's `doc/proto.md`, fixed newstyle negotiation, simple replies. One client, one connection.
"""

import os
import random
import socket
import struct
import subprocess
import sys
from pathlib import Path

from . import process
from .instance import Host

BLOCK = 4096
OPTION_MAGIC = b"IHAVEOPT"
REPLY_MAGIC = 0x3E889045565A9
OPT_EXPORT_NAME, OPT_ABORT, OPT_GO = 1, 2, 7
REP_ACK, REP_INFO, REP_UNSUPPORTED = 1, 3, (1 << 31) + 1
# Flags are there, flush is understood, so is a write that must be durable by itself.
EXPORT_FLAGS = 1 | 4 | 8
READ, WRITE, DISCONNECT, FLUSH = 0, 1, 2, 3
FUA = 1
EINVAL = 22
REQUEST = struct.Struct(">IHHQQI")


def start(host: Host) -> str:
    """Serves the host's disk from a process of its own; returns the emulator's words for it."""
    process.end(host.disk_record)
    path = host.directory / "disk.sock"
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as listener, open(host.directory / "disk.log", "wb") as log:
        listener.bind(str(path))
        listener.listen(1)
        child = subprocess.Popen(
            [sys.executable, "-m", __name__, str(host.disk), str(random.SystemRandom().randrange(1 << 31))],
            stdin=listener, stdout=log, stderr=log, start_new_session=True, cwd=Path(__file__).parents[1],
        )  # fmt: skip
    process.remember(host.disk_record, child.pid)
    return f"file.driver=nbd,file.server.type=unix,file.server.path={path}"


class Disk:
    """An image, and what was written to it and may be lost."""

    def __init__(self, path: str, rng: random.Random):
        self._file = os.open(path, os.O_RDWR)
        self.size = os.fstat(self._file).st_size
        self._rng = rng
        self._cache: dict[int, bytes] = {}

    def read(self, offset: int, length: int) -> bytes:
        data = os.pread(self._file, length, offset)
        if not self._cache:
            return data
        first, last = offset // BLOCK, (offset + length - 1) // BLOCK
        hits = [block for block in range(first, last + 1) if block in self._cache]
        if not hits:
            return data
        mixed = bytearray(data)
        for block in hits:
            at = block * BLOCK - offset
            content = self._cache[block]
            mixed[max(at, 0) : at + BLOCK] = content[max(-at, 0) : length - at]
        return bytes(mixed)

    def write(self, offset: int, data: bytes, durable: bool) -> None:
        end = offset + len(data)
        for block in range(offset // BLOCK, (end - 1) // BLOCK + 1):
            at = block * BLOCK
            part = data[max(at - offset, 0) : at + BLOCK - offset]
            if len(part) < BLOCK:
                whole = bytearray(self.read(at, BLOCK))
                whole[max(offset - at, 0) : max(offset - at, 0) + len(part)] = part
                part = bytes(whole)
            if durable or self._rng.random() < 0.5:
                os.pwrite(self._file, part, at)
                self._cache.pop(block, None)
            else:
                self._cache[block] = part

    def flush(self) -> None:
        for block, content in self._cache.items():
            os.pwrite(self._file, content, block * BLOCK)
        self._cache.clear()


def serve(listener: socket.socket, disk: Disk) -> None:
    """Serves the first client until it goes; what it has not flushed is forgotten."""
    client, _ = listener.accept()
    with client, client.makefile("rb", 1 << 20) as source:
        if _negotiate(client, source, disk.size):
            while _answer(client, source, disk):
                pass


def _negotiate(client, source, size: int) -> bool:
    client.sendall(b"NBDMAGIC" + OPTION_MAGIC + struct.pack(">H", 3))
    source.read(4)
    while head := source.read(16):
        option, length = struct.unpack(">II", head[8:])
        source.read(length)
        if option == OPT_EXPORT_NAME:
            client.sendall(struct.pack(">QH", size, EXPORT_FLAGS))
            return True
        if option == OPT_GO:
            info = struct.pack(">HQH", 0, size, EXPORT_FLAGS)
            client.sendall(_option_reply(option, REP_INFO, info) + _option_reply(option, REP_ACK))
            return True
        client.sendall(_option_reply(option, REP_ACK if option == OPT_ABORT else REP_UNSUPPORTED))
    return False


def _option_reply(option: int, kind: int, data: bytes = b"") -> bytes:
    return struct.pack(">QIII", REPLY_MAGIC, option, kind, len(data)) + data


def _answer(client, source, disk: Disk) -> bool:
    head = source.read(REQUEST.size)
    if len(head) < REQUEST.size:
        return False
    _, flags, kind, handle, offset, length = REQUEST.unpack(head)
    error, data = 0, b""
    if kind == WRITE:
        content = source.read(length)
        if len(content) < length:
            return False
        disk.write(offset, content, bool(flags & FUA))
    elif kind == READ:
        data = disk.read(offset, length)
    elif kind == FLUSH:
        disk.flush()
    elif kind == DISCONNECT:
        return False
    else:
        error = EINVAL
    client.sendall(struct.pack(">IIQ", 0x67446698, error, handle) + data)
    return True


if __name__ == "__main__":
    image_path, chance = sys.argv[1:]
    serve(socket.socket(fileno=sys.stdin.fileno()), Disk(image_path, random.Random(chance)))
