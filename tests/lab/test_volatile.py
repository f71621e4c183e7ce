#!/usr/bin/python3
"""The disk with a write cache: what it must keep it keeps, what it may lose it loses.

Needs neither root nor a lab: `tests/lab/test_volatile.py [-v]`.
"""

import random
import socket
import struct
import sys
import tempfile
import threading
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from outlast_lab import volatile  # noqa: E402  (the path must be set first)
from outlast_lab.volatile import BLOCK, REQUEST, Disk  # noqa: E402

BLOCKS = 32


class Image(unittest.TestCase):
    def setUp(self):
        self._directory = tempfile.TemporaryDirectory()
        self.path = Path(self._directory.name, "image")
        self.path.write_bytes(bytes(BLOCKS * BLOCK))
        self.addCleanup(self._directory.cleanup)

    def disk(self, seed=1):
        return Disk(str(self.path), random.Random(seed))

    def test_random_writes_read_back_as_a_plain_buffer_does(self):
        rng, disk, model = random.Random(7), self.disk(), bytearray(BLOCKS * BLOCK)
        for _ in range(3000):
            offset = rng.randrange(0, BLOCKS * BLOCK // 512) * 512
            length = min(rng.randrange(1, 24) * 512, BLOCKS * BLOCK - offset)
            if rng.random() < 0.5:
                data = rng.randbytes(length)
                disk.write(offset, data, durable=rng.random() < 0.1)
                model[offset : offset + length] = data
            elif rng.random() < 0.1:
                disk.flush()
                self.assertEqual(self.path.read_bytes(), model)
            self.assertEqual(disk.read(offset, length), model[offset : offset + length])

    def test_lost_cache_leaves_each_block_old_or_new(self):
        disk = self.disk()
        disk.write(0, b"a" * BLOCK * BLOCKS, durable=False)
        disk.flush()
        disk.write(0, b"b" * BLOCK * BLOCKS, durable=False)
        left = self.path.read_bytes()
        blocks = {left[at : at + BLOCK] for at in range(0, len(left), BLOCK)}
        self.assertEqual(blocks, {b"a" * BLOCK, b"b" * BLOCK}, "some are lost and some are not")

    def test_write_that_must_be_durable_is(self):
        disk = self.disk()
        disk.write(512, b"c" * 512, durable=False)
        disk.write(1024, b"d" * 512, durable=True)
        self.assertEqual(self.path.read_bytes()[512:1536], b"c" * 512 + b"d" * 512)

    def test_client_over_the_wire_gets_its_bytes_and_a_lost_connection_flushes_nothing(self):
        ours, theirs = socket.socketpair()
        listener = type("Listener", (), {"accept": staticmethod(lambda: (theirs, None))})
        server = threading.Thread(target=volatile.serve, args=(listener, self.disk()))
        server.start()
        with ours, ours.makefile("rb") as source:
            source.read(18)
            ours.sendall(struct.pack(">I", 3) + volatile.OPTION_MAGIC + struct.pack(">II", volatile.OPT_GO, 0))
            info = source.read(20 + 12)
            self.assertEqual(struct.unpack(">HQ", info[20:30]), (0, BLOCKS * BLOCK))
            source.read(20)
            content = bytes(range(256)) * (BLOCKS * BLOCK // 256)
            self._call(ours, source, volatile.WRITE, content)
            self.assertEqual(self._call(ours, source, volatile.READ), content)
        server.join(10)
        self.assertNotEqual(self.path.read_bytes(), content)

    def _call(self, client, source, kind, data=b""):
        client.sendall(REQUEST.pack(0x25609513, 0, kind, 77, 0, BLOCKS * BLOCK) + data)
        _, error, handle = struct.unpack(">IIQ", source.read(16))
        self.assertEqual((error, handle), (0, 77))
        return source.read(BLOCKS * BLOCK) if kind == volatile.READ else b""


if __name__ == "__main__":
    unittest.main()
