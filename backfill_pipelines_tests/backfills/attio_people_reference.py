"""What must happen to each user, written once more from the rules as people state them: slow, and with nothing in
common with the plan but the words.

Belongs here: the rules over a world that fits into a head. Does not belong here: large worlds, frames.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import pandas as pd

from backfill_pipelines.backfills.attio_people_plan import PERSON_COLUMNS, USER_COLUMNS


@dataclass(frozen=True, kw_only=True)
class KnownUser:
    """A user as it is landed."""

    id: str
    primary: str | None = None
    verified: tuple[str, ...] = ()
    banned: bool = False
    rejected: str | None = None
    first_name: str | None = None
    last_name: str | None = None


@dataclass(frozen=True, kw_only=True)
class KnownPerson:
    """A person as it is landed; addresses in lower case."""

    id: str
    addresses: tuple[str, ...] = ()
    user_ids: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class KnownWorld:
    """Everybody."""

    users: tuple[KnownUser, ...] = ()
    people: tuple[KnownPerson, ...] = ()

    def user_frames(self, *, rows: int = 3) -> Iterator[pd.DataFrame]:
        ordered = sorted(self.users, key=lambda user: user.id)
        values = [(u.id, u.rejected, u.primary, list(u.verified), u.first_name, u.last_name, u.banned) for u in ordered]
        for start in range(0, len(values), rows):
            yield pd.DataFrame(values[start : start + rows], columns=list(USER_COLUMNS), dtype=object)

    def person_frames(self, *, rows: int = 3) -> Iterator[pd.DataFrame]:
        values = [(p.id, list(p.addresses), list(p.user_ids)) for p in self.people]
        for start in range(0, len(values), rows):
            yield pd.DataFrame(values[start : start + rows], columns=list(PERSON_COLUMNS), dtype=object)


@dataclass(frozen=True, kw_only=True)
class Options:
    """As a run is asked for them."""

    overwrite: bool = False
    include_banned: bool = False


@dataclass(kw_only=True)
class Expected:
    """What is decided about whom; `written` says which person an update goes to."""

    outcomes: dict[str, tuple[str, str | None]] = field(default_factory=dict)
    written: dict[str, str] = field(default_factory=dict)


def expected(world: KnownWorld, options: Options) -> Expected:
    """The rules; again and again, since an id that is overwritten is free for the user whose it is."""
    overwritten: frozenset[str] = frozenset()
    while True:
        found = _expected(world, options, overwritten)
        done = frozenset(found.written[key] for key, each in found.outcomes.items() if each == ("update", "overwrites"))
        if done == overwritten:
            return found
        overwritten = done


def _expected(world: KnownWorld, options: Options, overwritten: frozenset[str]) -> Expected:  # noqa: C901 - by the rules
    """The rules, one user after the other; the people in `overwritten` lose their ids."""
    found = Expected()
    concerned = {user.id: user for user in world.users if _standing_of(user, options) is None}
    for user in world.users:
        standing = _standing_of(user, options)
        if standing is not None:
            found.outcomes[user.id] = standing
            continue
        matched = _matched(user, world)
        rivals = [other for other in concerned.values() if other.id != user.id]
        elsewhere = [p for p in world.people if user.id in p.user_ids and p not in matched and p.id not in overwritten]
        if len(matched) > 1:
            outcome: tuple[str, str | None] = ("conflict", "ambiguous_person")
        elif matched and any(matched[0] in _matched(rival, world) for rival in rivals):
            outcome = ("conflict", "shared_person")
        elif matched and len(matched[0].user_ids) > 1:
            outcome = ("conflict", "several_user_ids")
        elif matched and matched[0].user_ids == (user.id,):
            outcome = ("skip", "already_set")
        elif matched and matched[0].user_ids and not options.overwrite:
            outcome = ("conflict", "other_user_id")
        elif elsewhere:
            outcome = ("conflict", "id_on_other_person") if matched else ("skip", "set_elsewhere")
        elif matched:
            outcome = ("update", "overwrites" if matched[0].user_ids else None)
        else:
            # Nobody is created for two users either.
            same = any(_key(_address(rival)) == _key(_address(user)) for rival in rivals)
            outcome = ("conflict", "shared_person") if same else ("create", None)
        found.outcomes[user.id] = outcome
        if outcome[0] == "update":
            found.written[user.id] = matched[0].id
    return found


def loaded(world: KnownWorld, options: Options) -> KnownWorld:
    """The world after a load that nothing disturbed."""
    done = expected(world, options)
    receivers = {person_id: user_id for user_id, person_id in done.written.items()}
    people = [
        replace(person, user_ids=(receivers[person.id],)) if person.id in receivers else person
        for person in world.people
    ]
    for user in world.users:
        if done.outcomes[user.id][0] == "create":
            key = _key(_address(user))
            assert key is not None
            people.append(KnownPerson(id=f"made for {user.id}", addresses=(key,), user_ids=(user.id,)))
    return KnownWorld(users=world.users, people=tuple(people))


def _standing_of(user: KnownUser, options: Options) -> tuple[str, str | None] | None:
    """What is decided without looking at people."""
    if user.rejected is not None:
        return "reject", user.rejected
    address = _address(user)
    if address is None:
        return "skip", "no_email"
    if user.banned and not options.include_banned:
        return "skip", "banned"
    return ("reject", "invalid_email") if _key(address) is None else None


def _address(user: KnownUser) -> str | None:
    if user.primary is not None:
        return user.primary
    return user.verified[0] if user.verified else None


def _matched(user: KnownUser, world: KnownWorld) -> Sequence[KnownPerson]:
    by_primary = [p for p in world.people if _key(_address(user)) in p.addresses]
    if by_primary:
        return by_primary
    return [p for p in world.people if any(_key(other) in p.addresses for other in user.verified)]


def _key(address: str | None) -> str | None:
    """The worlds of these tests have no other addresses that are none."""
    key = (address or "").strip().lower()
    return key if key.count("@") == 1 and "." in key.partition("@")[2] else None


def outcomes_of(
    rows: Mapping[str, tuple[str, str | None]], skips: Mapping[str, int]
) -> dict[tuple[str, str | None], int]:
    """How many users came to each outcome, by rows and by counts together."""
    counts: dict[tuple[str, str | None], int] = {("skip", reason): count for reason, count in skips.items()}
    for outcome in rows.values():
        counts[outcome] = counts.get(outcome, 0) + 1
    return counts
