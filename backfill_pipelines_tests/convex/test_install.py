"""The functions' file: what is installed, where, and that it fits those who call it."""

from __future__ import annotations

import json
import re
from importlib.resources import files
from pathlib import Path

import pytest

from backfill_pipelines.command_line.convex import install, install_functions
from backfill_pipelines.errors import ConfigurationError
from backfill_pipelines.sandbox import convex_data, convex_functions
from backfill_pipelines.vendors import convex, convex_records

SOURCE = files("backfill_pipelines").joinpath("convex", "backfill.ts").read_text(encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "my app" / "convex"
    made.mkdir(parents=True)
    return made


def code_of(folder: Path, *, overwrite: bool = False) -> str:
    with pytest.raises(ConfigurationError) as refused:
        install_functions(folder, overwrite=overwrite)
    return refused.value.code


def test_the_file_is_copied_as_it_is(folder: Path) -> None:
    installed = install_functions(folder)
    assert installed == folder / "backfill.ts"
    assert installed.read_text(encoding="utf-8") == SOURCE
    assert installed.stat().st_mode & 0o777 == 0o644
    assert [each.name for each in folder.iterdir()] == ["backfill.ts"]


def test_a_second_time_changes_nothing(folder: Path) -> None:
    installed = install_functions(folder)
    before = installed.stat()
    assert install_functions(folder) == installed
    assert (installed.stat().st_ino, installed.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_file_of_somebody_else_is_replaced_only_on_request(folder: Path) -> None:
    (folder / "backfill.ts").write_text("export const theirs = 1;\n", encoding="utf-8")
    assert code_of(folder) == "functions_differ"
    assert (folder / "backfill.ts").read_text(encoding="utf-8") == "export const theirs = 1;\n"
    assert install_functions(folder, overwrite=True).read_text(encoding="utf-8") == SOURCE


def test_a_link_is_replaced_and_not_followed(folder: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere.ts"
    elsewhere.write_text("export const theirs = 1;\n", encoding="utf-8")
    (folder / "backfill.ts").symlink_to(elsewhere)
    assert code_of(folder) == "functions_differ"
    install_functions(folder, overwrite=True)
    assert elsewhere.read_text(encoding="utf-8") == "export const theirs = 1;\n"


def test_a_folder_that_is_not_there_or_a_file_is_refused(folder: Path) -> None:
    assert code_of(folder / "nowhere") == "no_such_folder"
    (folder / "schema.ts").touch()
    assert code_of(folder / "schema.ts") == "no_such_folder"


def test_the_projects_own_folder_is_refused(folder: Path) -> None:
    (folder.parent / "package.json").write_text("{}", encoding="utf-8")
    assert code_of(folder.parent) == "not_the_convex_folder"
    assert not (folder.parent / "backfill.ts").exists()


def test_what_cannot_be_written_is_said(folder: Path) -> None:
    (folder / "backfill.ts").mkdir()
    assert code_of(folder, overwrite=True) == "functions_not_written"
    assert [each.name for each in folder.iterdir()] == ["backfill.ts"]


def test_the_command_says_what_comes_next(folder: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert install(folder=folder, overwrite=False, as_json=False) == 0
    assert "npx convex deploy" in capfdbinary.readouterr().out.decode()
    assert install(folder=folder, overwrite=False, as_json=True) == 0
    document = json.loads(capfdbinary.readouterr().out)
    assert document == {"installed": str(folder / "backfill.ts"), "next": "npx convex deploy"}


def test_the_file_the_client_and_the_sandbox_agree() -> None:
    [version] = re.findall(r"^const VERSION = (\d+);$", SOURCE, re.MULTILINE)
    assert int(version) == convex.FUNCTIONS_VERSION == convex_functions.VERSION
    for name, ours, fake in (
        ("TEXT_FIELDS", convex_records.TEXT_FIELDS, convex_data.TEXT_FIELDS),
        ("TIME_FIELDS", convex_records.TIME_FIELDS, convex_data.TIME_FIELDS),
    ):
        [listed] = re.findall(rf"^const {name} = (\[.*\]);$", SOURCE, re.MULTILINE)
        assert tuple(json.loads(listed)) == ours == fake
    outcomes = re.search(r"^type Outcome =\n(.*?);$", SOURCE, re.MULTILINE | re.DOTALL)
    assert outcomes is not None
    assert set(re.findall(r'^  \| "(\w+)"', outcomes[1], re.MULTILINE)) == set(convex_records.Outcome)
    for path in (convex.PAGE_FUNCTION, convex.PATCH_FUNCTION):
        assert f"export const {path.partition(':')[2]} = internal" in SOURCE


def test_no_file_of_the_tests_names_where_packages_come_from() -> None:
    for each in Path(__file__).parent.iterdir():
        if each.suffix in {".ts", ".json"}:
            assert "://" not in re.sub(r"https://img\.clerk\.test/", "", each.read_text(encoding="utf-8"))
    document = json.loads((Path(__file__).parent / "package.json").read_text(encoding="utf-8"))
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", version) for version in document["devDependencies"].values())
