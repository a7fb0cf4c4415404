"""A fake vendor in a process of its own, so that it does not share an interpreter with what is measured.

Belongs here: starting and ending it. Does not belong here: which vendor, and what is asked of it.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

_START_SECONDS = 120.0


class VendorProcess:
    """What the vendor said when it was ready (`place`), and what it has counted at its end."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self.place: dict[str, Any] = self.answer()

    def end(self) -> dict[str, Any]:
        """Stop it; what it has counted."""
        self.say("end")
        return self.answer()

    def told(self) -> dict[str, Any]:
        """What it has counted so far, where it goes on after being asked."""
        self.say("tell")
        return self.answer()

    def say(self, word: str) -> None:
        """Let it go on, without waiting for what it has to say."""
        self._pipe.send(word)

    def answer(self) -> dict[str, Any]:
        """The next thing that it says."""
        if not self._pipe.poll(_START_SECONDS):
            raise RuntimeError("the fake vendor does not answer")
        answer: dict[str, Any] = self._pipe.recv()
        return answer


@contextmanager
def vendor_process(serve: Callable[..., None], *arguments: object) -> Iterator[VendorProcess]:
    """Run `serve(pipe, *arguments)`, which sends where it is, waits for a word, and sends what it has counted."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=serve, args=(there, *arguments))
    process.start()
    try:
        yield VendorProcess(here)
    finally:
        process.terminate()
        process.join()
