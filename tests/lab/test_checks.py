#!/usr/bin/python3
"""The judge of captured frames against histories with two guests: what it is there to notice, it notices.

Needs neither root nor a lab: `tests/lab/test_checks.py [-v]`.
"""

import struct
import sys
import unittest
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1] / "guest-images")]

from cases import checks, counting, trouble  # noqa: E402  (the path must be set first)
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


def answered(*answers):
    """A record of (time, host, life, request, count), as the guest `net-echo` answers."""
    return record(*((at, host, answer_frame(life, request, count)) for at, host, life, request, count in answers))


def answer_frame(life, request, count):
    """What counts of such a frame; the rest is zeros."""
    head = bytearray(34)
    head[12:14], head[23] = counting.ETHERTYPE_IP, counting.PROTOCOL_UDP
    ports = struct.pack("!HHI", counting.GUEST_PORT, counting.FIRST_PORT + life, 0)
    return bytes(head) + ports + counting.ANSWER.pack(request, count)


class OneLine(unittest.TestCase):
    def test_successor_that_continues_the_count_is_one_guest(self):
        told = counting.one_line(answered((1, "A", 0, 10, 1), (2, "A", 0, 12, 2), (3, "B", 0, 13, 3)))
        self.assertEqual(told, "2 A+1 B")

    def test_answer_that_is_given_again_is_a_repeat(self):
        counting.one_line(answered((1, "A", 0, 10, 1), (2, "B", 0, 10, 1), (3, "A", 0, 10, 1), (4, "B", 0, 11, 2)))

    def test_count_given_to_two_requests_is_two_guests(self):
        with self.assertRaisesRegex(Failed, "two guests: count 2"):
            counting.one_line(answered((1, "A", 0, 10, 1), (2, "A", 0, 12, 2), (3, "B", 0, 13, 2)))

    def test_request_that_got_two_counts_is_two_guests(self):
        with self.assertRaisesRegex(Failed, "two guests: request 10"):
            counting.one_line(answered((1, "A", 0, 10, 1), (2, "B", 0, 10, 2)))

    def test_answer_of_a_guest_that_was_left_behind_is_two_guests(self):
        with self.assertRaisesRegex(Failed, "two guests: host A answers with 5 after 9"):
            counting.one_line(answered((1, "B", 0, 10, 9), (2, "A", 0, 12, 5)))

    def test_guest_that_was_booted_anew_counts_anew(self):
        counting.one_line(answered((1, "A", 0, 10, 1), (2, "B", 1, 13, 1)))

    def test_no_answer_proves_nothing(self):
        with self.assertRaisesRegex(Failed, "nobody answered"):
            counting.one_line(record((1, "A", b"a")))

    def test_requests_are_what_the_guest_takes(self):
        request = counting._request(0, 7)
        self.assertEqual(sum(struct.unpack("!10H", request[14:34])) % 0xFFFF, 0, "checksum of the IPv4 header")
        self.assertEqual((request[12:14], request[42:]), (counting.ETHERTYPE_IP, struct.pack("<Q", 7)))


class Trouble(unittest.TestCase):
    def test_complaints_of_kernels_are_noticed(self):
        for line in (
            "[   12.345] clocksource: timekeeping watchdog on CPU0: Marking clocksource 'tsc' as unstable because the skew is too large:",
            "[   12.345] clocksource:                       Clocksource 'tsc' skewed -3489041 ns (-3 ms) over watchdog 'kvm-clock' interval of 507904044 ns (507 ms)",
            "[   12.345] tsc: Marking TSC unstable due to clocksource watchdog",
            "[    0.711] WARNING: CPU: 0 PID: 0 at arch/x86/kernel/fpu/xstate.c:606 fpu__init_system_xstate+0x85a/0xb19",
            "[    0.572] WARNING: arch/x86/kernel/fpu/xstate.c:634 at fpu__init_system_xstate+0x14f9/0x1620, CPU#0: swapper/0/0",
            "[   40.000] watchdog: BUG: soft lockup - CPU#0 stuck for 21s! [agent:55]",
            "[   40.000] rcu: INFO: rcu_preempt self-detected stall on CPU",
            "[   40.000] rcu: INFO: rcu_sched detected stalls on CPUs/tasks:",
            "[  140.000] INFO: task agent:55 blocked for more than 120 seconds.",
            "[   40.000] EXT4-fs error (device vda): ext4_lookup:1855: inode #2",
        ):
            self.assertEqual(trouble.found(f"guest: ready after 3.66 s\n{line}\n"), line)

    def test_lines_of_a_healthy_guest_are_not(self):
        self.assertIsNone(trouble.found("""\
[    0.000000] x86 CPU feature dependency check failure: CPU0 has 'avx' enabled but 'xsave' disabled. Kernel might be fine
[    0.546273] Speculative Return Stack Overflow: WARNING: See https://kernel.org/doc/html/latest/admin-guide/hw-vuln/srso.html
[    0.671173] PCI: Fatal: No config space access function found
guest: ready after 3.66 s
WORK cpu units=200 ns=7080115 check=c47563c1f4a1b004
[    4.101991] reboot: Power down
"""))


if __name__ == "__main__":
    unittest.main()
