"""What can go wrong in the lab, and the exit code that says so.

A command run by `lab exec` gives its own exit code; the codes below are the lab's.
"""

OK = 0
ERROR = 1
USAGE = 2
NOT_FOUND = 3
CONFLICT = 4
TIMEOUT = 124
HOST_GONE = 255


class LabError(Exception):
    """The world refused: `message` says what was tried and why it failed, `hint` what to do."""

    code = ERROR

    def __init__(self, message: str, hint: str = ""):
        super().__init__(message)
        self.hint = hint


class NotFound(LabError):
    """No such instance, host or file."""

    code = NOT_FOUND


class Conflict(LabError):
    """It exists or runs already."""

    code = CONFLICT


class TimedOut(LabError):
    """It took longer than was allowed; what ran has been killed."""

    code = TIMEOUT


class HostGone(LabError):
    """The host does not run, or went away in the middle."""

    code = HOST_GONE
