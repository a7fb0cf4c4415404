"""A registry file with every section, and how tests read one.

Belongs here: the valid file that the registry's tests start from. Does not belong here: mistakes in it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from backfill_pipelines.registry import Registry, load_registry

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


def write(folder: Path, text: str) -> Path:
    path = folder / "clients.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def load(folder: Path, text: str, **environ: str) -> Registry:
    return load_registry(write(folder, text), environ=environ)


def load_data(folder: Path, data: Any, **environ: str) -> Registry:
    return load(folder, yaml.safe_dump(data, sort_keys=False), **environ)
