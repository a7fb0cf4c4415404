"""What the commands of `backfill` do. `cli.py` has their arguments; nothing in here is imported before it is needed."""
