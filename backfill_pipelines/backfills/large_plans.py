"""Work on millions of records without the garbage collector, which finds nothing there and doubles the time.

Belongs here: keeping it away while a plan is decided and while its rows are made, and calling it seldom while a process
reads. Does not belong here: plans, and what is read.
"""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import pandas as pd


@contextmanager
def without_garbage_collection() -> Iterator[None]:
    """A million records are millions of objects without a cycle among them: nobody looks for one meanwhile."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def unseen_by_garbage_collection(frames: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
    """The frames, while nobody looks again and again through what they are made from."""
    gc.freeze()
    try:
        yield from frames
    finally:
        gc.unfreeze()


_SELDOM = (100_000, 20, 100)
"""Of 700 new objects, after which the collector looks through them by default, a page of JSON makes five times as
many: it would take half of the time of reading it."""


@asynccontextmanager
async def seldom_garbage_collection() -> AsyncIterator[None]:
    """The collector is called seldom, and does not look through what is there already: for a process that reads.

    Of the process as a whole, so it is opened once (`Scope.shared`).
    """
    usual = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(*_SELDOM)
    try:
        yield
    finally:
        gc.set_threshold(*usual)
        gc.unfreeze()
