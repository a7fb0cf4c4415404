"""The registry: what a valid file means, and one clear sentence without a secret for every invalid one.

The file is what a newcomer writes first, so its mistakes are tested as they are made: by hand, and by mutation.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar
from zoneinfo import ZoneInfo

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from backfill_pipelines.errors import ConfigurationError
from backfill_pipelines.registry import (
    BackfillSettings,
    Client,
    ClientLeadsSettings,
    DatabaseClient,
    EmailBisonAccess,
    Registry,
    is_partition_key,
    load_registry,
    partition_key_for,
    partitions_to_add,
    registry_path,
    with_database_clients,
)
from backfill_pipelines.registry.source import parse_document

EXAMPLE = Path(__file__).parent.parent / "docs" / "clients.example.yaml"
SECRET = "sk_live_PLANTED9canary"

VALID: dict[str, Any] = {
    "defaults": {
        "phone_region": "US",
        "timezone": "America/Los_Angeles",
        "max_parallel_clients": 6,
        "retention_days": 30,
        "client_leads": {"store_skips": True},
        "customers": {"phone_format": "e164", "blocked": {"emails": ["info@example.com"]}},
    },
    "email_bison": {
        "main": {"base_url": "https://Dedi.Example.com/api/", "admin_token": SECRET, "requests_per_minute": 600},
        "second": {"base_url": "http://127.0.0.1:8900/second"},
    },
    "clients": [
        {
            "key": "kim-wallace",
            "name": "Kim Wallace",
            "email_bison": {"instance": "main", "workspace_id": 17, "token": SECRET},
            "gohighlevel": {"location_id": "location-1", "token": SECRET},
            "leads": {"client_id": "42"},
            "phone_region": "GB",
            "timezone": "Europe/London",
            "client_leads": {"store_skips": False},
        },
        {"key": "northwind", "name": "Northwind", "email_bison": {"instance": "second", "workspace_id": 17}},
        {"key": "tailspin", "name": "Tailspin", "gohighlevel": {"location_id": "location-2", "token": SECRET}},
    ],
    "clients_from_database": True,
    "workspaces": [
        {
            "key": "acme",
            "clerk": {"secret_key": SECRET},
            "attio": {"api_key": SECRET},
            "convex": {"url": "https://acme.example.com", "deploy_key": SECRET, "table": "people"},
            "attio_company_orgs": {"min_members": 2},
        }
    ],
    "vendors": {"clerk": {"base_url": "https://clerk.example.com/v1"}},
    "tables": {"Lead": {"name": "leads", "schema": "crm", "columns": {"ghl_contact_id": "ghlContactId"}}},
}
REQUIRED = [
    ("email_bison", "main", "base_url"),
    *((("clients", 0, key)) for key in ("key", "name")),
    ("clients", 0, "email_bison", "instance"),
    ("clients", 0, "email_bison", "workspace_id"),
    ("clients", 0, "gohighlevel", "location_id"),
    ("clients", 0, "gohighlevel", "token"),
    ("clients", 0, "leads", "client_id"),
    ("workspaces", 0, "key"),
    ("workspaces", 0, "clerk", "secret_key"),
    ("workspaces", 0, "attio", "api_key"),
    ("workspaces", 0, "convex", "url"),
    ("workspaces", 0, "convex", "deploy_key"),
    ("vendors", "clerk", "base_url"),
]
# Settings of backfills that have no model yet. (Under `email_bison` the keys are the user's own.)
FREE_SETTINGS = {("defaults", "customers"), ("workspaces", 0, "attio_company_orgs")}


def write(folder: Path, text: str) -> Path:
    path = folder / "clients.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def load(folder: Path, text: str, **environ: str) -> Registry:
    return load_registry(write(folder, text), environ=environ)


def load_data(folder: Path, data: Any, **environ: str) -> Registry:
    return load(folder, yaml.safe_dump(data, sort_keys=False), **environ)


def complaint(path: Path) -> str:
    """What the file is refused with; empty where it is not. Any other exception is the test's failure."""
    try:
        load_registry(path, environ={})
    except ConfigurationError as error:
        return f"{error.code}: {error}"
    return ""


def mistake(folder: Path, text: str) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        load(folder, text)
    return caught.value


@pytest.fixture(scope="session")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("registry")


@pytest.fixture
def valid(tmp_path: Path) -> Registry:
    return load_data(tmp_path, VALID)


# --- what a valid file means ------------------------------------------------------------------------------------------


def test_every_section_can_be_looked_up(valid: Registry) -> None:
    kim = valid.client("kim-wallace")
    assert kim.email_bison is not None
    assert kim.email_bison.token is not None
    assert kim.gohighlevel is not None
    assert kim.leads is not None
    assert kim.name.resolve() == "Kim Wallace"
    assert kim.email_bison.workspace_id == 17
    assert kim.email_bison.token.resolve().get_secret_value() == SECRET
    assert kim.gohighlevel.location_id.resolve() == "location-1"
    assert kim.leads.client_id.resolve() == "42"
    assert valid.bison_instance(kim).base_url.resolve() == "https://dedi.example.com/api"
    assert valid.bison_instance(kim).host == "dedi.example.com"
    assert valid.bison_instance(valid.client("northwind")).host == "127.0.0.1:8900"
    assert valid.phone_region(kim) == "GB"
    assert valid.phone_region(valid.client("northwind")) == "US"
    assert valid.timezone(kim) == ZoneInfo("Europe/London")
    assert valid.timezone() == ZoneInfo("America/Los_Angeles")
    assert valid.defaults.max_parallel_clients == 6
    assert valid.clients_from_database is True
    assert valid.vendor_base_url("clerk") == "https://clerk.example.com/v1"
    assert valid.vendor_base_url("attio") is None
    convex = valid.workspace("acme").convex
    assert convex is not None
    assert (convex.table.resolve(), convex.index.resolve()) == ("people", "by_clerkId")


def test_an_empty_registry_has_defaults(tmp_path: Path) -> None:
    registry = load(tmp_path, "defaults:\nclients:\n")
    assert registry.clients == ()
    assert registry.defaults.max_parallel_clients == 24
    assert registry.defaults.retention_days == 90
    assert registry.timezone() == ZoneInfo("UTC")
    assert registry.table("Lead").name == "Lead"


def test_tables_are_remapped_by_logical_names(valid: Registry) -> None:
    lead = valid.table("Lead")
    assert (lead.schema, lead.name) == ("crm", "leads")
    assert lead.columns("id", "ghl_contact_id") == {"id": "id", "ghl_contact_id": "ghlContactId"}
    assert valid.table("client_leads").column("lead_email") == "lead_email"
    with pytest.raises(ValueError, match="no logical column"):
        lead.column("nickname")
    with pytest.raises(ValueError, match="unknown logical table"):
        valid.table("Leads")


def test_partition_keys_are_those_that_have_the_sections_in_file_order(valid: Registry) -> None:
    assert valid.partition_keys("client") == ["kim-wallace", "northwind", "tailspin"]
    assert valid.partition_keys("client", "email_bison") == ["kim-wallace", "northwind"]
    assert valid.partition_keys("client", "gohighlevel") == ["kim-wallace", "tailspin"]
    assert valid.partition_keys("client", ("gohighlevel", "leads")) == ["kim-wallace"]
    assert valid.partition_keys("workspace", uses="convex") == ["acme"]
    with pytest.raises(ValueError, match="no section"):
        valid.partition_keys("client", "convex")


def test_the_shipped_example_and_unquoted_variables_in_braces_are_valid(tmp_path: Path) -> None:
    example = load_registry(EXAMPLE, environ={"BISON_TOKEN_KIM_WALLACE": SECRET})
    kim = example.client("kim-wallace")
    assert kim.email_bison is not None
    assert kim.email_bison.token is not None
    assert kim.email_bison.token.resolve().get_secret_value() == SECRET
    assert all(section in EXAMPLE.read_text() for section in Registry.model_fields)
    document = parse_document(b'{a: ${ONE}, b: ["x${TWO}y", ${THREE}]}  # ${FOUR}', file="f")
    assert document.data == {"a": "${ONE}", "b": ("x${TWO}y", "${THREE}")}


def test_words_that_older_yaml_takes_for_booleans_and_numbers_are_words(tmp_path: Path) -> None:
    registry = load(
        tmp_path, "defaults: {phone_region: NO}\nclients: [{key: on, name: 2024-01-02}, {key: y, name: 1:30}]"
    )
    assert registry.phone_region(registry.client("on")) == "NO"
    assert [client.name.resolve() for client in registry.clients] == ["2024-01-02", "1:3"]


def test_aliases_stand_for_what_they_name(tmp_path: Path) -> None:
    text = "email_bison: {main: &it {base_url: https://a.example.com}, second: *it}"
    assert load(tmp_path, text).email_bison["second"].host == "a.example.com"


def test_a_registry_cannot_be_changed(valid: Registry) -> None:
    with pytest.raises(ValueError, match="frozen"):
        valid.client("kim-wallace").key = "other"  # type: ignore[misc]
    with pytest.raises(TypeError):
        valid.email_bison["third"] = valid.email_bison["main"]


# --- settings of backfills --------------------------------------------------------------------------------------------


class CustomersSettings(BackfillSettings):
    section: ClassVar[str] = "customers"
    phone_format: str = "digits"
    max_group_size: int = 100


def test_what_the_entry_sets_wins_over_the_defaults(valid: Registry) -> None:
    assert valid.settings(ClientLeadsSettings, valid.client("kim-wallace")).store_skips is False
    assert valid.settings(ClientLeadsSettings, valid.client("northwind")).store_skips is True
    assert valid.store_skips("client_leads", "kim-wallace") is False
    assert valid.store_skips("client_leads", "northwind") is True
    assert valid.store_skips("lead_hydration", "northwind") is False
    assert valid.store_skips("no_such_backfill", "nobody") is False


def test_layers_merge_key_by_key(tmp_path: Path) -> None:
    registry = load(
        tmp_path,
        "defaults: {customers: {phone_format: e164, max_group_size: 5}}\n"
        "clients: [{key: a, name: A, customers: {max_group_size: 7}}]",
    )
    merged = registry.settings(CustomersSettings, registry.client("a"))
    assert (merged.phone_format, merged.max_group_size) == ("e164", 7)


def test_a_registered_model_checks_its_sections_when_the_file_is_read(tmp_path: Path) -> None:
    text = "clients:\n- key: a\n  name: A\n  customers:\n    max_grup_size: 7\n"
    load(tmp_path, text)
    models = {"customers": CustomersSettings}
    with pytest.raises(
        ConfigurationError, match=r"line 5: customers of client a .*did you mean max_group_size\?"
    ) as caught:
        load_registry(write(tmp_path, text), environ={}, settings_models=models)
    assert caught.value.code == "unknown_key"


def test_a_section_without_a_registered_model_is_checked_when_it_is_used(tmp_path: Path) -> None:
    registry = load(tmp_path, "clients:\n- key: a\n  name: A\n  customers:\n    max_group_size: many\n")
    with pytest.raises(
        ConfigurationError, match=r"line 5: customers\.max_group_size of client a must be a whole number"
    ):
        registry.settings(CustomersSettings, registry.client("a"))


def test_settings_read_variables_when_they_are_used(tmp_path: Path) -> None:
    environ: dict[str, str] = {}
    path = write(tmp_path, "clients: [{key: a, name: A, customers: {phone_format: '${FORMAT}', max_group_size: 3}}]")
    registry = load_registry(path, environ=environ, settings_models={"customers": CustomersSettings})
    with pytest.raises(ConfigurationError, match=r"Client a: environment variable FORMAT .*customers\.phone_format"):
        registry.settings(CustomersSettings, registry.client("a"))
    environ["FORMAT"] = "e164"
    assert registry.settings(CustomersSettings, registry.client("a")).phone_format == "e164"


# --- variables --------------------------------------------------------------------------------------------------------

VARIABLES = """
email_bison:
  main: {base_url: "https://${BISON_HOST}/api", admin_token: ${ADMIN}}
clients:
  - {key: a, name: "${NAME} Ltd", email_bison: {instance: main, workspace_id: 1, token: ${TOKEN}}}
  - {key: b, name: B, email_bison: {instance: main, workspace_id: 2, token: "pre-$${x}-${OTHER}"}}
"""


def test_a_variable_is_read_when_its_value_is_used_and_not_before(tmp_path: Path) -> None:
    environ: dict[str, str] = {}
    registry = load_registry(write(tmp_path, VARIABLES), environ=environ)
    b = registry.client("b").email_bison
    assert b is not None
    assert b.token is not None
    environ.update(OTHER=" one \n", NAME="Ada")
    assert b.token.resolve().get_secret_value() == "pre-${x}-one"
    assert registry.client("a").name.resolve() == "Ada Ltd"
    environ["OTHER"] = "two"
    assert b.token.resolve().get_secret_value() == "pre-${x}-two"


@pytest.mark.parametrize("value", [None, "", "  \n"])
def test_an_unset_variable_names_the_client_the_variable_and_the_line(tmp_path: Path, value: str | None) -> None:
    registry = load_registry(write(tmp_path, VARIABLES), environ={} if value is None else {"TOKEN": value})
    client = registry.client("a").email_bison
    assert client is not None
    assert client.token is not None
    with pytest.raises(ConfigurationError) as caught:
        client.token.resolve()
    assert caught.value.code == "missing_variable"
    assert str(caught.value) == (
        "Client a: environment variable TOKEN is not set; set it, or change email_bison.token in "
        f"{tmp_path / 'clients.yaml'}, line 5."
    )


def test_an_unset_variable_of_an_instance_names_the_client_that_needs_it(tmp_path: Path) -> None:
    registry = load(tmp_path, VARIABLES)
    instance = registry.bison_instance(registry.client("b"))
    assert instance.admin_token is not None
    with pytest.raises(ConfigurationError, match=r"^Client b: environment variable BISON_HOST .*main\.base_url"):
        _ = instance.host
    with pytest.raises(ConfigurationError, match=r"^Client b: environment variable ADMIN "):
        instance.admin_token.resolve()


def test_a_value_from_the_environment_is_checked_like_one_of_the_file(tmp_path: Path) -> None:
    registry = load(tmp_path, 'email_bison: {main: {base_url: "${URL}"}}\ndefaults: {timezone: "${ZONE}"}', URL=SECRET)
    with pytest.raises(ConfigurationError, match=r"Email Bison instance main .*must be an address") as caught:
        registry.email_bison["main"].base_url.resolve()
    assert SECRET not in str(caught.value)
    with pytest.raises(ConfigurationError, match="environment variable ZONE is not set"):
        registry.timezone()


def test_a_value_from_the_environment_is_no_template_itself(tmp_path: Path) -> None:
    registry = load(tmp_path, VARIABLES, NAME="${TOKEN}", TOKEN=SECRET)
    assert registry.client("a").name.resolve() == "${TOKEN} Ltd"


# --- mistakes ---------------------------------------------------------------------------------------------------------


def client(text: str) -> str:
    instances = "email_bison: {main: {base_url: https://a.example.com}, second: {base_url: https://b.example.com}}\n"
    return f"{instances}clients:\n- {{key: a, name: A, {text}}}\n"


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ("", "registry_invalid", "line 1: the file is empty"),
        ("# nothing\n", "registry_invalid", "the file is empty"),
        ("clients:\n  - key: a\n name: b", "registry_invalid", "line 3: this is not valid YAML"),
        ("clients:\n\t- key: a", "registry_invalid", "line 2: this is not valid YAML"),
        ("a: b\n---\nc: d", "registry_invalid", "line 2: this is not valid YAML"),
        ("a: *b", "registry_invalid", "line 1: this is not valid YAML"),
        ("a: \x07", "registry_invalid", "line 1: a control character"),
        ("a: \ue000", "registry_invalid", r"characters U\+E000"),
        ("[" * 5_000, "registry_invalid", "nested too deeply"),
        ("[" * 60 + "]" * 60, "registry_invalid", "nested too deeply"),
        ("a: &a [*a]", "registry_invalid", "nested too deeply"),
        ("a: !!python/object:os.system x", "registry_invalid", "line 1: a YAML tag"),
        ("a: !!int abc", "registry_invalid", "does not fit its YAML tag"),
        ("1: a", "registry_invalid", "a key here is not text"),
        ("? [a]\n: b", "registry_invalid", "a key here is not text"),
        ("- a", "registry_invalid", "line 1: the file must be a mapping"),
        ("clients: {a: b}", "registry_invalid", "line 1: clients must be a list"),
        ("clients:\n- a\n", "registry_invalid", "line 2: entry 1 of clients must be a mapping"),
        ("client: []", "unknown_key", "line 1: the file has an unknown key, client; did you mean clients?"),
        (client("emailbison: {}"), "unknown_key", r"line 3: client a has an unknown key, .*did you mean email_bison\?"),
        (client("slack: {}"), "unknown_key", "unknown key, slack; known are key, name, email_bison"),
        (client("attio_people: {}"), "unknown_key", "client a has an unknown key, attio_people"),
        (client("leads: {clientId: x}"), "unknown_key", r"leads of client a .*clientId; did you mean client_id\?"),
        ("vendors: {clark: {}}", "unknown_vendor", r"unknown vendor, clark; did you mean clerk\?"),
        ("vendors: {hubspot: {}}", "unknown_vendor", "known are clerk, attio, gohighlevel"),
        ("tables: {Leed: {}}", "unknown_key", r"unknown table, Leed; did you mean Lead\?"),
        (
            "tables:\n  Lead:\n    columns:\n      fone: x",
            "unknown_key",
            r"line 4: tables\.Lead\.columns .*mean phone\?",
        ),
        ("clients:\n- name: A", "missing_key", "line 2: entry 1 of clients has no key; add that key"),
        ("clients:\n- key: a\n  name:", "missing_key", "line 3: client a has no name"),
        (client("gohighlevel: {location_id: x}"), "missing_key", "line 3: gohighlevel of client a has no token"),
        ("clients:\n- {key: 'Kim,Wallace', name: A}", "invalid_key", "line 2: key of .* such as kim-wallace"),
        ("clients:\n- {key: Kim, name: A}", "invalid_key", "small letters a-z, digits and hyphens, such as kim"),
        (f"clients: [{{key: {'k' * 64}, name: A}}]", "invalid_key", "1 to 63"),
        ("workspaces: [{key: 'a b'}]", "invalid_key", "such as a-b"),
        ("clients:\n- {key: a, name: A}\n- {key: a, name: B}", "duplicate_key", "line 3: .* the entry on line 2"),
        ("clients:\n- {key: a, name: A}\nworkspaces:\n- {key: a}", "duplicate_key", "line 4: key of workspace a"),
        ("clients: []\nclients: []", "duplicate_key", "line 2: the key clients .* first on line 1"),
        ("clients:\n- key: a\n  name: A\n  key: b", "duplicate_key", "line 4: the key key .* first on line 2"),
        (client("email_bison: {instance: secnd, workspace_id: 1}"), "unknown_instance", r"did you mean second\?"),
        (client("email_bison: {instance: zzz, workspace_id: 1}"), "unknown_instance", "known are main, second"),
        (client("email_bison: {instance: main, workspace_id: 0}"), "registry_invalid", "must be above 0"),
        (client("email_bison: {instance: main, workspace_id: '1'}"), "registry_invalid", "must be a whole number"),
        (client("email_bison: {instance: main, workspace_id: true}"), "registry_invalid", "must be a whole number"),
        (client("leads: {client_id: 42}"), "registry_invalid", "line 3: leads.client_id of client a must be text; put"),
        ("clients: [{key: a, name: ' '}]", "registry_invalid", "name of client a must not be empty"),
        ("clients_from_database: yes", "registry_invalid", "clients_from_database must be true or false"),
        ("defaults: {phone_region: us}", "registry_invalid", r"capital letters; did you mean US\?"),
        ("defaults: {phone_region: XX}", "registry_invalid", "capital letters, such as US"),
        ("defaults: {timezone: Europe/Londn}", "registry_invalid", r"did you mean Europe/London\?"),
        ("defaults: {timezone: America}", "registry_invalid", "must be a time zone"),
        ("defaults: {timezone: ../../../etc/hosts}", "registry_invalid", "must be a time zone"),
        ("defaults: {max_parallel_clients: 0}", "registry_invalid", "must be above 0"),
        ("defaults: {client_leads: {store_skips: 1}}", "registry_invalid", "store_skips must be true or false"),
        ("defaults: {customers: {store_skips: 1}}", "registry_invalid", "store_skips must be true or false"),
        ("defaults: {client_leads: {storeskips: true}}", "unknown_key", r"did you mean store_skips\?"),
        ("defaults: {client_leads: 1}", "registry_invalid", "defaults.client_leads must be a mapping"),
        ("defaults: {customers: {x: ['${A-B}']}}", "registry_invalid", "name of an environment variable"),
        ("clients: [{key: a, name: '${A:-x}'}]", "registry_invalid", "name of an environment variable"),
        ("clients: [{key: a, name: '${A'}]", "registry_invalid", "name of an environment variable"),
        (
            "email_bison: {main: {base_url: ftp://a.example.com}}",
            "registry_invalid",
            "main.base_url must be an address",
        ),
        ("email_bison: {main: {base_url: 'https://a:99999'}}", "registry_invalid", "must be an address"),
        ("email_bison: {main: {base_url: 'https:///api'}}", "registry_invalid", "must be an address"),
        ("email_bison: {main: {base_url: 'https://u:p@a.example.com'}}", "registry_invalid", "neither a user name"),
        ("email_bison: {main: {base_url: 'https://a.example.com?k=v'}}", "registry_invalid", "nor a query"),
    ],
)
def test_a_mistake_is_one_sentence_with_file_line_and_key(tmp_path: Path, text: str, code: str, words: str) -> None:
    error = mistake(tmp_path, text)
    assert error.code == code
    assert error.message.startswith(f"{tmp_path / 'clients.yaml'}, line ") or "environment variable" in words
    assert "\n" not in error.message
    with pytest.raises(ConfigurationError, match=words):
        raise error


def test_two_clients_cannot_share_a_workspace_of_an_instance(tmp_path: Path) -> None:
    text = """
email_bison: {main: {base_url: https://a.example.com/api}, same: {base_url: "https://A.example.com/api/"}}
clients:
- {key: a, name: A, email_bison: {instance: main, workspace_id: 1}}
- {key: b, name: B, email_bison: {instance: same, workspace_id: %s}}
"""
    error = mistake(tmp_path, text % 1)
    assert error.code == "duplicate_workspace"
    assert "line 5: email_bison.workspace_id of client b is the Email Bison workspace of client a too" in error.message
    assert len(load(tmp_path, text % 2).clients) == 2


@pytest.mark.parametrize("second", ["${LOCATION}", "here", "' here '"])
def test_two_clients_cannot_share_a_location(tmp_path: Path, second: str) -> None:
    text = f"""
clients:
- {{key: a, name: A, gohighlevel: {{location_id: "${{LOCATION}}", token: x}}}}
- {{key: b, name: B, gohighlevel: {{location_id: {second}, token: x}}}}
"""
    with pytest.raises(ConfigurationError, match="location of client a too") as caught:
        load(tmp_path, text, LOCATION="here")
    assert caught.value.code == "duplicate_location"


@pytest.mark.parametrize(
    "text",
    [
        client(f"email_bison: {{instance: main, workspace_id: 1, token:{SECRET}}}"),
        client(f"email_bison: {{instance: main, workspace_id: 1, token, {SECRET}}}"),
        client(f"email_bison: {{instance: main, workspace_id: 1, {SECRET}: token}}"),
        client(f"gohighlevel: {SECRET}"),
        client(f"gohighlevel: {{location_id: x, token: [{SECRET}]}}"),
        client(f"gohighlevel: {{location_id: x, token: {{{SECRET}: 1}}}}"),
        f"email_bison: {{main: {{base_url: https://a.example.com}}, {SECRET}}}",
        f"email_bison: {{main: {{base_url: https://a.example.com/{SECRET}?x}}}}",
        f"email_bison: {{main: {{base_url: {SECRET}}}}}",
        f"defaults: {{phone_region: {SECRET}, timezone: {SECRET}}}",
        f"token: *{SECRET}",
        f"token: !{SECRET} x",
        f"token: '{SECRET}",
        f"token: !!int {SECRET}",
        f"{SECRET}: 1\n{SECRET}: 2",
        SECRET,
        f"clients: [{{key: a, name: A, gohighlevel: {{location_id: x, token: '{SECRET}${{'}}}}]",
    ],
)
def test_a_token_that_went_astray_is_not_shown(tmp_path: Path, text: str) -> None:
    assert SECRET not in mistake(tmp_path, text).message


def test_no_repr_shows_a_secret(valid: Registry) -> None:
    kim = valid.client("kim-wallace")
    settings_layer = valid.defaults.customers
    dumps = (repr(valid.model_dump()), valid.model_dump_json())
    for shown in (repr(valid), str(valid), repr(kim.gohighlevel), repr(settings_layer), *dumps):
        assert SECRET not in shown
        assert "info@example.com" not in shown
    assert kim.gohighlevel is not None
    assert SECRET not in repr(kim.gohighlevel.token.resolve())


def _strict_mappings(data: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    if path in FREE_SETTINGS:
        return
    if isinstance(data, dict) and path != ("email_bison",):
        yield path
    for key, value in data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ():
        yield from _strict_mappings(value, (*path, key))


def _at(data: Any, path: tuple[str | int, ...]) -> Any:
    for step in path:
        data = data[step]
    return data


_STRICT_MAPPINGS = sorted(_strict_mappings(VALID), key=str)
_ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just(SECRET),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)


def _copy() -> Any:
    return json.loads(json.dumps(VALID))


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(_STRICT_MAPPINGS),
    st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ue000\ue001\ue002"), max_size=12),
    _ANYTHING,
)
def test_one_unknown_key_anywhere_is_a_configuration_error(
    scratch: Path, path: tuple[str | int, ...], name: str, value: Any
) -> None:
    data = _copy()
    _at(data, path)[f"{name}~"] = value
    with pytest.raises(ConfigurationError) as caught:
        load_data(scratch, data)
    assert SECRET not in str(caught.value)
    assert "line " in str(caught.value)


@pytest.mark.parametrize("path", REQUIRED, ids=str)
def test_one_required_key_less_is_a_configuration_error(tmp_path: Path, path: tuple[str | int, ...]) -> None:
    data = _copy()
    del _at(data, path[:-1])[path[-1]]
    error = mistake(tmp_path, yaml.safe_dump(data, sort_keys=False))
    assert error.code == "missing_key"
    assert f"has no {path[-1]}; add that key" in error.message
    assert SECRET not in error.message


@settings(max_examples=150, deadline=None)
@given(st.sampled_from([path for path in _STRICT_MAPPINGS if path]), st.data())
def test_a_value_of_another_type_never_breaks_anything_else(
    scratch: Path, path: tuple[str | int, ...], draw: st.DataObject
) -> None:
    data = _copy()
    key = draw.draw(st.sampled_from(sorted(_at(data, path))))
    _at(data, path)[key] = draw.draw(_ANYTHING)
    assert SECRET not in complaint(write(scratch, yaml.safe_dump(data, sort_keys=False)))


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10_000), st.text(max_size=2), st.integers(0, 2))
def test_a_slip_of_the_hand_never_raises_anything_else(scratch: Path, position: int, typed: str, deleted: int) -> None:
    text = yaml.safe_dump(VALID, sort_keys=False)
    position %= len(text)
    slipped = text[:position] + typed + text[position + deleted :]
    path = scratch / "clients.yaml"
    path.write_bytes(slipped.encode("utf-8", "surrogatepass"))
    assert SECRET not in complaint(path)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=40))
def test_any_bytes_are_a_registry_or_a_configuration_error(scratch: Path, content: bytes) -> None:
    path = scratch / "clients.yaml"
    path.write_bytes(content)
    assert "\n" not in complaint(path)


# --- the file and look-ups --------------------------------------------------------------------------------------------


def test_the_file_is_named_by_a_variable_or_stands_in_the_current_folder(tmp_path: Path) -> None:
    assert registry_path({}, tmp_path) == tmp_path / "clients.yaml"
    assert registry_path({"BACKFILL_CLIENTS": "  "}, tmp_path) == tmp_path / "clients.yaml"
    assert registry_path({"BACKFILL_CLIENTS": "agency/a.yaml\n"}, tmp_path) == tmp_path / "agency" / "a.yaml"
    assert registry_path({"BACKFILL_CLIENTS": "/etc/a.yaml"}, tmp_path) == Path("/etc/a.yaml")


def test_a_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"copy docs/clients\.example\.yaml .* BACKFILL_CLIENTS") as caught:
        load_registry(tmp_path / "clients.yaml", environ={})
    assert caught.value.code == "registry_missing"


@pytest.mark.parametrize("name", [".", "x" * 300, "a\0b"])
def test_what_is_no_readable_file_is_a_configuration_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_registry(tmp_path / name, environ={})
    assert caught.value.code == "registry_unreadable"


def test_a_byte_order_mark_and_windows_line_ends_are_read(tmp_path: Path) -> None:
    path = tmp_path / "clients.yaml"
    path.write_bytes(b"\xef\xbb\xbfclients:\r\n- key: a\r\n  name: A\r\n")
    assert load_registry(path, environ={}).client("a").name.resolve() == "A"


@pytest.mark.parametrize(
    ("kind", "key", "words"),
    [
        ("client", "kim-walace", r"has no client kim-walace; did you mean kim-wallace\?"),
        ("client", "zzz", "has no client zzz; known: kim-wallace, northwind, tailspin."),
        ("client", "acme", "acme in .* is a workspace, not a client"),
        ("workspace", "northwind", "northwind in .* is a client, not a workspace"),
        ("client", "ada@example.com", "has no client of the key given"),
    ],
)
def test_an_unknown_key_says_what_is_known(valid: Registry, kind: str, key: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words) as caught:
        valid.client(key) if kind == "client" else valid.workspace(key)
    assert caught.value.code == "unknown_client"
    assert "ada@" not in str(caught.value)


def test_at_most_five_keys_are_suggested() -> None:
    registry = Registry(clients=tuple(Client(key=f"client-{number}", name="A") for number in range(20)))  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError) as caught:
        registry.client("client-x")
    assert str(caught.value).count("client-") == 1 + 5
    with pytest.raises(ConfigurationError, match="and 15 more"):
        registry.client("zzz")


def test_a_partition_that_lacks_a_section_says_which(valid: Registry) -> None:
    valid.require_partition("client", "kim-wallace", "gohighlevel")
    with pytest.raises(ConfigurationError, match="Client northwind has no gohighlevel, leads section; add") as caught:
        valid.require_partition("client", "northwind", ("email_bison", "gohighlevel", "leads"))
    assert caught.value.code == "missing_section"
    with pytest.raises(ConfigurationError, match="Client tailspin has no email_bison section"):
        valid.bison_instance(valid.client("tailspin"))
    stray = Client(key="a", name="A", email_bison=EmailBisonAccess(instance="x", workspace_id=1))  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="known: main, second"):
        valid.bison_instance(stray)


# --- partitions and clients of the database ---------------------------------------------------------------------------


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
        ghl_location_id=location if location is not None else f"location of {identifier}",
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


def test_a_row_with_the_location_of_another_client_is_an_error(valid: Registry) -> None:
    with pytest.raises(ConfigurationError, match=r"Client tailspin and the row .* client contoso") as caught:
        with_database_clients(valid, [row("1", "Contoso", "location-2")])
    assert caught.value.code == "duplicate_location"
    with pytest.raises(ConfigurationError, match="Client contoso and the row"):
        with_database_clients(valid, [row("1", "Contoso", "x"), row("2", "Contoso", "x")])


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
