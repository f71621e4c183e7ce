#!/usr/bin/python3
"""A lab is not begun where its disks would find no room.

Needs neither root nor a lab: `tests/lab/test_disk.py [-v]`.
"""

import sys
import tempfile
import unittest
from collections import namedtuple
from pathlib import Path
from unittest import mock

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1] / "guest-images")]

from outlast_lab import disk, lifecycle  # noqa: E402  (the path must be set first)
from outlast_lab.errors import LabError  # noqa: E402

Usage = namedtuple("Usage", "free")


def free(mib: int):
    return mock.patch.object(disk.shutil, "disk_usage", return_value=Usage(mib * disk.MIB))


class Room(unittest.TestCase):
    def refused(self, mib: int, *, hosts=2, data_mib=8192, nvdimm_mib=0, seed=()) -> str | None:
        try:
            with free(mib):
                disk.require_room(Path("/tmp/outlast-lab"), hosts, data_mib, nvdimm_mib, list(seed))
        except LabError as error:
            return f"{error}; {error.hint}"
        return None

    def test_lab_needs_what_its_hosts_may_write(self):
        self.assertIsNone(self.refused(2 * disk.WORK_MIB))
        self.assertIn("4095 MiB free, and 2 hosts of the lab may write 4096 MiB", self.refused(2 * disk.WORK_MIB - 1))

    def test_refusal_says_what_to_do(self):
        self.assertIn("OUTLAST_LAB_DIR=DIR", self.refused(0))

    def test_small_disk_cannot_grow_beyond_itself(self):
        self.assertIsNone(self.refused(200, data_mib=100))
        self.assertIsNotNone(self.refused(199, data_mib=100))

    def test_memory_module_and_seed_count_for_every_host(self):
        with tempfile.NamedTemporaryFile() as seed:
            seed.write(bytes(3 * disk.MIB))
            seed.flush()
            needed = 2 * (disk.WORK_MIB + 3 + 64)
            self.assertIsNone(self.refused(needed, nvdimm_mib=64, seed=[Path(seed.name)]))
            self.assertIsNotNone(self.refused(needed - 1, nvdimm_mib=64, seed=[Path(seed.name)]))

    def test_directory_that_is_not_there_is_looked_for_above(self):
        with free(0), self.assertRaisesRegex(LabError, "^/ has 0 MiB"):
            disk.require_room(Path("/no-such-directory/lab"), 1, 8192, 0, [])

    def test_nothing_is_made_where_there_is_no_room(self):
        instance = mock.Mock(data_mib=8192, nvdimm_mib=0)
        instance.all_hosts.return_value = [mock.Mock(), mock.Mock()]
        with free(0), mock.patch.object(lifecycle, "_require_root"), mock.patch.object(lifecycle, "_claim") as claim:
            self.assertRaises(LabError, lifecycle.up, instance, [], None)
        claim.assert_not_called()


if __name__ == "__main__":
    unittest.main()
