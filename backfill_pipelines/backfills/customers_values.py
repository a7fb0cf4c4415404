"""A million short texts in little memory: end to end, and as numbers.

Belongs here: the two containers. Does not belong here: which texts are keys of what (`customers_identity.py`).
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

NONE = -1
"""In a column of numbers: no value."""


class Texts:
    """Many short texts, end to end: a Python string of ten letters takes 60 bytes."""

    def __init__(self, texts: Iterable[str | None] = ()) -> None:
        self._bytes = bytearray()
        self._ends = array("q", [0])
        for text in texts:
            self.append(text)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def append(self, text: str | None) -> None:
        """Add a text at the end; None is as good as none."""
        if text:
            self._bytes += text.encode()
        self._ends.append(len(self._bytes))

    def __getitem__(self, place: int) -> str:
        """The text at a place; empty where there is none."""
        return self._bytes[self._ends[place] : self._ends[place + 1]].decode()

    def are_there(self) -> npt.NDArray[np.bool_]:
        """By place, whether there is a text."""
        return np.diff(np.array(self._ends)) > 0


class Values:
    """The distinct values of one kind of key, each with a number."""

    def __init__(self) -> None:
        self.keys: list[str] | Texts = []
        """The keys by number."""
        self._numbers: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self.keys)

    def number(self, key: str) -> int:
        """The number of a key."""
        new = len(self.keys)
        found = self._numbers.setdefault(key, new)
        if found == new:
            self.keys.append(key)
        return found

    def find(self, key: str) -> int:
        """The number of a key that something has, else `NONE`."""
        return self._numbers.get(key, NONE)

    def close(self) -> None:
        """Take no more keys, nor find the number of one: so they need a third of the memory."""
        self.keys, self._numbers = Texts(self._numbers), {}
