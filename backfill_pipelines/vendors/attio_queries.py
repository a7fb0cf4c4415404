"""Questions to Attio: whole objects page by page, and records by what they hold.

Belongs here: the query's body, paging, and asking for many keys at once within a limit that nobody publishes. Does not
belong here: which questions there are (`attio.py`), what a row means (`attio_records.py`).

Source: docs.attio.com (filtering and sorting, pagination, rate limiting).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from typing import Any, Generic, TypeVar

from backfill_pipelines.errors import DataError
from backfill_pipelines.vendors.attio_records import Company, Found, Page, Person, RejectedRecord, malformed
from backfill_pipelines.vendors.transport import ApiClient, RateLimitedError, RejectedRequestError

ROWS_A_PAGE = 500
"""The documented default of a query's limit, and so surely allowed."""
KEYS_A_QUESTION = 100
"""Values of one `$or` to begin with. Each adds to the query's score, whose limit the vendor does not publish."""
OLDEST_FIRST = ({"direction": "asc", "attribute": "created_at"},)
NEWEST_FIRST = ({"direction": "desc", "attribute": "created_at"},)

Filter = Mapping[str, Any]
Item = TypeVar("Item", Person, Company)
Read = Callable[[Any], Item | RejectedRecord]


class Questions:
    """Queries of one API key. What it learns about the limit of a query holds for all that follow."""

    def __init__(self, reads: ApiClient) -> None:
        self._reads = reads
        self.keys_a_question = KEYS_A_QUESTION
        """How many keys one question takes; less once questions were refused as too complex."""

    async def ask(
        self,
        object_slug: str,
        *,
        given: Filter | None = None,
        sorts: Sequence[Mapping[str, str]] = OLDEST_FIRST,
        limit: int = ROWS_A_PAGE,
        offset: int = 0,
    ) -> Sequence[Any]:
        """The rows of one query. Without a sort their order would be undocumented."""
        question: dict[str, Any] = {"sorts": list(sorts), "limit": limit, "offset": offset}
        if given is not None:
            question["filter"] = given
        return rows_of(await self._reads.post(f"/objects/{object_slug}/records/query", json=question, idempotent=True))

    async def pages(
        self, object_slug: str, read: Read[Item], *, given: Filter | None = None, offset: int
    ) -> AsyncIterator[Page[Item]]:
        """All records from a position on, oldest first."""
        first: object = None
        position: int | None = offset
        while position is not None:
            rows = await self.ask(object_slug, given=given, offset=position)
            if rows and rows[0] == first:
                raise malformed("repeats a page whatever offset is asked for")
            first = rows[0] if rows else None
            position = position + len(rows) if len(rows) >= ROWS_A_PAGE else None
            records, rejected = _sorted_out(rows, read)
            yield Page(records=records, rejected=rejected, next_offset=position)

    async def look_up(
        self,
        object_slug: str,
        keys: Collection[str],
        question: Callable[[Sequence[str]], Filter],
        read: Read[Item],
        *,
        held: Callable[[Item], Collection[str]],
    ) -> Found[Item]:
        """The records that have one of these keys, as many asked for at once as the vendor takes.

        `held`: the keys that a record has. Raises `DataError("filter_not_honoured")` where one comes that has none.
        """
        search = _Search(self, object_slug, question, read, held)
        waiting = list(dict.fromkeys(keys))
        while waiting:
            group, waiting = waiting[: self.keys_a_question], waiting[self.keys_a_question :]
            await search.ask(group)
        return Found(
            records=tuple(search.found.values()), rejected=tuple(search.rejected), refused=tuple(search.refused)
        )

    async def all_rows(self, object_slug: str, given: Filter) -> Sequence[Any]:
        """The rows of a query that may have more than one page."""
        rows: list[Any] = []
        while True:
            page = await self.ask(object_slug, given=given, offset=len(rows))
            rows += page
            if len(page) < ROWS_A_PAGE:
                return rows


class _Search(Generic[Item]):
    """One look-up: what was found so far. A group of keys that the vendor refuses is halved."""

    def __init__(
        self,
        questions: Questions,
        object_slug: str,
        question: Callable[[Sequence[str]], Filter],
        read: Read[Item],
        held: Callable[[Item], Collection[str]],
    ) -> None:
        self._questions = questions
        self._object_slug = object_slug
        self._question = question
        self._read: Read[Item] = read
        self._held: Callable[[Item], Collection[str]] = held
        self.found: dict[str, Item] = {}
        self.rejected: dict[RejectedRecord, None] = {}
        self.refused: list[str] = []

    async def ask(self, group: Sequence[str]) -> bool:
        """Ask for a group; whether the vendor took it as one question."""
        try:
            rows = await self._questions.all_rows(self._object_slug, self._question(group))
        except (RejectedRequestError, RateLimitedError) as refusal:
            # The limit of a single query may come as a 429 that waiting does not help. Of one key, it is what it says.
            if len(group) == 1 and isinstance(refusal, RateLimitedError):
                raise
            if len(group) == 1:
                self.refused.append(group[0])
            elif not await self._ask_halves(group) and set(group) <= set(self.refused):
                raise  # not one key is taken: it is the question that is wrong
            return False
        self._take(rows, set(group))
        return True

    async def _ask_halves(self, group: Sequence[str]) -> bool:
        middle = len(group) // 2
        taken = [await self.ask(half) for half in (group[:middle], group[middle:])]
        if all(taken):  # no key was wrong: there were too many
            self._questions.keys_a_question = min(self._questions.keys_a_question, middle)
        return all(taken)

    def _take(self, rows: Sequence[Any], group: set[str]) -> None:
        records, rejected = _sorted_out(rows, self._read)
        self.rejected.update(dict.fromkeys(rejected))
        for record in records:
            if group.isdisjoint(self._held(record)):
                raise DataError(
                    "filter_not_honoured",
                    f"Attio answered a question about some {self._object_slug} with others, so its answers cannot be "
                    "relied on; nothing was written because of them.",
                )
            self.found[record.record_id] = record


def rows_of(body: Any) -> Sequence[Any]:
    """The list in an answer. Raises `malformed_response`."""
    rows = body.get("data") if isinstance(body, dict) else None
    if not isinstance(rows, list):
        raise malformed("to a query has no rows")
    return rows


def by_value(attribute: str) -> Callable[[Sequence[str]], Filter]:
    """Equality with any of several values. `$in` is documented for texts and reported not to work, and not for
    addresses; the short form of equality is documented for both."""
    return lambda keys: {"$or": [{attribute: key} for key in keys]}


def by_record_id(record_ids: Sequence[str]) -> Filter:
    """Any of these records."""
    return {"record_id": {"$in": list(record_ids)}}


def _sorted_out(rows: Sequence[Any], read: Read[Item]) -> tuple[tuple[Item, ...], tuple[RejectedRecord, ...]]:
    read_rows = [read(row) for row in rows]
    records = tuple(each for each in read_rows if not isinstance(each, RejectedRecord))
    return records, tuple(each for each in read_rows if isinstance(each, RejectedRecord))
