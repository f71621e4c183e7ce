"""The oracles themselves: would they notice?"""

import subprocess
import sys
from pathlib import Path

from .failed import require
from .stage import Stage

LAB = Path(__file__).resolve().parents[1]


def flows_notice_lies(stage: Stage) -> str:
    """The client's flows and the judge of frames against guests that lie: each lie is found."""
    return "; ".join(_run(LAB / name) for name in ("test_flows.py", "test_checks.py", "test_volatile.py"))


def _run(tests: Path) -> str:
    done = subprocess.run([sys.executable, str(tests)], capture_output=True, text=True, timeout=120, check=False)
    require(done.returncode == 0, f"{tests.name}: {done.stderr[-1500:]}")
    return f"{tests.name}: {done.stderr.strip().splitlines()[-3]}"
