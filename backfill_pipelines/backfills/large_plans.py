"""Planning over millions of records without the garbage collector, which finds nothing there and doubles the time.

Belongs here: keeping it away while a plan is decided and while its rows are made. Does not belong here: plans.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

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
