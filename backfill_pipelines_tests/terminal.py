"""A terminal for a process of a test: what it shows is read along, keys are pressed as a person presses them.

Belongs here: the pseudo-terminal. Does not belong here: who sits at it.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import termios
import threading
from collections.abc import Iterator
from contextlib import contextmanager

CTRL_C = "\x03"
_COLUMNS, _LINES = 200, 50
_CONTROL_SEQUENCE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """A pseudo-terminal; `path` is the device that a process opens as its own."""

    def __init__(self) -> None:
        self._ours, self._theirs = pty.openpty()
        fcntl.ioctl(self._theirs, termios.TIOCSWINSZ, struct.pack("HHHH", _LINES, _COLUMNS, 0, 0))
        self.path = os.ttyname(self._theirs)
        self._shown = bytearray()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def press(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def shown(self) -> str:
        """Everything it has shown so far, without colours and movements of the cursor."""
        return _CONTROL_SEQUENCE.sub("", self._shown.decode("utf-8", "replace")).replace("\r\n", "\n")

    def _read(self) -> None:
        while True:
            try:
                some = os.read(self._ours, 65536)
            except OSError:  # the other side is closed
                return
            if not some:
                return
            self._shown += some

    def close(self) -> None:
        """Hang up; what was shown until now stays."""
        os.close(self._theirs)
        self._reader.join(10)
        os.close(self._ours)


def take_over(path: str) -> None:
    """Make a terminal the controlling one of this process, which leads its session, and its standard streams."""
    device = os.open(path, os.O_RDWR)
    fcntl.ioctl(device, termios.TIOCSCTTY, 0)
    for descriptor in (0, 1, 2):
        os.dup2(device, descriptor)
    os.close(device)


@contextmanager
def terminal() -> Iterator[Terminal]:
    opened = Terminal()
    try:
        yield opened
    finally:
        opened.close()
