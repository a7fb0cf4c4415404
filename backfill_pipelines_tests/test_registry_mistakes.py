"""The registry: one clear sentence without a secret for every invalid file.

The file is what a newcomer writes first, so its mistakes are tested as they are made: by hand, and by mutation.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from backfill_pipelines.errors import ConfigurationError
from backfill_pipelines.registry import Registry, load_registry
from backfill_pipelines_tests.registry_files import SECRET, VALID, load, load_data, write

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


@pytest.mark.parametrize("second", ["${NAME}", "Kim Wallace", "' Kim Wallace '"])
def test_two_clients_cannot_share_the_name_under_which_client_leads_keeps_their_rows(
    tmp_path: Path, second: str
) -> None:
    text = f"""
email_bison: {{main: {{base_url: https://a.example.com}}, second: {{base_url: https://b.example.com}}}}
clients:
- {{key: a, name: "${{NAME}}", email_bison: {{instance: main, workspace_id: 1}}}}
- {{key: b, name: {second}, email_bison: {{instance: second, workspace_id: 1}}}}
"""
    with pytest.raises(ConfigurationError, match="line 5: name of client b is the name of client a too") as caught:
        load(tmp_path, text, NAME="Kim Wallace")
    assert caught.value.code == "duplicate_name"


def test_clients_may_share_a_name_where_no_rows_are_kept_by_it(tmp_path: Path) -> None:
    text = """
email_bison: {main: {base_url: https://a.example.com}}
clients:
- {key: a, name: Kim Wallace, email_bison: {instance: main, workspace_id: 1}}
- {key: b, name: Kim Wallace, leads: {client_id: "1"}}
- {key: c, name: KIM WALLACE, email_bison: {instance: main, workspace_id: 2}}
"""
    assert len(load(tmp_path, text).clients) == 3


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


def test_two_clients_cannot_share_their_leads(tmp_path: Path) -> None:
    text = 'clients:\n- {key: a, name: A, leads: {client_id: "42"}}\n- {key: b, name: B, leads: {client_id: " 42 "}}\n'
    with pytest.raises(ConfigurationError, match=r"line 3: .*id of client a in the product too") as caught:
        load(tmp_path, text)
    assert caught.value.code == "duplicate_client_id"


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
    if isinstance(data, dict) and path != ("email_bison",):  # there the keys are the user's own
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
    # A partition's key is no secret: it is shown wherever the partition is.
    _at(data, path)[key] = draw.draw(_ANYTHING.filter(lambda value: (key, value) != ("key", SECRET)))
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
