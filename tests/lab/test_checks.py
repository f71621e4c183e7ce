#!/usr/bin/python3
"""The judge of captured frames against histories with two guests: what it is there to notice, it notices.

Needs neither root nor a lab: `tests/lab/test_checks.py [-v]`.
"""

import sys
import unittest
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1] / "guest-images")]

from cases import checks  # noqa: E402  (the path must be set first)
from cases.failed import Failed  # noqa: E402
from cases.ports import Frame, Ports  # noqa: E402


def record(*frames, lost=0):
    """A record of (time, host, content), as the packet sockets would have left it."""
    ports = Ports.__new__(Ports)
    ports.frames = [Frame(at, host, content, len(content), content) for at, host, content in frames]
    ports.lost = lambda: lost
    return ports


class OneVoice(unittest.TestCase):
    def test_old_host_silent_after_the_new_spoke_is_one_guest(self):
        self.assertIn("late 0", checks.one_voice(record((1, "A", b"a"), (2, "B", b"b")), "A", "B", 0))

    def test_late_frame_that_the_new_host_sent_too_is_a_repeat(self):
        self.assertIn("late 1", checks.one_voice(record((2, "B", b"b"), (3, "A", b"b")), "A", "B", 0))

    def test_late_frame_of_its_own_is_two_guests(self):
        with self.assertRaisesRegex(Failed, "two guests: 1 frames"):
            checks.one_voice(record((2, "B", b"b"), (3, "A", b"x")), "A", "B", 0)

    def test_frames_in_disorder_are_judged_by_their_time(self):
        with self.assertRaisesRegex(Failed, "two guests"):
            checks.one_voice(record((3, "A", b"x"), (2, "B", b"b")), "A", "B", 0)

    def test_new_host_that_never_spoke_proves_nothing(self):
        with self.assertRaisesRegex(Failed, "no frame"):
            checks.one_voice(record((1, "A", b"a")), "A", "B", 0)

    def test_record_with_lost_frames_proves_nothing(self):
        with self.assertRaisesRegex(Failed, "not complete"):
            checks.one_voice(record((2, "B", b"b"), lost=1), "A", "B", 0)


class Silent(unittest.TestCase):
    def test_frame_of_a_backup_is_noticed(self):
        with self.assertRaisesRegex(Failed, "must not run"):
            checks.silent(record((1, "A", b"a"), (2, "B", b"b")), "B")

    def test_frame_before_the_time_is_not_judged(self):
        checks.silent(record((1, "B", b"b")), "B", since=2)


if __name__ == "__main__":
    unittest.main()
