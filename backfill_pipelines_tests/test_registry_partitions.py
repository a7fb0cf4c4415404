"""The registry: partition keys, the sync that only adds, and the clients that the database adds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from backfill_pipelines.errors import ConfigurationError
from backfill_pipelines.registry import (
    DatabaseClient,
    Registry,
    is_partition_key,
    partition_key_for,
    partitions_to_add,
    with_database_clients,
)
from backfill_pipelines_tests.registry_files import SECRET, VALID, load_data


@pytest.fixture
def valid(tmp_path: Path) -> Registry:
    return load_data(tmp_path, VALID)


@given(st.lists(st.text(max_size=3)), st.sets(st.text(max_size=3)))
def test_the_sync_adds_what_is_missing_in_order_and_never_removes(wanted: list[str], existing: set[str]) -> None:
    added = partitions_to_add(wanted, existing)
    assert set(added) == set(wanted) - existing
    assert len(added) == len(set(added))
    assert added == sorted(added, key=wanted.index)
    assert partitions_to_add(wanted, existing | set(added)) == []


@pytest.mark.parametrize(
    ("name", "key"),
    [("Café & Söhne", "cafe-sohne"), ("  A.C.M.E. ", "a-c-m-e"), ("田中商店", ""), ("x" * 62 + " y", "x" * 62)],
)
def test_a_key_is_made_of_a_name(name: str, key: str) -> None:
    assert partition_key_for(name) == key


def row(identifier: str, name: str | None, location: str | None = None, key: str | None = SECRET) -> DatabaseClient:
    return DatabaseClient(
        id=identifier,
        name=name,
        ghl_location_id=location if location is not None else f"location of {identifier!r}",
        ghl_private_key=None if key is None else SecretStr(key),
    )


def test_rows_with_a_location_and_a_key_become_clients(valid: Registry) -> None:
    rows = [
        row("10", "Café Ora"),
        row("9", "Wingtip", "loc-9"),
        row("7", "No location", ""),
        row("8", "No key", key=None),
        row("6", "Blank key", key=" "),
    ]
    merged = with_database_clients(valid, rows)
    assert merged.partition_keys("client")[3:] == ["wingtip", "cafe-ora"]
    wingtip = merged.client("wingtip")
    assert wingtip.leads is not None
    assert wingtip.gohighlevel is not None
    assert wingtip.name.resolve() == "Wingtip"
    assert wingtip.leads.client_id.resolve() == "9"
    assert wingtip.gohighlevel.location_id.resolve() == "loc-9"
    assert wingtip.gohighlevel.token.resolve().get_secret_value() == SECRET
    assert SECRET not in repr(merged) + repr(rows)
    assert valid.partition_keys("client") == ["kim-wallace", "northwind", "tailspin"]
    with pytest.raises(ConfigurationError, match=r"clients\.yaml has no client"):
        merged.client("zzz")


def test_a_client_of_the_registry_wins_over_the_row_of_its_id(valid: Registry) -> None:
    assert with_database_clients(valid, [row("42", "Somebody else", "location-1")]).clients == valid.clients


def test_a_value_of_a_row_is_never_read_as_a_variable(valid: Registry) -> None:
    merged = with_database_clients(valid, [row("1", "${HOME}", key="${HOME}")])
    added = merged.clients[-1]
    assert added.gohighlevel is not None
    assert added.name.resolve() == "${HOME}"
    assert added.gohighlevel.token.resolve().get_secret_value() == "${HOME}"


def test_a_client_of_the_registry_wins_over_the_row_with_its_location_and_has_its_leads(valid: Registry) -> None:
    merged = with_database_clients(
        valid, [row("1", "Contoso", " location-2 ", "theirs"), row("2", "Other", "location-2")]
    )
    assert merged.partition_keys("client") == valid.partition_keys("client")
    tailspin = merged.client("tailspin")
    assert tailspin.leads is not None
    assert tailspin.gohighlevel is not None
    assert tailspin.leads.client_id.resolve() == "1"
    assert tailspin.gohighlevel.token.resolve().get_secret_value() == SECRET


def test_a_client_of_the_registry_without_a_location_has_that_of_the_row_with_its_id() -> None:
    registry = Registry.model_validate(
        {"clients": ({"key": "kim", "name": "Kim", "leads": {"client_id": "42"}}, {"key": "lee", "name": "Lee"})}
    )
    merged = with_database_clients(registry, [row("42", "Kim Wallace", "location-1"), row("43", "Lee", "location-2")])
    assert merged.partition_keys("client", {"gohighlevel", "leads"}) == ["kim", "lee-43"]
    assert merged.client("kim").name.resolve() == "Kim"


@pytest.mark.parametrize(
    ("rows", "sharing"),
    [
        ([row("1", "Contoso", "x"), row("2", "Contoso", " x ")], {"contoso", "contoso-2"}),
        ([row("42", "Kim", "location-2")], {"kim", "lee"}),
        ([row("42", "Kim", "x"), row("43", "Ann", "x")], {"kim", "ann"}),
    ],
)
def test_rows_with_the_location_of_another_client_stop_those_two_and_nobody_else(
    rows: list[DatabaseClient], sharing: set[str]
) -> None:
    registry = Registry.model_validate(
        {
            "clients": (
                {"key": "kim", "name": "Kim", "leads": {"client_id": "42"}},
                {"key": "lee", "name": "Lee", "gohighlevel": {"location_id": "location-2", "token": "t"}},
            )
        }
    )
    merged = with_database_clients(registry, [*rows, row("77", "Adatum", "y")])
    for client in merged.clients:
        if client.key in sharing:
            with pytest.raises(ConfigurationError, match="one GoHighLevel location") as caught:
                merged.require_own_location(client)
            assert (caught.value.code, SECRET in caught.value.message) == ("duplicate_location", False)
        else:
            merged.require_own_location(client)


def test_the_row_with_the_smaller_id_keeps_the_plain_key(valid: Registry) -> None:
    rows = [row("10", "Acme"), row("9", "ACME"), row("2", "Kim Wallace"), row("3", "Adatum"), row("11", "adatum")]
    keys = with_database_clients(valid, rows).partition_keys("client")[3:]
    assert keys == ["kim-wallace-2", "adatum", "acme-9", "acme-10", "adatum-11"]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.text(min_size=1, max_size=6), st.none() | st.sampled_from(["A", "a!", "田中", "x" * 80, "client"])
        ),
        unique_by=lambda pair: pair[0],
        max_size=8,
    ),
    st.randoms(use_true_random=False),
)
def test_keys_are_valid_distinct_and_independent_of_the_order_of_rows(
    pairs: list[tuple[str, str | None]], random: Any
) -> None:
    rows = [row(identifier, name) for identifier, name in pairs]
    keys = with_database_clients(Registry(), rows).partition_keys("client")
    assert len(set(keys)) == len(rows)
    assert all(is_partition_key(key) for key in keys)
    random.shuffle(rows)
    assert with_database_clients(Registry(), rows).partition_keys("client") == keys
