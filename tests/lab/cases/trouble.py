"""What a guest's kernel prints when something is wrong with it, or with its time.

Guests print their kernel's warnings on the console (`loglevel=5`), so that it has what `dmesg` would show of them.
"""

import re

# The lines that a healthy guest prints at that level, of missing PCI and of the processor's known weaknesses, are none of these.
TROUBLE = re.compile(
    r"BUG:|Oops|WARNING: CPU|WARNING: \S+:\d+ at |Call Trace|Kernel panic|general protection fault|unchecked MSR access"
    r"|lockup|stalls? (on|detected)|self-detected stall|blocked for more than|starved for"
    r"|clocksource.*(unstable|skew)|Marking (TSC|clocksource)|Clock Unsynchronized|TSC warp"
    r"|XSAVE consistency|EXT4-fs error|I/O error|Buffer I/O"
)


def found(console: str) -> str | None:
    """The first line of a console that says so."""
    return next((line.strip() for line in console.splitlines() if TROUBLE.search(line)), None)
