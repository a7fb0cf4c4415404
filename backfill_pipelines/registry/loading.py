"""From the file to the registry.

Belongs here: finding and reading the file, and the rules between its entries. Does not belong here: the rules of one
value (`sections`), and clients that the database adds (`database_clients`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from pydantic import ValidationError

from backfill_pipelines.errors import ConfigurationError
from backfill_pipelines.registry.explanation import closest, explain
from backfill_pipelines.registry.registry import Registry
from backfill_pipelines.registry.sections import Client, Defaults, Workspace
from backfill_pipelines.registry.settings import SETTINGS_MODELS, BackfillSettings, SettingsLayer
from backfill_pipelines.registry.source import Path as SourcePath
from backfill_pipelines.registry.source import SourceDocument, parse_document

PATH_VARIABLE = "BACKFILL_CLIENTS"
DEFAULT_FILE = "clients.yaml"


def registry_path(environ: Mapping[str, str], current_folder: Path) -> Path:
    """The file that BACKFILL_CLIENTS names, else `clients.yaml`; relative to the current folder."""
    named = environ.get(PATH_VARIABLE, "").strip()
    return current_folder / Path(named or DEFAULT_FILE).expanduser()


def load_registry(
    path: Path,
    *,
    environ: Mapping[str, str],
    settings_models: Mapping[str, type[BackfillSettings]] = SETTINGS_MODELS,
) -> Registry:
    """Read and check the file. Variables are looked up in `environ` later, when a value is used.

    Raises ConfigurationError with file, line and key; the package's docstring lists the codes.
    """
    document = parse_document(_content(path), file=str(path))
    try:
        registry = Registry.model_validate(document.data, context={"environ": environ})
    except ValidationError as error:
        raise explain(error, document) from None
    registry._file = document.file
    _check_keys(registry, document)
    _check_instances(registry, document)
    _check_shared(registry, document)
    for name, layer in _layers(registry):
        layer.check(settings_models.get(name, BackfillSettings), only_known=name not in settings_models)
    return registry


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise ConfigurationError(
            "registry_missing",
            f"There is no {path}; copy docs/clients.example.yaml to it and fill it in, or name another file in "
            f"{PATH_VARIABLE}.",
        ) from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "the path is not valid"
        raise ConfigurationError(
            "registry_unreadable", f"{path} cannot be read ({reason}); {PATH_VARIABLE} can name another file."
        ) from None


def _check_keys(registry: Registry, document: SourceDocument) -> None:
    """One key, one partition: clients and workspaces share Dagster's and the command line's names."""
    first: dict[str, SourcePath] = {}
    for path, entry in _entries(registry):
        if entry.key in first:
            line = document.line((*first[entry.key], "key"))
            problem = f"has the same key as the entry on line {line}; every client and workspace needs its own"
            raise document.error("duplicate_key", (*path, "key"), problem)
        first[entry.key] = path


def _check_instances(registry: Registry, document: SourceDocument) -> None:
    for position, client in enumerate(registry.clients):
        if client.email_bison is None or client.email_bison.instance in registry.email_bison:
            continue
        known = list(registry.email_bison)
        close = closest(client.email_bison.instance, known, 1)
        hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(known) or 'none'}"
        problem = f"names an instance that email_bison does not have; {hint}"
        raise document.error("unknown_instance", ("clients", position, "email_bison", "instance"), problem)


def _check_shared(registry: Registry, document: SourceDocument) -> None:
    """No two clients share a workspace, a location or rows of a table: one would get the other's people."""
    workspaces: dict[tuple[str, int], Client] = {}
    names: dict[str, Client] = {}
    locations: dict[str, Client] = {}
    client_ids: dict[str, Client] = {}
    for position, client in enumerate(registry.clients):
        if client.email_bison is not None:
            instance = registry.email_bison[client.email_bison.instance]
            workspace = (instance.base_url.identity(), client.email_bison.workspace_id)
            other = workspaces.setdefault(workspace, client)
            if other is not client:
                problem = f"is the Email Bison workspace of client {other.key} too; correct one of them"
                path: SourcePath = ("clients", position, "email_bison", "workspace_id")
                raise document.error("duplicate_workspace", path, problem)
            other = names.setdefault(client.name.identity(), client)
            if other is not client:
                problem = (
                    f"is the name of client {other.key} too, and it is by name that each finds its own rows of "
                    "client_leads; correct one of them"
                )
                raise document.error("duplicate_name", ("clients", position, "name"), problem)
        if client.gohighlevel is not None:
            other = locations.setdefault(client.gohighlevel.location_id.identity(), client)
            if other is not client:
                problem = f"is the GoHighLevel location of client {other.key} too; correct one of them"
                path = ("clients", position, "gohighlevel", "location_id")
                raise document.error("duplicate_location", path, problem)
        if client.leads is not None:
            other = client_ids.setdefault(client.leads.client_id.identity(), client)
            if other is not client:
                problem = (
                    f"is the id of client {other.key} in the product too, and two partitions would work on the same "
                    "leads; leave it to one of them"
                )
                raise document.error("duplicate_client_id", ("clients", position, "leads", "client_id"), problem)


def _entries(registry: Registry) -> Iterator[tuple[SourcePath, Client | Workspace]]:
    for position, client in enumerate(registry.clients):
        yield ("clients", position), client
    for position, workspace in enumerate(registry.workspaces):
        yield ("workspaces", position), workspace


def _layers(registry: Registry) -> Iterator[tuple[str, SettingsLayer]]:
    places: list[Defaults | Client | Workspace] = [registry.defaults, *(entry for _, entry in _entries(registry))]
    for place in places:
        for name in type(place).model_fields:
            layer = getattr(place, name)
            if isinstance(layer, SettingsLayer):
                yield name, layer
