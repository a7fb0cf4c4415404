"""Partition keys: their form, and which of them Dagster still lacks.

Belongs here: pure rules over keys. Does not belong here: reading or adding Dagster's partitions (the engine's).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Sequence

MAXIMUM_KEY_LENGTH = 63
# Dagster's UI cannot backfill a key with a comma, and takes "..." and spaces for ranges and searches.
_KEY = re.compile(rf"[a-z0-9-]{{1,{MAXIMUM_KEY_LENGTH}}}")


def is_partition_key(text: str) -> bool:
    """Whether the text can be a partition key: a to z, digits and hyphens, at most 63."""
    return _KEY.fullmatch(text) is not None


def partition_key_for(name: str) -> str:
    """A partition key made of a name: "Café & Söhne" is cafe-sohne. Empty where nothing of it can be kept."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:MAXIMUM_KEY_LENGTH].rstrip("-")


def partitions_to_add(wanted: Sequence[str], existing: Collection[str]) -> list[str]:
    """The wanted keys that do not exist, each once, in their order.

    It only ever adds: a registry that is read wrong, or a client that is away for a week, must not delete the history
    of a partition.
    """
    return [key for key in dict.fromkeys(wanted) if key not in set(existing)]
