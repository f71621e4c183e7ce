#!/usr/bin/python3
"""The client's flows against a guest that lies: what they are there to notice, they notice.

Needs neither root nor a lab: `tests/lab/test_flows.py [-v]`.
"""

import itertools
import socket
import struct
import sys
import tempfile
import threading
import unittest
import zlib
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from outlast_lab import flows, journal_check  # noqa: E402  (the path must be set first)
from outlast_lab.meters import Meter, Report, Stop  # noqa: E402


class Fake:
    """A server on loopback that serves one connection with `handle(file)`."""

    def __init__(self, handle):
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, args=(handle,), daemon=True).start()

    def _serve(self, handle):
        peer, _ = self._listener.accept()
        with self._listener, peer, peer.makefile("rwb", buffering=0) as file:
            try:
                handle(file)
            except OSError:
                pass  # the client has seen enough and left


def run(name, handle, **options):
    """Runs a flow against a fake until it ends; returns its report."""
    fake = Fake(handle)
    port = f"{name.upper()}_PORT"
    kept, meter, stop = getattr(flows, port), Meter(Report(name, "127.0.0.1")), Stop(options.pop("seconds", 0.3))
    setattr(flows, port, fake.port)
    try:
        flows.FLOWS[name](flows.Options(address="127.0.0.1", stall_seconds=1, **options), meter, stop)
    except OSError as error:
        meter.fail(f"connection: {error}")
    finally:
        setattr(flows, port, kept)
        meter.finish()
    return meter.report


def stream_server(lose=None, repeat=None, close_after=None):
    """Answers as the guest does, but forgets, repeats or ends at the given request."""

    def handle(file):
        count = crc = 0
        for number, line in enumerate(iter(file.readline, b""), 1):
            if number == close_after:
                return
            for _ in range(0 if number == lose else 2 if number == repeat else 1):
                count, crc = count + 1, zlib.crc32(line[:-1], crc)
            file.write(b"%d %08x\n" % (count, crc))

    return handle


def download_server(wrong_byte=None):
    def handle(file):
        first = int(file.readline().split()[0])
        for number in itertools.count(first):
            block = bytearray(struct.pack("<QQ", number, number * flows.STREAM_STEP % (1 << 64)) * 256)
            if number == first + 3 and wrong_byte is not None:
                block[wrong_byte] ^= 1
            file.write(block)

    return handle


def redis_server(forget=None):
    """Speaks enough RESP for SET and GET; forgets what was set at the given number."""

    def handle(file):
        store, sets = {}, 0
        while head := file.readline():
            words = []
            for _ in range(int(head[1:])):
                size = int(file.readline()[1:])
                words.append(read_exactly(file, size + 2)[:-2])
            if words[0] == b"SET":
                sets += 1
                if sets != forget:
                    store[words[1]] = words[2]
                file.write(b"+OK\r\n")
            else:
                value = store.get(words[1])
                file.write(b"$-1\r\n" if value is None else b"$%d\r\n%s\r\n" % (len(value), value))

    return handle


def read_exactly(file, count):
    data = b""
    while len(data) < count:
        data += file.read(count - len(data))
    return data


def journal_server(lose=None):
    def handle(file):
        size = 0
        for number, line in enumerate(iter(file.readline, b""), 1):
            size += 0 if number == lose else len(line)
            file.write(b"%d %08x\n" % (size, zlib.crc32(line[:-1])))

    return handle


class Flows(unittest.TestCase):
    def test_stream_honest_guest_is_ok(self):
        report = run("stream", stream_server())
        self.assertTrue(report.ok, report.failures)
        self.assertGreater(report.acked, 10)

    def test_stream_lost_request_is_noticed(self):
        self.assertIn("request 5", run("stream", stream_server(lose=5)).failures[0])

    def test_stream_request_done_twice_is_noticed(self):
        self.assertIn("request 5", run("stream", stream_server(repeat=5)).failures[0])

    def test_stream_end_of_connection_is_noticed(self):
        report = run("stream", stream_server(close_after=5))
        self.assertEqual(report.acked, 4)
        self.assertFalse(report.ok)

    def test_stream_silence_is_a_gap_and_then_a_failure(self):
        report = run("stream", lambda file: threading.Event().wait(3), seconds=5)
        self.assertIn("timed out", report.failures[0])

    def test_download_honest_guest_is_ok(self):
        report = run("download", download_server())
        self.assertTrue(report.ok, report.failures)

    def test_download_one_wrong_bit_is_noticed(self):
        report = run("download", download_server(wrong_byte=4095))
        self.assertEqual((report.acked, len(report.failures)), (3, 1))

    def test_redis_honest_guest_every_key_checked(self):
        report = run("redis", redis_server())
        self.assertTrue(report.ok, report.failures)
        self.assertEqual(report.checked, report.acked)

    def test_redis_lost_write_is_noticed(self):
        report = run("redis", redis_server(forget=7))
        self.assertIn("GET 6", report.failures[0])

    def test_journal_honest_guest_is_ok_and_kept(self):
        with tempfile.NamedTemporaryFile() as acked:
            report = run("journal", journal_server(), acked_file=Path(acked.name))
            self.assertTrue(report.ok, report.failures)
            self.assertEqual(len(acked.read().splitlines()), report.acked)

    def test_journal_lost_line_is_noticed(self):
        self.assertEqual(len(run("journal", journal_server(lose=5)).failures), 1)


class JournalCheck(unittest.TestCase):
    LINES = [b"one", b"two", b"three"]

    def verdict(self, found, fsck=0):
        return journal_check.compare(found, self.LINES, fsck, "text")

    def test_all_lines_and_one_unacknowledged_is_ok(self):
        self.assertTrue(self.verdict([*self.LINES, b"four"])["ok"])

    def test_missing_line_is_named(self):
        result = self.verdict([b"one", b"three"])
        self.assertEqual((result["ok"], result["first_missing"]), (False, ["two"]))

    def test_repeated_line_is_not_ok(self):
        self.assertFalse(self.verdict([*self.LINES, b"one"])["ok"])

    def test_other_order_is_not_ok(self):
        self.assertFalse(self.verdict([b"two", b"one", b"three"])["ok"])

    def test_damaged_file_system_is_not_ok(self):
        self.assertFalse(self.verdict(self.LINES, fsck=4)["ok"])


if __name__ == "__main__":
    unittest.main()
