"""Waiting for something to become true, with a limit and a name for what did not."""

import time
from collections.abc import Callable
from typing import TypeVar

from .failed import Failed

POLL_SECONDS = 0.02
T = TypeVar("T")


def wait_for(what: str, look: Callable[[], T], seconds: float, alive: Callable[[], str | None] = lambda: None) -> T:
    """Returns the first true result of `look`. `alive` may name a reason why it can come no more."""
    deadline = time.monotonic() + seconds
    while True:
        found = look()
        if found:
            return found
        if why := alive():
            # It may have come true just before the end.
            if found := look():
                return found
            raise Failed(f"{what}: {why}")
        if time.monotonic() > deadline:
            raise Failed(f"{what}: not within {seconds:g} s")
        time.sleep(POLL_SECONDS)
