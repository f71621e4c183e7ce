"""How much of the processor time that this machine wanted was given to others.

Emulated hosts keep this machine's time: where it does not run for half a second, neither do they, and what one side then
thinks of the other is no verdict on the program.
"""

from pathlib import Path

# From here on a case that fails says too little: it gets another try, which is told.
MUCH = 0.2
# Below this nobody can be excused.
LITTLE = 0.1


class Steal:
    """Counts from its making."""

    def __init__(self) -> None:
        self._begun = _ticks()

    def share(self) -> float:
        """Time that others had, of the time that was wanted: 0 to 1."""
        (wanted, stolen), (wanted_before, stolen_before) = _ticks(), self._begun
        return (stolen - stolen_before) / max(wanted - wanted_before, 1)

    def __str__(self) -> str:
        share = self.share()
        return f"; {share:.0%} of this machine's time went to others" if share >= LITTLE else ""


def _ticks() -> tuple[int, int]:
    """Time wanted and time stolen since the machine's start, in ticks, all processors together."""
    words = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, words[1:9])
    return user + nice + system + irq + softirq + steal, steal
