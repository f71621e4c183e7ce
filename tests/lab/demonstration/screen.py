"""The story on the screen: one line for each thing that happened, with its time and its place.

On a terminal the last line is alive while something is waited for; elsewhere a plain line tells
now and then that it still waits.
"""

import contextlib
import os
import re
import shutil
import sys
import textwrap
import threading
import time
from collections.abc import Callable

WIDTH = 100
# Where the text begins: after the time and the place.
INDENT = 20
PLAIN_SECONDS = 15.0
LIVE_SECONDS = 0.1
SPINNER = "|/-\\"
COLOURS = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "blue": "34", "cyan": "36"}
PLACES = {"host A": "cyan", "host B": "blue", "client": "green", "power": "red"}


class Screen:
    """Prints lines; `say` may be called from the story's thread only."""

    def __init__(self, out=sys.stdout):
        self._out = out
        self.begun = time.time()
        self._live = out.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self._coloured = self._live and "NO_COLOR" not in os.environ
        self._lock = threading.Lock()
        self._live_shown = False

    def say(self, place: str, text: str, at: float | None = None, colour: str | None = None) -> None:
        """One line of the story. `at` (Unix, seconds) is when it happened, if that is not now."""
        seconds = (at or time.time()) - self.begun
        first, *rest = textwrap.wrap(text, WIDTH - INDENT, break_long_words=False, break_on_hyphens=False, drop_whitespace=True) or [""]
        head = f"{seconds:7.2f} s  {self.paint(f'{place:8}', PLACES.get(place, 'dim'))}  "
        lines = [head + self.paint(first, colour)] + [" " * INDENT + self.paint(line, colour) for line in rest]
        self._print(lines)

    def plain(self, text: str = "", colour: str | None = None) -> None:
        """Lines without time or place."""
        self._print([self.paint(line, colour) for line in text.split("\n")])

    def heading(self, text: str) -> None:
        """The beginning of a part."""
        self._print(["", self.paint(text, "bold")])

    def box(self, title: str, rows: list[tuple[str, str]], colour: str) -> None:
        """Rows of two columns in a frame."""
        inner, label = WIDTH - 4, max(len(name) for name, _ in rows)
        lines = []
        for name, text in rows:
            parts = textwrap.wrap(text, inner - label - 2, break_on_hyphens=False) or [""]
            lines += [f"{name if number == 0 else '':{label}}  {part}" for number, part in enumerate(parts)]
        edge = lambda left, right, text="": self.paint(f"{left}{text}{'─' * (WIDTH - 2 - len(text))}{right}", colour)  # noqa: E731
        side = self.paint("│", colour)
        self._print(["", edge("┌", "┐", f"─ {title} "), *[f"{side} {line:{inner}} {side}" for line in lines], edge("└", "┘")])

    @contextlib.contextmanager
    def waiting(self, what: str, detail: Callable[[], str] = lambda: ""):
        """Shows that it waits for `what`, and how far that is, while the context lasts."""
        done = threading.Event()
        ticker = threading.Thread(target=self._tick, args=(what, detail, done), daemon=True)
        ticker.start()
        try:
            yield
        finally:
            done.set()
            ticker.join()
            with self._lock:
                self._erase()

    def paint(self, text: str, colour: str | None) -> str:
        return f"\x1b[{COLOURS[colour]}m{text}\x1b[0m" if colour and self._coloured and text else text

    def _tick(self, what: str, detail: Callable[[], str], done: threading.Event) -> None:
        begun, turn = time.monotonic(), 0
        while not done.wait(LIVE_SECONDS if self._live else PLAIN_SECONDS):
            seconds = time.monotonic() - begun
            more = f": {detail()}" if detail() else ""
            if self._live:
                turn += 1
                self._show(f"{SPINNER[turn % len(SPINNER)]} {what}, {seconds:.0f} s{more}")
            else:
                self._print([f"{time.time() - self.begun:7.2f} s  {'':8}  … {what}, {seconds:.0f} s{more}"[:WIDTH]])

    def _show(self, text: str) -> None:
        room = min(WIDTH, shutil.get_terminal_size().columns - 1) - INDENT
        with self._lock:
            self._erase()
            self._out.write(" " * INDENT + self.paint(text[:room], "dim"))
            self._out.flush()
            self._live_shown = True

    def _print(self, lines: list[str]) -> None:
        with self._lock:
            self._erase()
            self._out.write("".join(f"{line.rstrip()}\n" for line in lines))
            self._out.flush()

    def _erase(self) -> None:
        if self._live_shown:
            self._out.write("\r\x1b[K")
            self._live_shown = False


def last_line(console: str) -> str:
    """The last line of a guest's console that says something, without what only a terminal understands."""
    lines = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|[^\x20-\x7e]", "", line).strip() for line in console[-2000:].splitlines()]
    return next((line for line in reversed(lines) if line), "")
