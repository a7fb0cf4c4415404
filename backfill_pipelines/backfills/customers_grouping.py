"""Who belongs together: a client's leads as groups, and each group as a known customer, a new one, or a conflict.

Belongs here: the rules of `customers`, by the most reliable identifier first (PSID, phone, address), over columns of
numbers. Pure; nothing depends on the order of the leads. Does not belong here: reading fields
(`customers_identity.py`) and what is written (`customers_plan.py`).
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from backfill_pipelines.backfills.customers_existing import Customer, Customers
from backfill_pipelines.backfills.customers_identity import NONE, GroupKeys, KnownCustomers, LeadColumns

PSID, PHONE, EMAIL, INDIVIDUAL, PEOPLE = "psid", "phone", "email", "individual", "people"
"""Kinds of groups. `PEOPLE` are the leads that somebody split off: no rule made that group."""

SHARED_PHONE, SPLIT_GROUP, AMBIGUOUS_EXISTING = "shared_phone", "split_group", "ambiguous_existing"
_MANY = -2


@dataclass(slots=True)
class Group:
    """Leads that are one customer."""

    kind: str
    value: str
    """Of the identifier that makes the group; of an individual its lead's id."""
    customer: Customer | None = None
    """None while it is to be a new one."""
    linked: bool = False
    """Whether its customer is the one of leads that are linked already."""
    conflict: str | None = None
    reason: str | None = None
    own_id: str = ""
    """The id of the customer that would be made for it; empty where its customer was found without."""


@dataclass(kw_only=True)
class Grouping:
    """Every lead's group."""

    groups: list[Group] = field(default_factory=list)
    group_of: array[int]
    """Per lead: the number of its group, or `NONE` for a lead whose link leads out of the client."""
    linked_to: list[Customer | None]
    """Per lead: the client's customer that it is linked to already."""
    reason_of: dict[int, str] = field(default_factory=dict)
    """Per lead, where there is one: why it is an individual, or fell to its address."""


def group_leads(
    leads: LeadColumns, customers: Customers, *, max_group_size: int, keys: GroupKeys, known: KnownCustomers
) -> Grouping:
    """Group a client's leads, and find the customers that are there already."""
    return _Rules(leads, customers, max_group_size=max_group_size, keys=keys, known=known).grouping()


class _Rules:
    """The rules in their order, over what they have found so far."""

    def __init__(
        self, leads: LeadColumns, customers: Customers, *, max_group_size: int, keys: GroupKeys, known: KnownCustomers
    ) -> None:
        self._leads, self._customers, self._max_group_size = leads, customers, max_group_size
        self._keys, self._known = keys, known
        self._result = Grouping(
            group_of=array("i", [NONE]) * len(leads),
            linked_to=[customers.by_id.get(name) if name else None for name in leads.customer_ids],
        )
        self._groups = self._result.groups
        self._taken: set[str] = set()
        """Ids of the customers that groups have been found to be."""
        self._psids_of: defaultdict[str, set[int]] = defaultdict(set)
        """PSIDs of the leads that are linked to a customer that people made."""
        for lead, customer in enumerate(self._result.linked_to):
            if customer is not None and not customer.ours and leads.psid[lead] != NONE:
                self._psids_of[customer.id].add(leads.psid[lead])
        self._contested: dict[str, set[str]] = {PHONE: set(), EMAIL: set()}
        """By look-up: customers that several groups may be; no later one is taken for it either."""

    def grouping(self) -> Grouping:
        """Apply the rules: what people split off, then PSID, phone, address, and what is left."""
        free = self._set_aside()
        with_psid = array("i", (lead for lead in free if self._leads.psid[lead] != NONE))
        without = array("i", (lead for lead in free if self._leads.psid[lead] == NONE))
        self._group_by_psid(with_psid)
        rest = self._group_by_phone(without)
        rest = self._group_by_email(rest)
        self._make_individuals(rest)
        return self._result

    # --- leads that no rule may move -------------------------------------------------------------------------------

    def _set_aside(self) -> array[int]:
        """Take out the leads that are linked out of the client, and group those that somebody split off."""
        leads, linked_to = self._leads, self._result.linked_to
        split_groups: dict[str, int] = {}
        free = array("i")
        for lead, customer_id in enumerate(leads.customer_ids):
            if customer_id is not None and linked_to[lead] is None:
                continue
            home = self._known.split.get(leads.ids[lead]) if self._known.split else None
            if home is None or (customer := self._customers.by_id.get(home)) is None:
                free.append(lead)
                continue
            if home not in split_groups:
                split_groups[home] = self._open(Group(PEOPLE, home, customer, linked=True))
            self._result.group_of[lead] = split_groups[home]
        # A value that a split left on both sides stays with the customer that was split.
        kept = {
            column: {getattr(leads, column)[lead] for lead in free if linked_to[lead] is not None}
            for column in ((PSID, PHONE, EMAIL) if split_groups else ())
        }
        self._split_off: dict[str, dict[int, int]] = {PSID: {}, PHONE: {}, EMAIL: {}}
        for column, elsewhere in kept.items():
            holders = self._split_off[column]
            for lead, group in self._grouped():
                value = getattr(leads, column)[lead]
                if value != NONE and value not in elsewhere:
                    holders[value] = group if holders.get(value, group) == group else _MANY
        return free

    # --- PSID ------------------------------------------------------------------------------------------------------

    def _group_by_psid(self, members: Sequence[int]) -> None:
        """Leads with the same PSID are one customer. Always."""
        psids, group_of, new_from = self._leads.psid, self._result.group_of, len(self._groups)
        own: dict[int, int] = {value: group for value, group in self._split_off[PSID].items() if group != _MANY}
        for lead in members:
            psid = psids[lead]
            group = own.get(psid)
            if group is None:
                group = own[psid] = self._open(Group(PSID, self._leads.psids.keys[psid]))
            group_of[lead] = group
        self._take_over_links(members, new_from=new_from)
        self._find_customers(members, [group for group in own.values() if self._groups[group].kind == PSID], own)

    # --- phone -----------------------------------------------------------------------------------------------------

    def _group_by_phone(self, members: Sequence[int]) -> list[int]:
        """Leads without a PSID, by phone; returns those that have none to be grouped by."""
        phones, new_from = self._leads.phone, len(self._groups)
        sizes = _counts(phones[lead] for lead in members)
        chosen = array(
            "i", (lead for lead in members if phones[lead] != NONE and sizes[phones[lead]] <= self._max_group_size)
        )
        holders = self._holders(PHONE)
        own: dict[int, int] = {}
        for lead in chosen:
            phone = phones[lead]
            holder = holders.get(phone, NONE)
            # A customer that people made has the phone too: theirs or the PSID's, nobody can tell.
            doubtful = holder != NONE and bool(self._unclaimed(self._customers.people_made_by_phone.get(phone, ())))
            if holder < 0 or doubtful:
                if phone not in own:
                    group = Group(PHONE, self._leads.phones.keys[phone])
                    group.conflict = AMBIGUOUS_EXISTING if doubtful else None
                    group.reason = SHARED_PHONE if holder == _MANY else None
                    own[phone] = self._open(group)
                holder = own[phone]
            self._result.group_of[lead] = holder
        self._take_over_links(chosen, new_from=new_from)
        self._find_customers(chosen, list(own.values()), {})
        return self._left_over(members, PHONE, sizes)

    # --- address ---------------------------------------------------------------------------------------------------

    def _group_by_email(self, members: Sequence[int]) -> list[int]:
        """Leads with neither PSID nor phone, by address; returns those that are individuals."""
        emails, new_from = self._leads.email, len(self._groups)
        sizes = _counts(emails[lead] for lead in members)
        chosen = array(
            "i", (lead for lead in members if emails[lead] != NONE and sizes[emails[lead]] <= self._max_group_size)
        )
        holders = self._holders(EMAIL)
        own: dict[int, int] = {}
        grouped: list[int] = []
        for lead in chosen:
            email = emails[lead]
            group = holders.get(email, NONE)
            if group == _MANY or (
                group != NONE and self._unclaimed(self._customers.people_made_by_email.get(email, ()))
            ):
                self._result.reason_of[lead] = "ambiguous_email"
                continue
            if group == NONE:
                if email not in own:
                    own[email] = self._open(Group(EMAIL, self._leads.emails.keys[email]))
                group = own[email]
            self._result.group_of[lead] = group
            grouped.append(lead)
        self._take_over_links(grouped, new_from=new_from)
        self._find_customers(grouped, list(own.values()), {})
        left = self._left_over(members, EMAIL, sizes)
        return left + [lead for lead in chosen if self._result.group_of[lead] == NONE]

    # --- what is left ----------------------------------------------------------------------------------------------

    def _make_individuals(self, members: Iterable[int]) -> None:
        """One customer per lead that has nothing to be recognised by."""
        reasons = self._result.reason_of
        for lead in members:
            group = self._open(Group(INDIVIDUAL, self._leads.ids[lead]))
            self._result.group_of[lead] = group
            reasons.setdefault(lead, "no_identifier")
            self._settle(self._groups[group], self._result.linked_to[lead])
            if self._groups[group].customer is None:
                self._settle(self._groups[group], self._by_key(self._groups[group]))

    # --- which customer a group is ---------------------------------------------------------------------------------

    def _take_over_links(self, members: Iterable[int], *, new_from: int) -> None:
        """A group is the customer that its leads are linked to already; two of them cannot be one group.

        Groups from `new_from` on are this step's own; one of an earlier step stays the conflict that it is.
        """
        found: defaultdict[int, dict[str, Customer]] = defaultdict(dict)
        for lead in members:
            customer = self._result.linked_to[lead]
            if customer is not None:
                found[self._result.group_of[lead]][customer.id] = customer
        for number, linked in found.items():
            group = self._groups[number]
            if group.conflict is not None and number < new_from:
                continue
            if group.linked and group.customer is not None:
                linked[group.customer.id] = group.customer
            if len(linked) == 1:
                group.conflict = None
                self._settle(group, next(iter(linked.values())))
            else:
                group.conflict, group.customer = SPLIT_GROUP, None
            group.linked = True
        if found:
            # A customer that a link has overruled, or whose group is split, is free for who has its phone.
            self._taken = {group.customer.id for group in self._groups if group.customer is not None}

    def _find_customers(self, members: Sequence[int], opened: Sequence[int], psid_groups: Mapping[int, int]) -> None:
        """Find the customers of new groups that no link has told: by key, PSID, phone, address, in this order."""
        open_groups = {number for number in opened if self._is_open(number)}
        number_of_psid = {group: psid for psid, group in psid_groups.items()}
        for number in sorted(open_groups):
            group = self._groups[number]
            self._settle(group, self._by_key(group))
            if group.customer is None and number in number_of_psid:
                self._settle_alone(group, self._customers.by_psid.get(number_of_psid[number], ()))
        open_groups = {number for number in open_groups if self._is_open(number)}
        for column, index in (
            (PHONE, self._customers.people_made_by_phone),
            (EMAIL, self._customers.people_made_by_email),
        ):
            if index:
                self._find_people_made(members, open_groups, column, index)
                open_groups = {number for number in open_groups if self._is_open(number)}

    def _is_open(self, number: int) -> bool:
        group = self._groups[number]
        return group.customer is None and group.conflict is None

    def _by_key(self, group: Group) -> Customer | None:
        group_hash = self._keys.hash(group.kind, group.value)
        group.own_id = self._keys.customer_id(group_hash)
        recorded = self._known.recorded.get(group_hash) or group.own_id
        seen: set[str] = set()
        while recorded in self._known.merged and recorded not in seen:
            seen.add(recorded)
            recorded = self._known.merged[recorded]
        return self._customers.by_id.get(recorded)

    def _find_people_made(
        self,
        members: Sequence[int],
        open_groups: set[int],
        column: str,
        index: Mapping[int, Sequence[Customer]],
    ) -> None:
        """Find customers that people made by what their rows hold; where that is uncertain, the group is a conflict."""
        found: defaultdict[int, dict[str, Customer]] = defaultdict(dict)
        contested_now: set[str] = set()
        values = getattr(self._leads, column)
        phones: defaultdict[int, set[int]] = defaultdict(set)
        for lead in members:
            number = self._result.group_of[lead]
            if number not in open_groups:
                continue
            if self._leads.phone[lead] != NONE:
                phones[number].add(self._leads.phone[lead])
            for customer in self._unclaimed(index.get(values[lead], ())):
                found[number][customer.id] = customer
        claims = _counts(name for candidates in found.values() for name in candidates)
        for number, candidates in found.items():
            group = self._groups[number]
            (customer, *others) = candidates.values()
            psids = self._psids_of[customer.id] | {customer.psid_number} - {NONE}
            other_psid = group.kind == PSID and not psids <= {self._number_of(group)}
            own_phones = phones[number] if group.kind in (PSID, PHONE) else set()
            other_phone = (
                column == EMAIL
                and customer.phone_number != NONE
                and bool(own_phones)
                and customer.phone_number not in own_phones
            )
            contested = (
                bool(others)
                or other_psid
                or any(claims[name] > 1 or name in self._contested[column] for name in candidates)
            )
            if contested or other_phone:
                group.conflict = AMBIGUOUS_EXISTING
            contested_now.update(candidates if contested else ())
        # Who is contested by phone is no sure match by address either; by address alone says nothing of a phone.
        for weaker in (PHONE, EMAIL) if column == PHONE else (EMAIL,):
            self._contested[weaker] |= contested_now
        # Only now, so that no group sees a customer as taken that another has just claimed.
        for number, candidates in found.items():
            if self._groups[number].conflict is None:
                self._settle(self._groups[number], next(iter(candidates.values())))

    def _number_of(self, group: Group) -> int:
        return self._leads.psids.number(group.value)

    def _unclaimed(self, candidates: Iterable[Customer]) -> list[Customer]:
        return [customer for customer in candidates if customer.id not in self._taken]

    def _settle_alone(self, group: Group, candidates: Sequence[Customer]) -> None:
        if len(candidates) > 1:
            group.conflict = AMBIGUOUS_EXISTING
        elif candidates:
            self._settle(group, candidates[0])

    def _settle(self, group: Group, customer: Customer | None) -> None:
        if customer is not None:
            group.customer = customer
            self._taken.add(customer.id)

    # --- who has a value -------------------------------------------------------------------------------------------

    def _holders(self, column: str) -> dict[int, int]:
        """Which group so far has a phone (an address): by any lead of its customer, or by that customer's own row."""
        holders = dict(self._split_off[column])
        for value, number in self._held(column):
            if value == NONE:
                continue
            other = holders.get(value, number)
            if other in (number, _MANY):
                holders[value] = other
            elif self._is_same_customer(other, number):
                holders[value] = min(number, other, key=lambda each: self._groups[each].value)
            else:
                holders[value] = _MANY
        return holders

    def _is_same_customer(self, one: int, other: int) -> bool:
        customer = self._groups[one].customer
        return customer is not None and customer is self._groups[other].customer

    def _held(self, column: str) -> Iterator[tuple[int, int]]:
        """Values with who has them: groups by their leads, then by their customers' rows and other leads."""
        values = getattr(self._leads, column)
        for lead, number in self._grouped():
            if self._groups[number].kind != PEOPLE:
                yield values[lead], number
        first_of: dict[str, int] = {}
        for number, group in enumerate(self._groups):
            if group.customer is not None and group.kind != PEOPLE:
                first = first_of.setdefault(group.customer.id, number)
                first_of[group.customer.id] = min(first, number, key=lambda each: self._groups[each].value)
        for identifier, number in first_of.items():
            customer = self._customers.by_id[identifier]
            yield customer.phone_number if column == PHONE else customer.email_number, number
        for lead, linked in enumerate(self._result.linked_to):
            if linked is None or linked.id not in first_of:
                continue
            number = self._result.group_of[lead]
            # Its group is not looked for yet, or is split: it is one of its customer's leads all the same.
            if number == NONE or self._groups[number].customer is not linked:
                yield values[lead], first_of[linked.id]

    def _grouped(self) -> Iterator[tuple[int, int]]:
        for lead, group in enumerate(self._result.group_of):
            if group != NONE:
                yield lead, group

    def _left_over(self, members: Iterable[int], column: str, sizes: Mapping[int, int]) -> list[int]:
        """The leads that this identifier does not group, with the reason where one is to be told."""
        values = getattr(self._leads, column)
        left = []
        for lead in members:
            value = values[lead]
            if value == NONE:
                if lead in self._leads.blocked:
                    self._result.reason_of.setdefault(lead, "blocked_value")
            elif sizes[value] > self._max_group_size:
                self._result.reason_of[lead] = "oversized_group"
            else:
                continue
            left.append(lead)
        return left

    def _open(self, group: Group) -> int:
        self._groups.append(group)
        return len(self._groups) - 1


def _counts(values: Iterable[Any]) -> defaultdict[Any, int]:
    counts: defaultdict[Any, int] = defaultdict(int)
    for value in values:
        counts[value] += 1
    return counts
