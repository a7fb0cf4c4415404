"""Why two leads are the same customer or not, told from how the rules have grouped all leads of their client.

Belongs here: what is told of a lead, and which rule or guard decided between two. Pure: the grouping itself is that of
`customers_grouping.py`. Does not belong here: reading (`customers_why_source.py`), showing and masking (the command
line).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from backfill_pipelines.backfills.customers_grouping import (
    EMAIL,
    INDIVIDUAL,
    PEOPLE,
    PHONE,
    PSID,
    SHARED_PHONE,
    Group,
    Grouping,
)
from backfill_pipelines.backfills.customers_identity import NONE, FieldReader, LeadColumns
from backfill_pipelines.engine.email_address import normalise_email

KINDS = (PSID, PHONE, EMAIL)
"""Identifiers, the most reliable first."""

EXPLANATIONS: Mapping[str, str] = {
    # the same customer
    "psid": "They have the same PSID, which is always one customer.",
    "phone": "They have the same phone, which exactly one customer has.",
    "email": "They have the same address, which exactly one customer has.",
    "through_others": "Other leads of the customer, or its own row, connect them; what they share does not.",
    "merge": "A person has merged their customers.",
    "split": "A person has split leads off, which no rule puts together again.",
    "linked": "Both were linked to this customer; no rule moves a lead that is linked.",
    # different customers
    "different_clients": "They are leads of different clients, which never meet.",
    "nothing_shared": "They have no identifier in common.",
    "blocked_value": "What they share is blocked: it stands for nobody in particular.",
    "oversized_group": "What they share is shared by more leads than a customer can have.",
    "shared_phone": "Several PSIDs share the phone: a family or an office, so it is a customer of its own.",
    "ambiguous_email": "Several customers have the address, so it tells nothing.",
    "different_psid": "They have different PSIDs, and a PSID counts more than what they share.",
    "different_phone": "They have different phones, and a phone counts more than what they share.",
    "more_reliable": "One of them belongs to a customer by an identifier that counts more than what they share.",
    "split_group": "They belong together by the rules, but their leads are linked to different customers already.",
    "ambiguous_existing": "More than one existing customer could be theirs, or more than one group claims it.",
    "foreign_customer": "One of them is linked to a customer of another client.",
    "dangling_customer": "One of them is linked to a customer that does not exist.",
    "linked_apart": "They are linked to different customers; no rule moves a lead that is linked.",
}
"""By code; each is a whole answer."""


@dataclass(frozen=True, kw_only=True)
class Identifier:
    """One of a lead's identifiers."""

    kind: str
    value: str | None = field(repr=False)
    """As the lead has it."""
    key: str | None = field(repr=False)
    """As it is compared; None where it cannot be read."""
    state: str
    """`used` (it made or found the lead's customer), `unused` (one that counts more did), `blocked`, `oversized`,
    `ambiguous`, `unreadable`, `absent`."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What was decided over a lead, by a run or by a person: which customer, and by which run of the ledger."""

    customer_id: str
    run_id: str
    command: str
    """`run`, `merge`, `split`."""
    at: datetime | None
    origin: str | None = None
    """Of a split: the customer that was split."""


@dataclass(frozen=True, kw_only=True)
class LeadFacts:
    """All there is to say of one lead."""

    id: str
    client_id: str
    customer_id: str | None
    """Whose it is, or would be after a run; None where that is a new one, or it is left alone."""
    is_linked: bool
    group: int = NONE
    """The number of its group, `NONE` where it is in none."""
    rule: str | None = None
    """The identifier that counted: `psid`, `phone`, `email`, `individual`, or `split`."""
    identifiers: Sequence[Identifier] = ()
    guards: Sequence[str] = ()
    """Codes of the rules that kept it from something."""
    conflict: str | None = None
    linked_by: Decision | None = None
    """The run of ours that made its link; None where somebody else has."""
    split_off: Decision | None = None
    """Remembered of it."""

    def identifier(self, kind: str) -> Identifier | None:
        """The identifier of that kind."""
        return next((each for each in self.identifiers if each.kind == kind), None)


@dataclass(frozen=True, kw_only=True)
class Merge:
    """A merge that is remembered."""

    gone: str
    into: str
    run_id: str


@dataclass(frozen=True, kw_only=True)
class Why:
    """The answer."""

    is_same: bool
    decided_by: str
    """A code of `EXPLANATIONS`."""
    shared: Sequence[str]
    """Kinds of the identifiers that both have alike, whether they count or not."""
    leads: tuple[LeadFacts, LeadFacts]
    merges: Sequence[Merge] = ()
    """Remembered merges that led to a customer of theirs."""


# --- of one lead -----------------------------------------------------------------------------------------------------


def lead_facts(
    place: int,
    raw: Mapping[str, str | None],
    *,
    client_id: str,
    leads: LeadColumns,
    grouping: Grouping,
    reader: FieldReader,
    strangers: Mapping[str, bool],
    linked_by: Decision | None,
    split_off: Decision | None,
) -> LeadFacts:
    """What the rules made of a lead. `raw` are its fields, `strangers` ids of customers that are none of its client."""
    identifier, linked = leads.ids[place], leads.customer_ids[place]
    number, reason = grouping.group_of[place], grouping.reason_of.get(place)
    if number == NONE:
        conflict = "foreign_customer" if strangers.get(linked or "") else "dangling_customer"
        return LeadFacts(
            id=identifier,
            client_id=client_id,
            customer_id=linked,
            is_linked=True,
            identifiers=_identifiers(raw, reader, states={}),
            guards=(conflict,),
            conflict=conflict,
            linked_by=linked_by,
        )
    group = grouping.groups[number]
    is_split = split_off is not None and group.kind == PEOPLE
    states = {} if is_split else _states(place, leads, group, reason)
    guards = {code for code in (reason, group.reason, group.conflict) if code and code != "no_identifier"}
    if place in leads.blocked:
        guards.add("blocked_value")
    return LeadFacts(
        id=identifier,
        client_id=client_id,
        customer_id=linked or (group.customer.id if group.customer and not group.conflict else None),
        is_linked=linked is not None,
        group=number,
        rule="split" if is_split else next((kind for kind in KINDS if states.get(kind) == "used"), INDIVIDUAL),
        identifiers=_identifiers(raw, reader, states=states),
        guards=sorted(guards),
        conflict=group.conflict,
        linked_by=linked_by,
        split_off=split_off if is_split else None,
    )


def _states(place: int, leads: LeadColumns, group: Group, reason: str | None) -> dict[str, str]:
    """How far each of a lead's usable identifiers counted; the rules take them in turn until one does."""
    usable = {PSID: leads.psid[place], PHONE: leads.phone[place], EMAIL: leads.email[place]}
    states: dict[str, str] = {}
    is_done = False
    for kind in KINDS:
        if usable[kind] == NONE:
            continue
        if is_done:
            states[kind] = "unused"
        elif kind == PHONE and (reason == "oversized_group" or group.kind in (EMAIL, INDIVIDUAL)):
            states[kind] = "oversized"
        elif kind == EMAIL and group.kind == INDIVIDUAL:
            # It came to the addresses, and no customer of it.
            states[kind] = "ambiguous" if reason == "ambiguous_email" else "oversized"
        else:
            states[kind], is_done = "used", True
    return states


def _identifiers(
    raw: Mapping[str, str | None], reader: FieldReader, *, states: Mapping[str, str]
) -> tuple[Identifier, ...]:
    psid, phone, email = ((raw[name] or "").strip() for name in ("messenger_psid", "phone", "email"))
    phone_key, email_key = reader.phone(phone)[0], normalise_email(email)
    blocked = {
        PHONE: phone_key is not None and reader.is_blocked_phone(phone_key),
        EMAIL: email_key is not None and reader.is_blocked_email(email_key),
    }
    return tuple(
        Identifier(
            kind=kind,
            value=value or None,
            key=key,
            state=_state(value, key, is_blocked=blocked.get(kind, False), counted=states.get(kind)),
        )
        for kind, value, key in ((PSID, psid, psid or None), (PHONE, phone, phone_key), (EMAIL, email, email_key))
    )


def _state(value: str, key: str | None, *, is_blocked: bool, counted: str | None) -> str:
    if not value:
        return "absent"
    if key is None:
        return "unreadable"
    return "blocked" if is_blocked else counted or "unused"


# --- of two leads ----------------------------------------------------------------------------------------------------


def compare(one: LeadFacts, other: LeadFacts, merges: Collection[Merge] = ()) -> Why:
    """Say whether two leads are the same customer, and by what it was decided."""
    if one.client_id != other.client_id:
        return Why(is_same=False, decided_by="different_clients", shared=(), leads=(one, other))
    shared = [kind for kind in KINDS if _key(one, kind) is not None and _key(one, kind) == _key(other, kind)]
    is_same = one.customer_id == other.customer_id and (one.customer_id is not None or _is_one_new_customer(one, other))
    into = {one.customer_id, other.customer_id}
    while more := {merge.gone for merge in merges if merge.into in into} - into:
        into |= more
    led_here = [merge for merge in merges if merge.into in into]
    decided_by = _together(one, other, shared, led_here) if is_same else _apart(one, other, shared)
    return Why(is_same=is_same, decided_by=decided_by, shared=shared, leads=(one, other), merges=led_here)


def _is_one_new_customer(one: LeadFacts, other: LeadFacts) -> bool:
    return one.group == other.group != NONE and one.conflict is None


def _together(one: LeadFacts, other: LeadFacts, shared: Sequence[str], merges: Sequence[Merge]) -> str:
    if one.split_off and other.split_off:
        return "split"
    if one.group != other.group or one.group == NONE:
        return "merge" if any(merge.into == one.customer_id for merge in merges) else "linked"
    # Who has no PSID came by the phone, who has neither by the address: the weaker of the two connects them.
    rules = {one.rule, other.rule}
    weaker = next((kind for kind in reversed(KINDS) if kind in rules), None)
    if weaker is not None and weaker in shared:
        return weaker
    is_moved = any(lead.linked_by is not None and lead.linked_by.command == "merge" for lead in (one, other))
    return "merge" if is_moved else "through_others"


def _apart(one: LeadFacts, other: LeadFacts, shared: Sequence[str]) -> str:
    """The first of these that holds."""
    pair = (one, other)
    alike = {found.state for lead in pair for kind in shared if (found := lead.identifier(kind))}
    stray = next((lead.conflict for lead in pair if lead.group == NONE), None)
    answers: list[tuple[object, str | None]] = [
        (_is_split_from(one, other, shared) or _is_split_from(other, one, shared), "split"),
        (stray, stray),
        (one.group == other.group, one.conflict or "linked_apart"),
        (not shared, "nothing_shared"),
        (alike == {"blocked"}, "blocked_value"),
        ("oversized" in alike, "oversized_group"),
        ("ambiguous" in alike, "ambiguous_email"),
        (PHONE in shared and any(SHARED_PHONE in lead.guards for lead in pair), SHARED_PHONE),
        (one.conflict or other.conflict, one.conflict or other.conflict),
        (_both_usable(one, other, PSID), "different_psid"),
        (_both_usable(one, other, PHONE), "different_phone"),
    ]
    return next((code for holds, code in answers if holds and code), "more_reliable")


def _is_split_from(lead: LeadFacts, other: LeadFacts, shared: Sequence[str]) -> bool:
    """Whether a person's split is what keeps a lead from another one."""
    if lead.split_off is None:
        return False
    origins = {other.customer_id, other.split_off.origin if other.split_off else None}
    return bool(shared) or lead.split_off.origin in origins


def _both_usable(one: LeadFacts, other: LeadFacts, kind: str) -> bool:
    found = [lead.identifier(kind) for lead in (one, other)]
    return all(each is not None and each.state in ("used", "unused") for each in found)


def _key(lead: LeadFacts, kind: str) -> str | None:
    found = lead.identifier(kind)
    return None if found is None else found.key
