"""A user's installation for each test."""

from backfill_pipelines_tests.installation_fixtures import dagster_storage, installation, running_sandbox

__all__ = ["dagster_storage", "installation", "running_sandbox"]
