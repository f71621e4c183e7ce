"""How a case says that what it saw is wrong."""


class Failed(Exception):
    """What was expected, and what was there instead."""


class Skipped(Exception):
    """This machine cannot run the case, and why."""


def require(condition: object, text: str) -> None:
    """Fails the case with `text` unless `condition` holds."""
    if not condition:
        raise Failed(text)
