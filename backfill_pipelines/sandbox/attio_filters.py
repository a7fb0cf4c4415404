"""Queries of the fake Attio: the documented filters and sorts, and only those.

Belongs here: what a filter or a sort means, and the vendor's error for every other one. Does not belong here: pages and
limits (attio.py).

Source: the vendor's guide to filtering and sorting, and its pages on the types of attributes. There are no negative
operators ("Attio doesn't offer negative operators"): what is empty is `{"$not": {"slug": {"$not_empty": true}}}`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from backfill_pipelines.sandbox.attio_errors import filter_error, unknown_filter_attribute
from backfill_pipelines.sandbox.attio_state import WorkspaceState
from backfill_pipelines.sandbox.attio_tables import ObjectTable, Record
from backfill_pipelines.sandbox.attio_values import ADDRESS, Attribute, Value, comparable, value_fields

_TEXT = frozenset({"$eq", "$contains", "$starts_with", "$ends_with"})
_ORDERED = frozenset({"$eq", "$lt", "$lte", "$gt", "$gte"})
_ADDRESS_FIELDS = ("email_address", "email_domain", "email_root_domain", "email_local_specifier")
_NAME_FIELDS = ("full_name", "first_name", "last_name")

# Type of attribute -> its fields, the default one first -> the operators they know.
_FIELDS: Mapping[str, Mapping[str, frozenset[str]]] = {
    "text": {"value": _TEXT | {"$in"}},
    "number": {"value": _ORDERED},
    "checkbox": {"value": frozenset({"$eq"})},
    "timestamp": {"value": _ORDERED},
    "email-address": dict.fromkeys(_ADDRESS_FIELDS, _TEXT),
    "domain": dict.fromkeys(("domain", "root_domain"), _TEXT),
    "personal-name": dict.fromkeys(_NAME_FIELDS, _TEXT),
    "record-reference": {"target_record_id": frozenset({"$eq", "$in"}), "target_object": frozenset({"$eq"})},
    "actor-reference": {"referenced_actor_type": frozenset({"$eq"}), "referenced_actor_id": frozenset({"$eq"})},
}
_IN_SHORT = frozenset({"text", "number", "checkbox", "timestamp", "email-address", "domain", "personal-name"})
"""Types that may be compared in short: `{"name": "Ada Lovelace"}`."""
_INDEXED = {("text", "value"), ("email-address", "email_address"), ("domain", "domain")}

_COMPARISONS: Mapping[str, Callable[[Any, Any], bool]] = {
    "$eq": lambda held, given: held == given,
    "$in": lambda held, given: held in given,
    "$contains": lambda held, given: given.lower() in held.lower(),
    "$starts_with": lambda held, given: held.startswith(given),
    "$ends_with": lambda held, given: held.endswith(given),
    "$lt": lambda held, given: held < given,
    "$lte": lambda held, given: held <= given,
    "$gt": lambda held, given: held > given,
    "$gte": lambda held, given: held >= given,
}


class Condition(NamedTuple):
    """A part of a filter, ready to be asked."""

    holds: Callable[[Record], bool]
    parts: int
    """How many comparisons it consists of."""
    among: frozenset[str] | None = None
    """The only ids that can satisfy it, where an index knows them."""
    exactly: bool = False
    """Whether all of those do."""


EVERYTHING = Condition(lambda _record: True, 0)


def read_filter(workspace: WorkspaceState, table: ObjectTable, given: Any) -> Condition:
    """The condition that a request's `filter` states. Raises the vendor's errors."""
    if not isinstance(given, Mapping):
        raise filter_error()
    if "path" in given:
        return _path_condition(workspace, table, given)
    return _all([_entry(workspace, table, name, value) for name, value in given.items()])


def _entry(workspace: WorkspaceState, table: ObjectTable, name: str, value: Any) -> Condition:
    if name in ("$and", "$or"):
        if not isinstance(value, list) or not value:
            raise filter_error()
        parts = [read_filter(workspace, table, each) for each in value]
        return _all(parts) if name == "$and" else _any(parts)
    if name == "$not":
        inner = read_filter(workspace, table, value)
        return Condition(lambda record: not inner.holds(record), inner.parts)
    attribute = table.usable(name)
    if attribute is None:
        raise filter_error() if name.startswith("$") else unknown_filter_attribute(name)
    test, wanted = _constraints(workspace, attribute, value)
    condition = Condition(lambda record: test(table.active(record, attribute.slug)), 1)
    if wanted is None:
        return condition
    return condition._replace(
        parts=len(wanted),
        among=frozenset(each for content in wanted for each in table.holders(attribute.slug, content)),
        exactly=all(comparable(attribute.type, content) == content for content in wanted),
    )


def _path_condition(workspace: WorkspaceState, table: ObjectTable, given: Mapping[str, Any]) -> Condition:
    """`{"path": [["people", "company"], ["companies", "domains"]], "constraints": {...}}`."""
    if given.keys() != {"path", "constraints"}:
        raise filter_error()
    steps = _steps(workspace, table, given["path"])
    test, _ = _constraints(workspace, steps[-1][1], given["constraints"])
    return Condition(lambda record: test(_values_at(workspace, steps, record)), len(steps))


def _steps(workspace: WorkspaceState, table: ObjectTable, path: Any) -> list[tuple[ObjectTable, Attribute]]:
    if not isinstance(path, list) or not path:
        raise filter_error()
    steps = []
    for step in path:
        if not isinstance(step, list) or len(step) != 2 or step[0] not in workspace.tables:  # noqa: PLR2004
            raise filter_error()
        at = workspace.tables[step[0]]
        attribute = at.usable(step[1])
        if attribute is None:
            raise unknown_filter_attribute(str(step[1]))
        steps.append((at, attribute))
    if steps[0][0] is not table or any(attribute.type != "record-reference" for _, attribute in steps[:-1]):
        raise filter_error()
    return steps


def _values_at(
    workspace: WorkspaceState, steps: Sequence[tuple[ObjectTable, Attribute]], record: Record
) -> Sequence[Value]:
    records: list[tuple[ObjectTable, Record]] = [(steps[0][0], record)]
    for _, attribute in steps[:-1]:
        references = [value.content for at, each in records for value in at.active(each, attribute.slug)]
        tables = [(workspace.tables[str(each[0])], str(each[1])) for each in references if isinstance(each, tuple)]
        records = [(at, at.records[record_id]) for at, record_id in tables]
    return [value for at, each in records for value in at.active(each, steps[-1][1].slug)]


_Test = Callable[[Sequence[Value]], bool]


def _constraints(workspace: WorkspaceState, attribute: Attribute, given: Any) -> tuple[_Test, list[Any] | None]:
    """A test of an attribute's values; and the values of which one must be there, where that is all it asks for."""
    comparisons = _comparisons(attribute, given)
    tests = [
        _not_empty(workspace, attribute, operand)
        if operator == "$not_empty"
        else _comparison(attribute, field, operator, operand)
        for field, operator, operand in comparisons
    ]
    if workspace.questions.refuses_malformed_addresses and any(
        field == "email_address" and operator == "$eq" and not ADDRESS.fullmatch(operand)
        for field, operator, operand in comparisons
    ):
        raise filter_error()
    exact: list[Any] | None = None
    field, operator, operand = comparisons[0]
    if len(comparisons) == 1 and (attribute.type, field) in _INDEXED and operator in ("$eq", "$in"):
        exact = list(operand) if operator == "$in" else [operand]
    return (lambda values: all(test(values) for test in tests)), exact


def _comparisons(attribute: Attribute, given: Any) -> list[tuple[str, str, Any]]:
    """Field, operator and operand of each comparison, however short it is written."""
    fields = _FIELDS.get(attribute.type, {})
    default = next(iter(fields), "")
    if not isinstance(given, Mapping):
        if attribute.type not in _IN_SHORT:
            raise filter_error()
        given = {default: {"$eq": given}}
    elif all(name.startswith("$") for name in given):
        given = {default: given}
    stated = [
        (field, operator, operand)
        for field, operators in given.items()
        for operator, operand in (operators if isinstance(operators, Mapping) else {"$eq": operators}).items()
    ]
    known = all(
        field in fields and (operator == "$not_empty" or operator in fields[field]) for field, operator, _ in stated
    )
    if not stated or not known:
        raise filter_error()
    return stated


def _not_empty(workspace: WorkspaceState, attribute: Attribute, operand: Any) -> _Test:
    if operand is not True:  # the guide has no example of anything else
        raise filter_error()
    if attribute.type == "text" and not attribute.system:
        answer = workspace.questions.not_empty_on_text
        if answer == "refused":
            raise filter_error()
        if answer == "ignored":
            return lambda _values: True
    return lambda values: len(values) > 0


def _comparison(attribute: Attribute, field: str, operator: str, operand: Any) -> _Test:
    if operator == "$in":
        if not isinstance(operand, list) or not all(isinstance(each, str) for each in operand):
            raise filter_error()
    elif not isinstance(operand, int | float if attribute.type == "number" else str | bool):
        raise filter_error()
    compare = _COMPARISONS[operator]

    def test(values: Sequence[Value]) -> bool:
        held = (value_fields(attribute.type, value.content)[field] for value in values)
        return any(each is not None and compare(each, operand) for each in held)

    return test


def _all(parts: Sequence[Condition]) -> Condition:
    known = [part.among for part in parts if part.among is not None]
    return Condition(
        lambda record: all(part.holds(record) for part in parts),
        sum(part.parts for part in parts),
        frozenset.intersection(*known) if known else None,
        exactly=all(part.exactly for part in parts),
    )


def _any(parts: Sequence[Condition]) -> Condition:
    known = [part.among for part in parts if part.among is not None]
    return Condition(
        lambda record: any(part.holds(record) for part in parts),
        sum(part.parts for part in parts),
        frozenset.union(*known) if len(known) == len(parts) else None,
        exactly=all(part.exactly for part in parts),
    )


def select(workspace: WorkspaceState, table: ObjectTable, condition: Condition, sorts: Sequence[Any]) -> list[Record]:
    """The records that satisfy a condition, sorted.

    Without a sort, and where a sort leaves it open, the order is one that nobody can rely on: the vendor states none.
    """
    records: Iterable[Record] = table.records.values()
    if condition.among is not None:
        records = (table.records[each] for each in condition.among if each in table.records)
    if not condition.exactly:
        records = filter(condition.holds, records)
    chosen = sorted(records, key=lambda record: record.id)
    for given in reversed(sorts):
        key, descending = _sort_key(workspace, table, given)
        # Those without a value come last in both directions.
        keyed = [(key(record), record) for record in chosen]
        empty = [record for value, record in keyed if value is None]
        full = [(value, record) for value, record in keyed if value is not None]
        full.sort(key=lambda pair: pair[0], reverse=descending)
        chosen = [record for _, record in full] + empty
    return chosen


def _sort_key(workspace: WorkspaceState, table: ObjectTable, given: Any) -> tuple[Callable[[Record], Any], bool]:
    if not isinstance(given, Mapping) or given.get("direction") not in ("asc", "desc"):
        raise filter_error("Error in sorts.")
    if given.keys() <= {"direction", "attribute", "field"} and isinstance(given.get("attribute"), str):
        attribute = table.usable(given["attribute"])
        if attribute is None:
            raise unknown_filter_attribute(given["attribute"])
        steps = [(table, attribute)]
    elif given.keys() <= {"direction", "path", "field"} and "path" in given:
        steps = _steps(workspace, table, given["path"])
    else:
        raise filter_error("Error in sorts.")
    last = steps[-1][1]
    fields = _FIELDS.get(last.type, {})
    field = given.get("field", next(iter(fields), ""))
    if field not in fields:
        raise filter_error("Error in sorts.")
    descending = given["direction"] == "desc"
    if len(steps) == 1 and last.slug == "created_at":
        return (lambda record: record.created_at), descending

    def key(record: Record) -> Any:
        values = _values_at(workspace, steps, record)
        return comparable(last.type, value_fields(last.type, values[0].content)[field]) if values else None

    return key, descending


__all__ = ["EVERYTHING", "Condition", "read_filter", "select"]
