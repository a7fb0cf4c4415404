"""What `customers` must decide, said a second time: dictionaries and a union-find, slow and plain.

Belongs here: the rules, in the words of the specification. Nothing in here is the product's code, so that a mistake
would have to be made twice. Does not belong here: reading fields (`customers_reference_fields.py`), and worlds to try
it on (`customers_worlds.py`).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from backfill_pipelines_tests.backfills.customers_reference_fields import Reader, Row, Rules, age, name_of, text_of

Name = tuple[str, str]
"""A group's kind and the value that makes it."""


@dataclass(kw_only=True)
class Decided:
    """`leads`: by id: action, reason, customer. `customers`: by id: action, reason, fields. `jobs`: as `leads`."""

    leads: dict[str, tuple[str, str | None, str | None]] = field(default_factory=dict)
    customers: dict[str, tuple[str, str | None, dict[str, Any]]] = field(default_factory=dict)
    jobs: dict[str, tuple[str, str | None, str | None]] = field(default_factory=dict)
    split_groups: set[str] = field(default_factory=set)
    """Groups in conflict all of whose leads are linked, by the id that their own customer would have."""
    group_of: dict[str, Name] = field(default_factory=dict)
    customer_of: dict[str, str | None] = field(default_factory=dict)
    """By lead: the customer that it has, or gets."""
    figures: dict[str, Any] = field(default_factory=dict)


# --- grouping


class Together:
    """A union-find over anything."""

    def __init__(self) -> None:
        self.parent: dict[Any, Any] = {}

    def root(self, each: Any) -> Any:
        self.parent.setdefault(each, each)
        while self.parent[each] != each:
            each = self.parent[each]
        return each

    def unite(self, one: Any, other: Any) -> None:
        self.parent[self.root(one)] = self.root(other)


@dataclass
class Group:
    name: Name
    customer: str | None = None
    conflict: str | None = None
    reason: str | None = None


class Reference:
    """One client's plan. `own_id` is the id of a group's own new customer; it is given, being no decision."""

    def __init__(
        self,
        leads: Iterable[Row],
        customers: Iterable[Row],
        *,
        rules: Rules,
        own_id: Callable[[Name], str],
        recorded: Mapping[Name, str] | None = None,
        merged: Mapping[str, str] | None = None,
        strangers: Mapping[str, bool] | None = None,
        phones_held_elsewhere: Iterable[str] = (),
        emails_held_elsewhere: Iterable[str] = (),
        unique_email: bool = False,
    ) -> None:
        self.reader = Reader(rules)
        self.rules, self.own_id = rules, own_id
        self.recorded, self.merged, self.strangers = recorded or {}, merged or {}, strangers or {}
        self.held_elsewhere = {"phone": set(phones_held_elsewhere), "email": set(emails_held_elsewhere)}
        self.unique_email = unique_email
        self.leads = {row["id"]: self.reader.values(row) for row in leads}
        self.customers = {row["id"]: self.reader.values(row) for row in customers}
        self.read_our_own_rows()
        self.strays = {
            identifier
            for identifier, lead in self.leads.items()
            if lead["customer_id"] is not None and lead["customer_id"] not in self.customers
        }
        self.together = Together()
        self.by_root: defaultdict[Any, list[Row]] | None = None
        self.groups: dict[Name, Group] = {}
        self.reasons: dict[str, str] = {}
        self.contested: set[str] = set()
        self.group_leads()

    def read_our_own_rows(self) -> None:
        """What we stored is read back as what it was: the digits of another country's number, say, as that number."""
        phones = sorted({lead["phone_key"] for lead in self.leads.values() if lead["phone_key"]})
        keys = {self.reader.stored_phone(phone): phone for phone in phones}
        for row in self.customers.values():
            if row["ours"]:
                row["phone_key"] = keys.get(row["phone"], row["phone_key"])

    def group_leads(self) -> None:
        own = [lead for identifier, lead in self.leads.items() if identifier not in self.strays]
        with_psid = [lead for lead in own if lead["psid"]]
        for lead in with_psid:
            self.put(lead, ("psid", lead["psid"]))
        self.find_customers("psid")
        rest = self.group_by_phone([lead for lead in own if not lead["psid"]])
        rest = self.group_by_email(rest)
        for lead in rest:
            self.reasons.setdefault(lead["id"], "blocked_value" if lead["blocked"] else "no_identifier")
            self.put(lead, ("individual", lead["id"]))
        self.find_customers("individual")

    def group_by_phone(self, leads: list[Row]) -> list[Row]:
        """Returns the leads that go on to the next identifier."""
        shared_by = Counter(lead["phone_key"] for lead in leads)
        rest = []
        for lead in leads:
            phone = lead["phone_key"]
            if phone is None:
                rest.append(lead)
            elif shared_by[phone] > self.rules.max_group_size:
                self.reasons[lead["id"]] = "oversized_group"
                rest.append(lead)
        grouped = [lead for lead in leads if lead not in rest]
        higher = {phone: self.holders("phone_key", phone) for phone in shared_by if phone}
        free = {phone: self.nobodys("phone_key", phone) for phone in shared_by if phone}
        for lead in grouped:
            phone = lead["phone_key"]
            if len(higher[phone]) == 1 and not free[phone]:
                self.put(lead, higher[phone][0])
                continue
            self.put(lead, ("phone", phone))
            group = self.groups["phone", phone]
            if higher[phone] and free[phone]:
                group.conflict = "ambiguous_existing"
            if len(higher[phone]) > 1:
                group.reason = "shared_phone"
        self.find_customers("phone")
        return rest

    def group_by_email(self, leads: list[Row]) -> list[Row]:
        shared_by = Counter(lead["email_key"] for lead in leads)
        higher = {email: self.holders("email_key", email) for email in shared_by if email}
        free = {email: self.nobodys("email_key", email) for email in shared_by if email}
        rest = []
        for lead in leads:
            email = lead["email_key"]
            if lead["blocked"]:
                # It fell to its address, or past it.
                self.reasons.setdefault(lead["id"], "blocked_value")
            if email is None:
                rest.append(lead)
            elif shared_by[email] > self.rules.max_group_size:
                self.reasons[lead["id"]] = "oversized_group"
                rest.append(lead)
            elif len(higher[email]) > 1 or (higher[email] and free[email]):
                self.reasons[lead["id"]] = "ambiguous_email"
                rest.append(lead)
            elif higher[email]:
                self.put(lead, higher[email][0])
            else:
                self.put(lead, ("email", email))
        self.find_customers("email")
        return rest

    def put(self, lead: Row, name: Name) -> None:
        self.groups.setdefault(name, Group(name))
        self.together.unite(("lead", lead["id"]), name)
        self.by_root = None

    def members(self, name: Name) -> list[Row]:
        """All leads of a group, those that joined it too."""
        if self.by_root is None:
            self.by_root = defaultdict(list)
            for identifier, lead in self.leads.items():
                self.by_root[self.together.root(("lead", identifier))].append(lead)
        return self.by_root[self.together.root(name)]

    def holders(self, column: str, value: str) -> list[Name]:
        """Which customers have a value, by any of their leads or by their own row: one group of each."""
        having = {lead["customer_id"] for lead in self.leads.values() if lead[column] == value}
        having |= {identifier for identifier, row in self.customers.items() if row[column] == value}
        found: dict[Any, Name] = {}
        for name, group in sorted(self.groups.items()):
            if any(lead[column] == value for lead in self.members(name)):
                found.setdefault(group.customer or name, name)
        for name, group in sorted(self.groups.items()):
            if group.customer in having - {None}:
                found.setdefault(group.customer, name)
        return list(found.values())

    def nobodys(self, column: str, value: str) -> set[str]:
        """Customers that people made with this value on their row, and that no group has been found to be."""
        taken = {group.customer for group in self.groups.values()}
        return {
            identifier
            for identifier, row in self.customers.items()
            if not row["ours"] and row[column] == value and identifier not in taken
        }

    # --- which customer a group is

    def find_customers(self, kind: str) -> None:
        for group in self.groups.values():
            links = {lead["customer_id"] for lead in self.members(group.name)} - {None}
            if group.conflict and group.name[0] != kind:
                # Leads that have joined a group in conflict are in it too, linked or not.
                continue
            if len(links) == 1:
                group.customer, group.conflict = links.pop(), None
            elif links:
                group.customer, group.conflict = None, "split_group"
        for group in self.still_open(kind):
            group.customer = self.by_key(group.name)
        if kind == "psid":
            for group in self.still_open(kind):
                same = [each["id"] for each in self.customers.values() if each["psid"] == group.name[1]]
                self.settle(group, same, doubtful=False)
        if kind in ("psid", "phone"):
            self.look_up(kind, "phone_key")
        if kind in ("psid", "phone", "email"):
            self.look_up(kind, "email_key")

    def look_up(self, kind: str, column: str) -> None:
        """Find customers that people made by what their rows hold."""
        claims = {
            group.name: {
                customer
                for lead in self.members(group.name)
                if lead[column]
                for customer in self.nobodys(column, lead[column])
            }
            for group in self.still_open(kind)
        }
        for group in self.still_open(kind):
            self.settle(
                group,
                claims[group.name],
                doubtful=any(
                    self.has_another_psid(group, each)
                    or (column == "email_key" and (each in self.contested or self.has_another_phone(group, each)))
                    or sum(each in other for other in claims.values()) > 1
                    for each in claims[group.name]
                ),
            )
        for name, claimed in claims.items():
            if self.groups[name].conflict:
                self.contested |= claimed

    def still_open(self, kind: str) -> list[Group]:
        return [
            group
            for group in self.groups.values()
            if group.name[0] == kind and group.customer is None and group.conflict is None
        ]

    def settle(self, group: Group, candidates: Iterable[str], *, doubtful: bool) -> None:
        found = list(candidates)
        if len(found) > 1 or doubtful:
            group.conflict = "ambiguous_existing"
        elif found:
            group.customer = found[0]

    def by_key(self, name: Name) -> str | None:
        for known in (self.recorded.get(name), self.own_id(name)):
            # Merged, and that one merged again; somebody may have deleted the last one.
            chain = [known]
            while (into := self.merged.get(chain[-1] or "")) and into not in chain:
                chain.append(into)
            there = [each for each in chain if each in self.customers]
            if there:
                return there[-1]
        return None

    def phones_of(self, group: Group) -> set[str]:
        if group.name[0] == "email":
            return set()
        return {lead["phone_key"] for lead in self.members(group.name)} - {None}

    def has_another_psid(self, group: Group, customer: str) -> bool:
        psids = {lead["psid"] for lead in self.leads.values() if lead["customer_id"] == customer}
        psids |= {self.customers[customer]["psid"], None}
        return group.name[0] == "psid" and not psids <= {group.name[1], None}

    def has_another_phone(self, group: Group, customer: str) -> bool:
        phones = self.phones_of(group)
        return bool(phones) and self.customers[customer]["phone_key"] not in (None, *phones)

    # --- rows

    def decided(self, jobs: Iterable[Row]) -> Decided:
        result = Decided()
        for name in self.groups:
            result.group_of |= {lead["id"]: name for lead in self.members(name)}
        for identifier, lead in self.leads.items():
            result.leads[identifier] = told = self.lead_row(lead, result.group_of.get(identifier))
            result.customer_of[identifier] = lead["customer_id"] if told[0] == "skip" else told[2]
        # A link to a customer of ours that is gone leads somewhere again once its own group has it made.
        made = {self.own_id(name) for name, group in self.groups.items() if not (group.conflict or group.customer)}
        strays = ((identifier, self.leads[identifier]["customer_id"]) for identifier in self.strays)
        self.remade = {identifier: customer for identifier, customer in strays if customer in made}
        result.customer_of |= self.remade
        self.customer_rows(result)
        for job in jobs:
            result.jobs[job["id"]] = self.job_row(job, result.customer_of[job["lead_id"]])
        self.count(result)
        return result

    def lead_row(self, lead: Row, name: Name | None) -> tuple[str, str | None, str | None]:
        if name is None:
            foreign = self.strangers.get(lead["customer_id"], False)
            return "conflict", "foreign_customer" if foreign else "dangling_customer", None
        if lead["customer_id"] is not None:
            return "skip", "already_linked", None
        group = self.groups[name]
        if group.conflict:
            return "conflict", group.conflict, None
        return "update", self.reasons.get(lead["id"]), group.customer or self.own_id(name)

    def job_row(self, job: Row, customer: str | None) -> tuple[str, str | None, str | None]:
        if job["customer_id"] is None:
            return ("skip", "lead_without_customer", None) if customer is None else ("update", None, customer)
        same = job["customer_id"] == customer
        return ("skip", "already_linked", None) if same else ("conflict", "job_mismatch", None)

    def customer_rows(self, result: Decided) -> None:
        leads_of: defaultdict[str, list[Row]] = defaultdict(list)
        for name, group in self.groups.items():
            if group.conflict == "split_group" and all(lead["customer_id"] for lead in self.members(name)):
                result.split_groups.add(self.own_id(name))
            if not group.conflict:
                leads_of[group.customer or self.own_id(name)] += self.members(name)
        wanted = {customer: self.wanted_by(customer, leads) for customer, leads in leads_of.items()}
        deprived = self.share_out(wanted, leads_of)
        for name, group in self.groups.items():
            if not group.conflict and group.customer is None:
                identifier = self.own_id(name)
                count = sum(each == identifier for each in result.customer_of.values())
                fields = {**wanted[identifier], "groupType": name[0], "leadCount": count, "multipleLeads": count > 1}
                result.customers[identifier] = ("create", deprived.get(identifier) or group.reason, fields)
        for identifier in leads_of.keys() & self.customers.keys():
            row = self.customers[identifier]
            changed = {column: value for column, value in wanted[identifier].items() if value is not None}
            count = sum(each == identifier for each in result.customer_of.values())
            if row["ours"] and row["lead_count"] != count:
                changed["lead_count"] = count
            if changed:
                result.customers[identifier] = ("update", deprived.get(identifier), changed)

    def wanted_by(self, customer: str, leads: list[Row]) -> dict[str, str | None]:
        """The fields that a customer gets from its leads, the newest first."""
        newest = sorted(leads, key=age, reverse=True)
        names = [name_of(lead) for lead in newest] + [text_of(lead["company_name"]) for lead in newest]
        phones = [self.reader.stored_phone(lead["phone_key"]) for lead in newest if lead["phone_key"]]
        values = {
            "name": names,
            "phone": phones,
            "email": [lead["email_key"] for lead in newest],
            "messenger_psid": [lead["psid"] for lead in newest],
        }
        wanted = {column: next(filter(None, each), None) for column, each in values.items()}
        if customer not in self.customers:
            return wanted
        # Of one that is there only what is empty is filled, and only when it gets a lead.
        gets_one = any(lead["customer_id"] is None for lead in leads)
        row = self.customers[customer]
        return {column: value if gets_one and not text_of(row[column]) else None for column, value in wanted.items()}

    def share_out(self, wanted: dict[str, dict[str, Any]], leads_of: dict[str, list[Row]]) -> dict[str, str]:
        """Leave each phone (address) to one customer; returns why others go without."""
        deprived: dict[str, str] = {}
        for column in ("phone", "email") if self.unique_email else ("phone",):
            stored = self.reader.stored_phone if column == "phone" else str
            held = {row[column] for row in self.customers.values()} | self.held_elsewhere[column]
            held |= {stored(row[f"{column}_key"]) for row in self.customers.values() if row[f"{column}_key"]}
            for value in {fields[column] for fields in wanted.values()} - {None}:
                claimants = {
                    min(
                        age(lead)
                        for lead in leads_of[customer]
                        if lead[f"{column}_key"] and stored(lead[f"{column}_key"]) == value
                    ): customer
                    for customer, fields in wanted.items()
                    if fields[column] == value
                }
                owner = None if value in held else claimants[min(claimants)]
                for customer in claimants.values():
                    if customer != owner:
                        wanted[customer][column] = None
                        deprived[customer] = f"shared_{column}"
        return deprived

    def count(self, result: Decided) -> None:
        settled = [group for group in self.groups.values() if not group.conflict]
        kinds = Counter(kind for kind, _ in self.groups)
        leads = Counter(action for action, *_ in result.leads.values())
        jobs = Counter((action, reason) for action, reason, _ in result.jobs.values())
        result.figures = {
            "groups": {kind: kinds[kind] for kind in ("psid", "phone", "email", "individual")},
            "leads_total": len(self.leads),
            "customers_created": sum(group.customer is None for group in settled),
            "customers_reused": len({group.customer for group in settled} - {None}),
            "leads_linked": leads["update"],
            "leads_already_linked": leads["skip"],
            "jobs_linked": jobs["update", None],
            "jobs_already_linked": jobs["skip", "already_linked"],
        }
