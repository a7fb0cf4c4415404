"""`backfill convex install`: our functions, copied into a project's `convex/` folder.

Belongs here: finding the file, writing it safely, saying what comes next. Does not belong here: the functions
(`backfill_pipelines/convex/backfill.ts`), calling them (`vendors/convex.py`). Deploying is the project's own command.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from importlib.resources import files
from pathlib import Path

from backfill_pipelines.command_line.failures import print_json
from backfill_pipelines.command_line.output import wide_console
from backfill_pipelines.errors import ConfigurationError

FILE_NAME = "backfill.ts"
"""The name is the first part of the functions' path (`backfill:page`), by which they are called."""
NEXT_COMMAND = "npx convex deploy"


def install(*, folder: Path, overwrite: bool, as_json: bool) -> int:
    """Copy the functions into a folder and say what comes next; returns the exit code."""
    installed = install_functions(folder, overwrite=overwrite)
    if as_json:
        print_json({"installed": str(installed), "next": NEXT_COMMAND})
    else:
        console = wide_console()
        for line in (f"installed: {installed}", f"next:      {NEXT_COMMAND}   (in the project's folder)"):
            console.print(line, markup=False, highlight=False, soft_wrap=True)
    return 0


def install_functions(folder: Path, *, overwrite: bool = False) -> Path:
    """Copy `backfill.ts` into a project's `convex/` folder; where it is now. Nothing is written if it is there already.

    Raises `ConfigurationError`: `no_such_folder`, `not_the_convex_folder`, `functions_differ` (a file of that name that
    is another one, unless `overwrite`), `functions_not_written`.
    """
    ours = files("backfill_pipelines").joinpath("convex", FILE_NAME).read_bytes()
    if not folder.is_dir():
        raise ConfigurationError(
            "no_such_folder", f"There is no folder {folder}; name the convex folder of the project that is to be kept."
        )
    if (folder / "package.json").is_file() and (folder / "convex").is_dir():
        raise ConfigurationError(
            "not_the_convex_folder",
            f"{folder} is the project's folder, whose files Convex does not deploy; name {folder / 'convex'}.",
        )
    target = folder / FILE_NAME
    try:
        theirs = target.read_bytes() if target.exists() or target.is_symlink() else None
        if theirs == ours:
            return target
        if theirs is not None and not overwrite:
            raise ConfigurationError(
                "functions_differ",
                f"{target} is another file, or one of another version; look at it, then call again with --overwrite "
                "or rename it.",
            )
        _replace(target, ours)
    except OSError as error:
        raise ConfigurationError(
            "functions_not_written", f"{target} cannot be written ({error.strerror}); make the folder writable."
        ) from None
    return target


def _replace(target: Path, content: bytes) -> None:
    """Write the whole file or none of it: a process that is killed leaves no half of it to deploy."""
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(descriptor, "wb") as written:
            written.write(content)
        Path(name).chmod(0o644)
        Path(name).replace(target)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise


__all__ = ["FILE_NAME", "NEXT_COMMAND", "install", "install_functions"]
