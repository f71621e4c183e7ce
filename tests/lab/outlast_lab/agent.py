"""The lab's side of the agent: runs one command inside a host over one connection.

The frames are described in tests/lab/host/labagent.c. A host that loses its power takes the
emulator's forwarded connection with it, so the loss is seen at once; a frozen host is seen by
the time limit only.
"""

import os
import selectors
import socket
import stat
import struct
import time
from dataclasses import dataclass
from typing import BinaryIO, Callable

from . import network, process
from .errors import HostGone, LabError, TimedOut
from .instance import Host, Instance

FRAME_BYTES_MAX = 1 << 16
HEAD = struct.Struct("<cI")
GREETING_SECONDS_MAX = 15.0


@dataclass
class Result:
    """What a finished command left: exit code (128 + signal if killed) and its output."""

    code: int
    stdout: bytes
    stderr: bytes


def execute(instance: Instance, host: Host, argv: list[str], **options) -> int:
    """Runs a command to its end and returns its exit code; `options` as in `Session.run`."""
    return Session(instance, host).run(argv, **options)


def capture(instance: Instance, host: Host, argv: list[str], timeout: float | None = 60.0, stdin: BinaryIO | None = None) -> Result:
    """Runs a command and collects what it prints."""
    out, err = bytearray(), bytearray()
    code = execute(instance, host, argv, timeout=timeout, stdin=stdin, on_stdout=out.extend, on_stderr=err.extend)
    return Result(code, bytes(out), bytes(err))


class Session:
    """One connection to an agent, for one command."""

    def __init__(self, instance: Instance, host: Host):
        if process.pid_of(host.pid_record) is None:
            raise HostGone(f"host {host.name} of lab {instance.name} is not running", f"lab power {host.name}")
        self._host = host
        self._sock = network.tcp_socket(instance)
        self._sock.settimeout(GREETING_SECONDS_MAX)
        self._in, self._out = bytearray(), bytearray()
        try:
            self._sock.connect(("127.0.0.1", host.agent_port))
            self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._greet()
            self._sock.setblocking(False)
        except OSError as error:
            self._sock.close()
            raise self._gone(error) from None

    def _greet(self) -> None:
        """A ping and its answer: the forwarded port takes connections even if nobody is behind it."""
        self._sock.sendall(HEAD.pack(b"P", 0))
        if self._sock.recv(HEAD.size, socket.MSG_WAITALL) != HEAD.pack(b"P", 0):
            raise ConnectionError("the agent did not answer")

    def run(
        self,
        argv: list[str],
        timeout: float | None = None,
        stdin: BinaryIO | None = None,
        on_stdout: Callable = lambda data: None,
        on_stderr: Callable = lambda data: None,
    ) -> int:
        """Carries the command's input and output until it ends; at the limit it is killed."""
        deadline = None if timeout is None else time.monotonic() + timeout
        outputs = {b"O": on_stdout, b"R": on_stderr}
        request = b"".join(word.encode() + b"\0" for word in argv)
        if len(request) > FRAME_BYTES_MAX:
            raise LabError(f"the command line has {len(request)} bytes, the agent takes {FRAME_BYTES_MAX}")
        with self._sock, selectors.DefaultSelector() as selector:
            self._out += HEAD.pack(b"E", len(request)) + request
            source = _Source(stdin)
            while True:
                self._wait(selector, source, deadline, argv, timeout)
                code = self._take(outputs)
                if code is not None:
                    return code

    def _wait(self, selector, source, deadline, argv, timeout) -> None:
        """Waits until something came in, sending what is there to send meanwhile."""
        while True:
            if not self._out and source.open:
                self._out += source.frame() if source.always_ready else b""
            self._watch(selector, self._sock, selectors.EVENT_READ | (selectors.EVENT_WRITE if self._out else 0))
            if source.open and not source.always_ready:
                self._watch(selector, source.file, 0 if self._out else selectors.EVENT_READ)
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise TimedOut(f"'{' '.join(argv)}' on host {self._host.name} ran longer than {timeout:g} s and was killed")
            for key, events in selector.select(left):
                if key.fileobj is not self._sock:
                    selector.unregister(key.fileobj)
                    self._out += source.frame()
                elif events & selectors.EVENT_WRITE:
                    self._flush()
                if key.fileobj is self._sock and events & selectors.EVENT_READ:
                    return

    @staticmethod
    def _watch(selector, fileobj, events) -> None:
        known = fileobj in selector.get_map()
        if known and not events:
            selector.unregister(fileobj)
        elif known:
            selector.modify(fileobj, events)
        elif events:
            selector.register(fileobj, events)

    def _take(self, outputs) -> int | None:
        """Hands on what has arrived; the exit code if the command has ended."""
        for kind, data in self._frames():
            if kind in outputs:
                outputs[kind](data)
            elif kind == b"F":
                raise LabError(f"host {self._host.name} could not start {data.decode(errors='replace')}")
            elif kind == b"X":
                return struct.unpack("<I", data)[0]
        return None

    def _frames(self):
        """Whole frames out of what has arrived."""
        try:
            data = self._sock.recv(1 << 18)
        except OSError as error:
            raise self._gone(error) from None
        if not data:
            raise self._gone("the connection ended")
        self._in += data
        at = 0
        while len(self._in) - at >= HEAD.size:
            kind, length = HEAD.unpack_from(self._in, at)
            end = at + HEAD.size + length
            if end > len(self._in):
                break
            yield kind, bytes(self._in[at + HEAD.size : end])
            at = end
        del self._in[:at]

    def _flush(self) -> None:
        try:
            sent = self._sock.send(self._out)
        except BlockingIOError:
            return
        except OSError as error:
            raise self._gone(error) from None
        del self._out[:sent]

    def _gone(self, why) -> HostGone:
        return HostGone(f"host {self._host.name} went away: {why}", f"lab status; lab log {self._host.name}")


class _Source:
    """Standard input for the command: none, an ordinary file, or something to wait for."""

    def __init__(self, file: BinaryIO | None):
        self.file = file
        self.open = True
        self.always_ready = file is None or stat.S_ISREG(os.fstat(file.fileno()).st_mode)

    def frame(self) -> bytes:
        """The next bytes as a frame; at the end the frame that says so."""
        data = os.read(self.file.fileno(), FRAME_BYTES_MAX) if self.file else b""
        self.open = bool(data)
        return HEAD.pack(b"I", len(data)) + data if data else HEAD.pack(b"C", 0)
