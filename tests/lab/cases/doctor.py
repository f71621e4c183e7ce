"""What `outlast doctor` says about hosts on which all other cases run Linux guests."""

import re

from .failed import require
from .stage import Stage


def doctor_of_host(stage: Stage) -> str:
    """`outlast doctor` finds that an emulated host runs Linux guests, and what a first write to a page costs there."""
    said = stage.run("A", "outlast doctor")
    require("This host runs Linux guests." in said, f"on a host that runs them: {said}")
    cost = re.search(r"first write to a page +costs a guest ([0-9.]+) µs", said)
    require(cost is not None and float(cost[1]) > 1, f"a nested guest's fault costs nothing: {said}")
    return f"a first write costs {cost[1]} µs"
