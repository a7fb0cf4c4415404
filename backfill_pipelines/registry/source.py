"""The registry's file as data that knows its lines.

Belongs here: YAML to plain data, each text and mapping with the place where it stands, and the sentence that names a
place. Does not belong here: what the keys mean.

YAML is read as version 1.2 reads it: `NO` is a country and `on` a word, only `true` and `false` are booleans. `${NAME}`
may stand anywhere unquoted, also in `{…}`, where YAML itself would see another mapping begin.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from backfill_pipelines.errors import ConfigurationError

Path = tuple[str | int, ...]
"""Keys and list positions from the top of the file, such as `("clients", 0, "email_bison", "token")`."""

# A small file whose aliases refer to aliases grows without bound when it is read.
_MAXIMUM_NODES = 100_000
_MAXIMUM_DEPTH = 50
PLAIN_WORDS = re.compile(r"[A-Za-z_-]{1,30}")
"""A key that can be shown: tokens that went astray into a key's place hold digits, dots or are longer."""
_TAG = "tag:yaml.org,2002:"
_VARIABLE = re.compile(r"\$\{[^{}\s\"',]*\}")
# Private characters stand in for `${` and `}` while YAML is parsed, one for one, so that columns stay right.
_OPENING, _CLOSING = "\ue000\ue001", "\ue002"
_ENTRY_NAMES = {"clients": "client", "workspaces": "workspace"}
_OWNERS = {"email_bison": "Email Bison instance", "vendors": "Vendor", "tables": "Table"}


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value stands: `owner` is what it belongs to ("Client kim-wallace"), `key` its dotted name in there."""

    file: str
    line: int
    owner: str
    key: str

    def error(self, code: str, problem: str) -> ConfigurationError:
        """The error whose sentence is owner, place, key and the problem with the value."""
        return ConfigurationError(code, sentence(f"{self.owner} ({self.file}, line {self.line}): {self.key} {problem}"))


class SourceText(str):
    """A text of the file that knows where it stands."""

    __slots__ = ("origin",)
    origin: Origin

    def __new__(cls, text: str, origin: Origin) -> SourceText:
        """A `str` with an origin."""
        made = super().__new__(cls, text)
        made.origin = origin
        return made

    def __repr__(self) -> str:
        """Not the text: it may be a token, and tracebacks show what functions held."""
        return f"<text of line {self.origin.line}>"


class SourceMapping(dict[str, Any]):
    """A mapping of the file that knows its path and its document."""

    def __init__(self, path: Path, document: SourceDocument) -> None:
        super().__init__()
        self.path = path
        self.document = document


@dataclass(frozen=True, slots=True)
class SourceDocument:
    """The whole file: `data` of mappings, tuples and scalars, and the line (from 1) of every key and entry."""

    file: str
    data: object = field(default=None, repr=False)
    lines: Mapping[Path, int] = field(default_factory=dict, repr=False)

    def line(self, path: Path) -> int:
        """The line of the path, or of the nearest part of it that is in the file."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)

    def value(self, path: Path) -> Any:
        """What stands at the path, or None."""
        value: Any = self.data
        for step in path:
            try:
                value = value[step]
            except (KeyError, IndexError, TypeError):
                return None
        return value

    def describe(self, path: Path) -> str:
        """The path for people: `email_bison.token of client kim-wallace`."""
        if not path:
            return "the file"
        if path[0] in _ENTRY_NAMES and len(path) > 1 and isinstance(path[1], int):
            owner = self._entry(str(path[0]), path[1])
            return f"{_dotted(path[2:])} of {owner}" if len(path) > 2 else owner  # noqa: PLR2004
        if path[0] == "email_bison" and len(path) > 1 and self.value(path[:2]) is None:
            # `{main: {…}, abc123}`: the "name" of an instance that is nothing may be a token gone astray.
            return "an instance under email_bison"
        return _dotted(path)

    def error(self, code: str, path: Path, problem: str) -> ConfigurationError:
        """The error whose sentence is file, line, what stands there, and the problem with it."""
        return ConfigurationError(
            code, sentence(f"{self.file}, line {self.line(path)}: {self.describe(path)} {problem}")
        )

    def _entry(self, section: str, position: int) -> str:
        key = self.value((section, position, "key"))
        if isinstance(key, str) and key:
            return f"{_ENTRY_NAMES[section]} {key}"
        return f"entry {position + 1} of {section}"


def sentence(text: str) -> str:
    """The text with a full stop, unless it ends in a question."""
    return text if text.endswith("?") else f"{text}."


def parse_document(content: bytes, *, file: str) -> SourceDocument:
    """Read YAML. Raises ConfigurationError: `registry_invalid`, or `duplicate_key` for a key twice in one mapping."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise _invalid(file, line, "the file is not UTF-8; save it in that encoding") from None
    if any(character in text for character in _OPENING + _CLOSING):
        raise _invalid(file, 1, "the characters U+E000 to U+E002 cannot be used")
    shielded = _VARIABLE.sub(lambda found: _OPENING + found[0][2:-1] + _CLOSING, text)
    try:
        node = _Loader(shielded).get_single_node()
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise _invalid(file, line, "a control character stands here; remove it") from None
    except yaml.MarkedYAMLError as error:
        # Not the parser's own words: they quote what it stumbled over.
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        raise _invalid(
            file, line, f"this is not valid YAML from column {column} on; check indentation, colons and quotes"
        ) from None
    except RecursionError:
        raise _invalid(file, 1, "the file is nested too deeply") from None
    if node is None:
        raise _invalid(file, 1, "the file is empty; docs/clients.example.yaml shows what it can hold")
    return _Reader(file).read(node)


def _invalid(file: str, line: int, problem: str) -> ConfigurationError:
    return ConfigurationError("registry_invalid", f"{file}, line {line}: {problem}.")


class _Loader(yaml.SafeLoader):
    """YAML 1.2's core scalars; `compose` only, it constructs nothing."""

    yaml_implicit_resolvers = {  # noqa: RUF012 (PyYAML reads it from the class)
        first: [
            (_TAG + "null", re.compile(r"(?:~|null|Null|NULL|)\Z")),
            (_TAG + "bool", re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z")),
            (_TAG + "int", re.compile(r"[-+]?(?:0|[1-9][0-9]*)\Z")),
            (_TAG + "float", re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z")),
        ]
        for first in ["", *"~nNtTfF+-.0123456789"]
    }


class _Reader:
    """Turns the nodes of one file into data."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._lines: dict[Path, int] = {}
        self._nodes = 0
        self._document = SourceDocument(file)

    def read(self, node: yaml.Node) -> SourceDocument:
        data = self._value(node, (), "The registry", ())
        # The mappings hold this very document, so it is completed rather than replaced.
        object.__setattr__(self._document, "data", data)
        object.__setattr__(self._document, "lines", self._lines)
        return self._document

    def _value(self, node: yaml.Node, path: Path, owner: str, key: Path) -> object:
        self._nodes += 1
        if self._nodes > _MAXIMUM_NODES or len(path) > _MAXIMUM_DEPTH:
            raise self._error(node, "this is too large or nested too deeply")
        self._lines.setdefault(path, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
            return self._mapping(node, path, owner, key)
        if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
            return tuple(
                self._value(entry, (*path, position), *self._owner((*path, position), entry, owner, key))
                for position, entry in enumerate(node.value)
            )
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, owner, key)
        raise self._error(node, "a YAML tag (!…) stands here, for which the registry has no use; remove it")

    def _mapping(self, node: yaml.MappingNode, path: Path, owner: str, key: Path) -> SourceMapping:
        made = SourceMapping(path, self._document)
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag != _TAG + "str":
                raise self._error(key_node, "a key here is not text; put it in quotes")
            name = _restored(key_node.value)
            here = (*path, name)
            if name in made:
                shown = f"the key {name}" if PLAIN_WORDS.fullmatch(name) else "a key"
                raise ConfigurationError(
                    "duplicate_key",
                    f"{self._file}, line {key_node.start_mark.line + 1}: {shown} stands here for the second time in "
                    f"one mapping, first on line {self._lines[here]}; remove one of them.",
                )
            self._lines[here] = key_node.start_mark.line + 1
            made[name] = self._value(value_node, here, *self._owner(here, value_node, owner, key))
        return made

    def _owner(self, path: Path, node: yaml.Node, owner: str, key: Path) -> tuple[str, Path]:
        """Whom the values below this path belong to, and their key from there on."""
        if len(path) == 2:  # noqa: PLR2004 (a section and what is in it)
            section, name = path
            if section in _ENTRY_NAMES and isinstance(name, int):
                return f"{_ENTRY_NAMES[str(section)].capitalize()} {_entry_key(node) or f'number {name + 1}'}", ()
            if section in _OWNERS:
                return f"{_OWNERS[str(section)]} {name}", (*key, name)
        return owner, (*key, path[-1])

    def _scalar(self, node: yaml.ScalarNode, owner: str, key: Path) -> object:
        text: str = _restored(node.value)
        kind = node.tag.removeprefix(_TAG)
        try:
            if kind == "str":
                return SourceText(text, Origin(self._file, node.start_mark.line + 1, owner, _dotted(key)))
            if kind == "null":
                return None
            if kind == "bool":
                return {"true": True, "false": False}[text.lower()]
            if kind in {"int", "float"}:
                return int(text) if kind == "int" else float(text)
        except (ValueError, KeyError):
            raise self._error(node, "a value here does not fit its YAML tag; remove the tag") from None
        raise self._error(node, "a YAML tag (!…) stands here, for which the registry has no use; remove it")

    def _error(self, node: yaml.Node, problem: str) -> ConfigurationError:
        return _invalid(self._file, node.start_mark.line + 1, problem)


def _restored(text: str) -> str:
    return text.replace(_OPENING, "${").replace(_CLOSING, "}")


def _entry_key(node: yaml.Node) -> str | None:
    if isinstance(node, yaml.MappingNode):
        for key_node, value_node in node.value:
            if key_node.value == "key" and isinstance(value_node, yaml.ScalarNode):
                return _restored(value_node.value)
    return None


def _dotted(path: Path) -> str:
    text = ""
    for step in path:
        text += f"[{step + 1}]" if isinstance(step, int) else f".{step}"
    return text.removeprefix(".")
