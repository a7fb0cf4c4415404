"""The registry: what a valid file means, when its variables are read, and how its entries are found."""

from __future__ import annotations

from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from backfill_pipelines.errors import ConfigurationError
from backfill_pipelines.registry import (
    AttioCompanyOrgsSettings,
    Client,
    ClientLeadsSettings,
    CustomersSettings,
    EmailBisonAccess,
    Registry,
    load_registry,
    registry_path,
)
from backfill_pipelines.registry.settings import BlockedValues
from backfill_pipelines.registry.source import parse_document
from backfill_pipelines_tests.registry_files import SECRET, VALID, load, load_data, write

EXAMPLE = Path(__file__).parent.parent / "docs" / "clients.example.yaml"


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
        tmp_path, "defaults: {phone_region: NO}\nclients: [{key: on, name: 2024-01-02}, {key: y, name: 1:3}]"
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
    load_registry(write(tmp_path, text), environ={}, settings_models={})
    with pytest.raises(
        ConfigurationError, match=r"line 5: customers of client a .*did you mean max_group_size\?"
    ) as caught:
        load(tmp_path, text)
    assert caught.value.code == "unknown_key"


def test_a_section_without_a_registered_model_is_checked_when_it_is_used(tmp_path: Path) -> None:
    text = "clients:\n- key: a\n  name: A\n  customers:\n    max_group_size: many\n"
    registry = load_registry(write(tmp_path, text), environ={}, settings_models={})
    with pytest.raises(
        ConfigurationError, match=r"line 5: customers\.max_group_size of client a must be a whole number"
    ):
        registry.settings(CustomersSettings, registry.client("a"))


def test_settings_read_variables_when_they_are_used(tmp_path: Path) -> None:
    environ: dict[str, str] = {}
    text = "defaults: {customers: {phone_format: '${FORMAT}', max_group_size: 3}}\nclients: [{key: a, name: A}]"
    registry = load_registry(write(tmp_path, text), environ=environ)
    with pytest.raises(ConfigurationError, match=r"Client a: environment variable FORMAT .*customers\.phone_format"):
        registry.settings(CustomersSettings, registry.client("a"))
    environ["FORMAT"] = "e164"
    assert registry.settings(CustomersSettings, registry.client("a")).phone_format == "e164"


def blocked(tmp_path: Path, text: str) -> BlockedValues:
    registry = load(tmp_path, text)
    return registry.settings(CustomersSettings, registry.client("a")).blocked


def test_blocked_values_under_defaults_replace_ours_list_by_list_and_a_clients_own_add_up(tmp_path: Path) -> None:
    ours = BlockedValues()
    nothing_said = blocked(tmp_path, "clients: [{key: a, name: A}]")
    assert nothing_said == ours
    assert {"info", "noreply", "billing", "postmaster"} <= set(ours.local_parts)
    assert {"0000000000", "1234567890"} <= set(ours.phones)
    found = blocked(
        tmp_path,
        "defaults: {customers: {blocked: {local_parts: [desk], domains: [x.example.com]}}}\n"
        "clients: [{key: a, name: A, customers: {blocked: {local_parts: [crew], phones: ['205 555 0100']}}}]",
    )
    assert found.local_parts == ("desk", "crew")
    assert found.domains == ("x.example.com",)
    assert found.phones == (*ours.phones, "205 555 0100")
    assert found.emails == ours.emails


def test_a_client_that_sets_something_else_keeps_the_blocked_values_of_the_defaults(tmp_path: Path) -> None:
    found = blocked(
        tmp_path,
        "defaults: {customers: {blocked: {emails: [a@example.com]}}}\n"
        "clients: [{key: a, name: A, customers: {phone_format: e164}}]",
    )
    assert found == BlockedValues(emails=("a@example.com",))


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("phone_format: national", "phone_format"),
        ("max_group_size: 0", "max_group_size"),
        ("blocked: {mails: [x]}", "blocked.* has an unknown key"),
        ("blocked: {emails: x}", "emails"),
        ("blocked: {phones: [2055550100]}", "phones"),
    ],
)
def test_settings_of_customers_are_checked_when_the_file_is_read(tmp_path: Path, setting: str, words: str) -> None:
    for text in (
        f"defaults: {{customers: {{{setting}}}}}",
        f"clients: [{{key: a, name: A, customers: {{{setting}}}}}]",
    ):
        with pytest.raises(ConfigurationError, match=words):
            load(tmp_path, text)


def test_the_least_number_of_members_of_a_company_s_organization_is_one_unless_it_is_set(tmp_path: Path) -> None:
    registry = load(
        tmp_path,
        "defaults: {attio_company_orgs: {min_members: 3}}\n"
        "workspaces: [{key: a}, {key: b, attio_company_orgs: {min_members: 2}}]",
    )
    found = [registry.settings(AttioCompanyOrgsSettings, each).min_members for each in registry.workspaces]
    assert found == [3, 2]
    assert AttioCompanyOrgsSettings().min_members == 1


@pytest.mark.parametrize("setting", ["min_members: 0", "min_members: many", "min_members: 2.5", "min_member: 2"])
def test_settings_of_attio_company_orgs_are_checked_when_the_file_is_read(tmp_path: Path, setting: str) -> None:
    with pytest.raises(ConfigurationError, match="min_member"):
        load(tmp_path, f"workspaces: [{{key: a, attio_company_orgs: {{{setting}}}}}]")


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


@pytest.mark.parametrize("section", ["attio_people", "attio_company_orgs", "convex_users"])
def test_a_setting_that_nobody_reads_is_a_mistake_of_every_backfill(tmp_path: Path, section: str) -> None:
    path = tmp_path / "clients.yaml"
    path.write_text(f"defaults: {{{section}: {{store_skip: true}}}}\n", encoding="utf-8")
    with pytest.raises(ConfigurationError, match="store_skip"):
        load_registry(path, environ={})
