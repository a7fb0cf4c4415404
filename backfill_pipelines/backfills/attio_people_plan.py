"""The decisions of `attio_people`: which user is which person, and what is written. Pure: frames in, rows out.

Belongs here: the rules in their order, over users and people of any number. Does not belong here: reading either
(`attio_people_source.py`), and writing (`attio_people_target.py`, which asks `decide` again where Attio knows better).

A million users against a million people pass through here in one process: users are looked at once, in the order of
their ids, and of each only what its row needs is kept.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple

import pandas as pd

from backfill_pipelines.engine.email_address import normalise_email, trimmed
from backfill_pipelines.engine.plan import EXECUTED, Action, plan_frame

TARGET = "people"
USER_COLUMNS = ("user_id", "rejected", "primary_email", "verified_emails", "first_name", "last_name", "banned")
"""Of `clerk_user`, sorted by `user_id`; `verified_emails` is a list of texts."""
PERSON_COLUMNS = ("record_id", "addresses", "user_ids")
"""Of `attio_person`, without those that could not be read; the last two are lists of texts, addresses in lower case."""

NO_EMAIL, BANNED, INVALID_EMAIL = "no_email", "banned", "invalid_email"
AMBIGUOUS, SHARED, OTHER_ID = "ambiguous_person", "shared_person", "other_user_id"
SEVERAL_IDS, ALREADY_SET = "several_user_ids", "already_set"
ELSEWHERE, ON_OTHER = "set_elsewhere", "id_on_other_person"
COUNTED_SKIPS: frozenset[str | None] = frozenset({NO_EMAIL, BANNED, ALREADY_SET})
"""Skips that need no row: nobody looks for them one by one."""

FREED_FROM = "freed_from"
"""Under this key `before` names the people who have the user's id and lose it to others by the same plan."""

_ROWS_A_FRAME = 10_000
_NOBODY = -1

Values = Sequence[str]
Numbers = tuple[int, ...]
# A plain tuple, which the garbage collector does not look at again and again, as it does at named ones.
_NewPerson = tuple[str, str, str | None, str | None]


class Decision(NamedTuple):
    """What happens with a user, and why; a reason belongs to one action."""

    action: Action
    reason: str | None = None


# Each there once: a million users come to a dozen decisions.
_CREATE, _UPDATE = Decision(Action.CREATE), Decision(Action.UPDATE)
_OVERWRITE = Decision(Action.UPDATE, "overwrites")
_NO_EMAIL, _BANNED = Decision(Action.SKIP, NO_EMAIL), Decision(Action.SKIP, BANNED)
_ALREADY_SET, _ELSEWHERE = Decision(Action.SKIP, ALREADY_SET), Decision(Action.SKIP, ELSEWHERE)
_AMBIGUOUS, _SHARED = Decision(Action.CONFLICT, AMBIGUOUS), Decision(Action.CONFLICT, SHARED)
_OTHER_ID, _SEVERAL_IDS = Decision(Action.CONFLICT, OTHER_ID), Decision(Action.CONFLICT, SEVERAL_IDS)
_ON_OTHER = Decision(Action.CONFLICT, ON_OTHER)


def decide(user_id: str, matched: Sequence[Values], *, shared: bool, elsewhere: bool, overwrite: bool) -> Decision:
    """What to do for a user with an address; the first rule that applies.

    `matched` has the ids (`user_id`) of each person that was matched; `shared`: another user has matched such a person
    too; `elsewhere`: a person that was not matched has this user's id.
    """
    if len(matched) > 1:
        return _AMBIGUOUS
    if shared:
        return _SHARED
    if not matched:
        return _ELSEWHERE if elsewhere else _CREATE
    return _for_one(user_id, matched[0], elsewhere=elsewhere, overwrite=overwrite)


def _for_one(user_id: str, held: Values, *, elsewhere: bool, overwrite: bool) -> Decision:
    if len(held) > 1:
        return _SEVERAL_IDS  # an attribute that takes several: what was there could not be put back
    if held and held[0] == user_id:
        return _ALREADY_SET
    if held and not overwrite:
        return _OTHER_ID
    if elsewhere:
        return _ON_OTHER  # overwriting, too, would give two people one id
    return _OVERWRITE if held else _UPDATE


@dataclass(frozen=True, kw_only=True)
class PeoplePlan:
    """The plan, decided; its rows are made as they are asked for."""

    source: int
    decisions: Mapping[Decision, int]
    """How many users came to each."""
    skips: Mapping[str, int]
    """Counted skips without rows, by reason."""
    frames: Iterator[pd.DataFrame]

    def count(self, action: Action) -> int:
        """How many users come to an action."""
        return sum(count for decision, count in self.decisions.items() if decision.action is action)


def plan_people(
    users: Iterable[pd.DataFrame],
    people: Iterable[pd.DataFrame],
    *,
    overwrite: bool = False,
    include_banned: bool = False,
    list_skips: bool = False,
) -> PeoplePlan:
    """Decide about every user. `list_skips` makes rows of the skips that are otherwise only counted."""
    known = _People()
    for frame in people:
        known.add(frame)
    looked_at = _Users(known, include_banned=include_banned)
    for frame in users:
        looked_at.add(frame)
    decisions = looked_at.decide_all(overwrite=overwrite)
    freed = looked_at.decide_about_freed(decisions) if overwrite else ()
    counts = Counter(decisions)
    silent = frozenset() if list_skips else COUNTED_SKIPS
    return PeoplePlan(
        source=len(decisions),
        decisions=counts,
        skips={str(each.reason): count for each, count in counts.items() if each.reason in silent},
        frames=_frames(looked_at.rows(decisions, freed=freed, silent=silent)),
    )


def primary_address(primary_email: str | None, verified_emails: Values) -> str | None:
    """The user's address: the primary one or, where Clerk names none, the first verified one."""
    if primary_email is not None:
        return primary_email
    return verified_emails[0] if verified_emails else None


class _People:
    """People by number: who has an address, who has an id."""

    def __init__(self) -> None:
        self.record_ids: list[str] = []
        self.user_ids: list[Values] = []
        self._by_address: dict[str, int | Numbers] = {}
        self._by_user_id: dict[str, int | Numbers] = {}

    def add(self, frame: pd.DataFrame) -> None:
        for record_id, addresses, user_ids in zip(*(frame[name].tolist() for name in PERSON_COLUMNS), strict=True):
            number = len(self.record_ids)
            self.record_ids.append(record_id)
            # Most have none or one: a tuple each would be 50 MB for a million of them.
            self.user_ids.append(tuple(user_ids) if user_ids else ())
            for address in addresses:
                _put(self._by_address, address, number)
            for user_id in user_ids:
                _put(self._by_user_id, user_id, number)

    def with_address(self, key: str) -> Numbers:
        return _numbers(self._by_address.get(key))

    def with_user_id(self, user_id: str) -> Numbers:
        return _numbers(self._by_user_id.get(user_id))


def _put(index: dict[str, int | Numbers], key: str, number: int) -> None:
    standing = index.setdefault(key, number)
    if standing != number:
        others = _numbers(standing)
        if number not in others:
            index[key] = (*others, number)


def _numbers(found: int | Numbers | None) -> Numbers:
    if found is None:
        return ()
    return (found,) if isinstance(found, int) else found


class _UserRow(NamedTuple):
    """A row of `USER_COLUMNS`."""

    user_id: str
    rejected: str | None
    primary_email: str | None
    verified_emails: Values
    first_name: str | None
    last_name: str | None
    banned: bool


@dataclass(kw_only=True, slots=True)
class _Found:
    """What is kept of the users, by their number."""

    user_ids: list[str] = field(default_factory=list)
    settled: dict[int, Decision] = field(default_factory=dict)
    """Users of whom nothing is asked of Attio's people."""
    matched: array[int] = field(default_factory=lambda: array("l"))
    """The person's number, or `_NOBODY`."""
    several: dict[int, Numbers] = field(default_factory=dict)
    unmatched: dict[int, _NewPerson] = field(default_factory=dict)
    """What a person would be created of: key, address, first and last name."""


class _Users:
    """Users matched with people, one after the other; then decided about, all together."""

    def __init__(self, people: _People, *, include_banned: bool) -> None:
        self._people = people
        self._include_banned = include_banned
        self._found = _Found()
        self._users_of_person: Counter[int] = Counter()
        self._users_of_address: Counter[str] = Counter()
        self._names: dict[str, str] = {}

    def add(self, frame: pd.DataFrame) -> None:
        for row in zip(*(frame[name].tolist() for name in USER_COLUMNS), strict=True):
            self._add(_UserRow._make(row))

    def _add(self, user: _UserRow) -> None:
        found, number = self._found, len(self._found.user_ids)
        found.user_ids.append(user.user_id)
        found.matched.append(_NOBODY)
        address = primary_address(user.primary_email, user.verified_emails)
        key = normalise_email(address)
        if user.rejected is not None:
            found.settled[number] = Decision(Action.REJECT, user.rejected)
        elif address is None:
            found.settled[number] = _NO_EMAIL
        elif user.banned and not self._include_banned:
            found.settled[number] = _BANNED
        elif key is None:
            found.settled[number] = Decision(Action.REJECT, INVALID_EMAIL)
        elif matched := self._match(key, user.verified_emails):
            for person in matched:
                self._users_of_person[person] += 1
            if len(matched) > 1:
                found.several[number] = matched
            found.matched[number] = matched[0]
        else:
            names = self._name(user.first_name), self._name(user.last_name)
            found.unmatched[number] = (key, trimmed(address), *names)

    def _match(self, key: str, verified_emails: Values) -> Numbers:
        """The people with the primary address or, where there are none, those with any other verified one."""
        matched = self._people.with_address(key)
        if matched:
            return matched
        # Clerk has a verified address once, and one that nobody verified as often as it is claimed.
        self._users_of_address[key] += 1
        others = {other for each in verified_emails if (other := normalise_email(each)) is not None} - {key}
        return tuple(sorted({number for other in others for number in self._people.with_address(other)}))

    def _name(self, name: str | None) -> str | None:
        stripped = (name or "").strip()
        # The same few thousand first names: one text each, not one for each user.
        return self._names.setdefault(stripped, stripped) if stripped else None

    # --- all together ------------------------------------------------------------------------------------------------

    def decide_all(self, *, overwrite: bool) -> list[Decision]:
        return [self._decide(number, overwrite=overwrite) for number in range(len(self._found.user_ids))]

    def decide_about_freed(self, decisions: list[Decision]) -> Sequence[int]:
        """Decide again, in place, about users whose id is on people who lose it to others by overwriting.

        Returns them in an order in which each can be written: after those who free their id. Of people who have each
        other's ids nobody can be the first, so they stay conflicts.
        """
        waiting = {
            self._found.user_ids[number]: number
            for number, decision in enumerate(decisions)
            if decision in (_ON_OTHER, _ELSEWHERE)
        }
        overwritten = {self._found.matched[number] for number, each in enumerate(decisions) if each is _OVERWRITE}
        latest, freed = overwritten, list[int]()
        while latest:
            ids = {user_id for person in latest for user_id in self._people.user_ids[person]}
            latest = set()
            for number in sorted(waiting[user_id] for user_id in ids & waiting.keys()):
                user_id = self._found.user_ids[number]
                if not overwritten.issuperset(self._people.with_user_id(user_id)):
                    continue
                decisions[number] = self._decide(number, overwrite=True, freed=True)
                if decisions[number].action in EXECUTED:
                    freed.append(number)
                if decisions[number] is _OVERWRITE:
                    latest.add(self._found.matched[number])
            overwritten |= latest
        return freed

    def _decide(self, number: int, *, overwrite: bool, freed: bool = False) -> Decision:
        found, people = self._found, self._people
        if number in found.settled:
            return found.settled[number]
        user_id, matched = found.user_ids[number], self._matched(number)
        decision = decide(
            user_id,
            [people.user_ids[each] for each in matched],
            shared=any(self._users_of_person[each] > 1 for each in matched),
            elsewhere=not freed and any(each not in matched for each in people.with_user_id(user_id)),
            overwrite=overwrite,
        )
        if decision is _CREATE and self._users_of_address[found.unmatched[number][0]] > 1:
            return _SHARED  # the person that would be created has the primary address of two users
        return decision

    def _matched(self, number: int) -> Numbers:
        first = self._found.matched[number]
        return self._found.several.get(number, (first,)) if first != _NOBODY else ()

    # --- rows --------------------------------------------------------------------------------------------------------

    def rows(
        self, decisions: Sequence[Decision], *, freed: Sequence[int], silent: frozenset[str | None]
    ) -> Iterator[tuple[Any, ...]]:
        """Rows of a plan frame, sorted by user id as the users came; those who wait for others last, in their order."""
        last = frozenset(freed)
        for number, decision in enumerate(decisions):
            if decision.reason not in silent and number not in last:
                yield self._row(number, decision, *self._values(number, decision))
        for number in freed:
            before, after = self._values(number, decisions[number])
            people = self._people.with_user_id(self._found.user_ids[number])
            freed_from = sorted(self._people.record_ids[each] for each in people)
            yield self._row(number, decisions[number], {**(before or {}), FREED_FROM: freed_from}, after)

    def _row(
        self, number: int, decision: Decision, before: Mapping[str, Any] | None, after: Mapping[str, Any] | None
    ) -> tuple[Any, ...]:
        return TARGET, self._found.user_ids[number], str(decision.action), decision.reason, before, after

    def _values(self, number: int, decision: Decision) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
        user_id, matched = self._found.user_ids[number], self._matched(number)
        if decision.action is Action.CREATE:
            _, address, first_name, last_name = self._found.unmatched[number]
            return None, {
                "address": address,
                "first_name": first_name,
                "last_name": last_name,
                "user_id": user_id,
            }
        if decision.action is Action.UPDATE:
            record_id, held = self._people.record_ids[matched[0]], self._people.user_ids[matched[0]]
            return {"record_id": record_id, "user_id": held[0] if held else None}, {
                "record_id": record_id,
                "user_id": user_id,
            }
        # Whoever looks into it needs the people, by their ids; sorted, since Attio may list people in any order.
        concerned = {*matched, *self._people.with_user_id(user_id)}
        return (
            {"record_ids": sorted(self._people.record_ids[each] for each in concerned)} if concerned else None
        ), None


def _frames(rows: Iterator[tuple[Any, ...]]) -> Iterator[pd.DataFrame]:
    while block := list(islice(rows, _ROWS_A_FRAME)):
        yield plan_frame(block)
