"""What all backfills share: plan, ledger, load, undo, verify, and the one adapter to Dagster."""
