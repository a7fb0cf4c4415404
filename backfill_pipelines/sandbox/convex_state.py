"""What changes in a fake Convex deployment while it runs: documents, what is deployed, who may do what.

Belongs here: the live tables of one deployment and the changes that people make at any moment. Does not belong here:
HTTP, and what the functions do (convex_functions.py). Safe to call from the server's thread and from a test's.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from backfill_pipelines.sandbox.convex_data import (
    ALL_PERMISSIONS,
    USERS,
    ConvexDeployment,
    ConvexTable,
    Document,
    Kinds,
    document_id,
    stored,
)

Functions = Literal["deployed", "absent", "newer", "other_arguments", "other_answers"]
"""What is deployed as `backfill`: our functions; nothing; ours of the next version; or something else of the same name
that takes other arguments, or answers in another form."""


class TableState:
    """One table as it is now; documents are in the order of their creation."""

    def __init__(self, seeded: ConvexTable, *, seed: int) -> None:
        self.name = seeded.name
        self.indexes = dict(seeded.indexes)
        self.indexes_under_way: set[str] = set()
        self.kinds: Kinds | None = seeded.kinds
        self.documents: dict[str, Document] = {}
        self._seed = seed
        self._numbers = len(seeded.documents)
        self._ids: list[str] = []
        self._times: list[float] = []
        self._holders: dict[str, dict[str, list[str]]] = {field: {} for field in self.indexes.values()}
        for document in seeded.documents:
            self._add(dict(document))

    def insert(self, fields: Mapping[str, Any]) -> str:
        """A new document; its id."""
        created_at = self._times[-1] + 1000.0 if self._times else 1_704_700_800_000.5
        new_id = document_id(self._seed, self.name, self._numbers)
        self._numbers += 1
        self._add({"_id": new_id, "_creationTime": created_at, **{name: stored(fields[name]) for name in fields}})
        return new_id

    def write(self, document: Document) -> None:
        """Put a document in the place of the one with its id."""
        old = self.documents[document["_id"]]
        for field, holders in self._holders.items():
            if old.get(field) != document.get(field):
                _leave(holders, old.get(field), document["_id"])
                _enter(holders, document.get(field), document["_id"])
        self.documents[document["_id"]] = document

    def delete(self, gone_id: str) -> None:
        """A document goes. Raises KeyError."""
        document = self.documents.pop(gone_id)
        place = self._ids.index(gone_id)
        del self._ids[place], self._times[place]
        for field, holders in self._holders.items():
            _leave(holders, document.get(field), gone_id)

    def after(self, created_at: float, count: int) -> list[Document]:
        """The next documents that were created after a moment."""
        place = bisect_right(self._times, created_at)
        return [self.documents[each] for each in self._ids[place : place + count]]

    def holding(self, field: str, value: str) -> Sequence[Document]:
        """The documents with a text in an indexed field, oldest first."""
        return [self.documents[each] for each in self._holders[field].get(value, ())]

    def _add(self, document: Document) -> None:
        self.documents[document["_id"]] = document
        self._ids.append(document["_id"])
        self._times.append(document["_creationTime"])
        for field, holders in self._holders.items():
            _enter(holders, document.get(field), document["_id"])


class ConvexDeploymentState:
    """One deployment as it is now.

    `calls` counts the executed functions by path, `outcomes` what the patches came to, and `most_at_once` the requests
    of one kind that were under way together.
    """

    def __init__(self, seeded: ConvexDeployment) -> None:
        self.seeded = seeded
        self.lock = threading.RLock()
        self.reset()

    def reset(self) -> None:
        """Back to the seeded deployment."""
        with self.lock:
            self.tables = {each.name: TableState(each, seed=self.seeded.seed) for each in self.seeded.tables}
            self.keys: dict[str, frozenset[str]] = {
                self.seeded.deploy_key: ALL_PERMISSIONS,
                **self.seeded.scoped_keys,
            }
            self.functions: Functions = "deployed"
            self.paused = False
            self.calls: Counter[str] = Counter()
            self.outcomes: Counter[str] = Counter()
            self.under_way: Counter[str] = Counter()
            self.most_at_once: Counter[str] = Counter()

    # --- looking -------------------------------------------------------------------------------------------------

    def documents(self, table: str = USERS) -> list[Document]:
        """Copies of all documents of a table, oldest first."""
        with self.lock:
            return [dict(each) for each in self.tables[table].documents.values()]

    def document(self, wanted_id: str, table: str = USERS) -> Document | None:
        """A copy of a document; None where it is gone."""
        with self.lock:
            found = self.tables[table].documents.get(wanted_id)
            return None if found is None else dict(found)

    def ids_of(self, clerk_id: str, table: str = USERS) -> list[str]:
        """The ids of the documents with a Clerk id, oldest first."""
        with self.lock:
            held = self.tables[table]
            return [each["_id"] for field in held.indexes.values() for each in held.holding(field, clerk_id)]

    # --- what people do, at any moment ---------------------------------------------------------------------------

    def insert(self, table: str = USERS, **fields: Any) -> str:
        """A new document; its id."""
        with self.lock:
            return self.tables[table].insert(fields)

    def change(self, changed_id: str, table: str = USERS, *, remove: Iterable[str] = (), **fields: Any) -> None:
        """Set fields of a document, whatever their values, and remove others. Raises KeyError."""
        with self.lock:
            kept = self.tables[table].documents[changed_id]
            changed = {**kept, **{name: stored(value) for name, value in fields.items()}}
            for name in remove:
                del changed[name]
            self.tables[table].write(changed)

    def delete(self, gone_id: str, table: str = USERS) -> None:
        """A document is deleted. Raises KeyError."""
        with self.lock:
            self.tables[table].delete(gone_id)

    def drop_index(self, index: str, table: str = USERS) -> None:
        """A table loses an index. Raises KeyError."""
        with self.lock:
            del self.tables[table].indexes[index]

    # --- what the server does ------------------------------------------------------------------------------------

    def enter(self, kind: str, *, slots: int) -> bool:
        """Take one of the slots for requests of a kind, if one is free."""
        with self.lock:
            if self.under_way[kind] >= slots:
                return False
            self.under_way[kind] += 1
            self.most_at_once[kind] = max(self.most_at_once[kind], self.under_way[kind])
            return True

    def leave(self, kind: str) -> None:
        """Give a slot back."""
        with self.lock:
            self.under_way[kind] -= 1


def _enter(holders: dict[str, list[str]], value: Any, held_by: str) -> None:
    if isinstance(value, str):
        holders.setdefault(value, []).append(held_by)


def _leave(holders: dict[str, list[str]], value: Any, held_by: str) -> None:
    if isinstance(value, str):
        holders[value].remove(held_by)


__all__ = ["ConvexDeploymentState", "Functions", "TableState"]
