"""The configuration: one TOML file and `CXRNODE__SECTION__KEY` variables, read once, then frozen.

A key that is not known is refused by its name, a wrong value with its remedy. The module never opens what the
configuration names (no database, no folder, no bundle): `cxrnode check` does that.

The variables are laid over the file here rather than by pydantic-settings: that folds their names to lower case,
and `[nodes.PACS]` would get a sister `[nodes.pacs]`.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
import socket
import tomllib
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, Field, PrivateAttr, ValidationError, model_validator

from cxrnode.errors import ConfigError
from cxrnode.sections import (
    NODE_KINDS,
    Alerts,
    AnyNode,
    Atna,
    Audit,
    Changes,
    Corrections,
    Database,
    Heatmap,
    Hl7,
    Hl7Node,
    KeyObject,
    Listen,
    Log,
    Model,
    Node,
    Notices,
    Reading,
    RemoteNode,
    Retention,
    Rule,
    Section,
    Send,
    Spool,
    Sr,
    StowNode,
    Study,
    Tls,
    Web,
    WordLists,
    Worklist,
    without_secrets,
)

__all__ = [
    "Alerts",
    "Atna",
    "Audit",
    "Changes",
    "Config",
    "Corrections",
    "Database",
    "Heatmap",
    "Hl7",
    "Hl7Node",
    "KeyObject",
    "Listen",
    "Log",
    "Model",
    "Node",
    "Notices",
    "Reading",
    "RemoteNode",
    "Retention",
    "Rule",
    "Send",
    "Spool",
    "Sr",
    "StowNode",
    "Study",
    "Tls",
    "Web",
    "WordLists",
    "load_config",
    "parse_config",
    "template",
    "templates",
    "without_secrets",
]

#: Where `load_config` looks when it is given no file, in this order, after the variable CXRNODE_CONFIG.
SEARCH = (Path("cxrnode.toml"), Path("/etc/cxrnode/cxrnode.toml"))
ENV_PREFIX = "CXRNODE__"
#: The folder of shipped files: beside the package in a source tree, inside it in a wheel.
_TEMPLATES = (Path(__file__).parent / "templates", Path(__file__).parent.parent / "config")


#: Sections in which machines that share the work may differ.
_OF_ONE_MACHINE = ("node", "listen", "web", "database", "spool", "log")

#: A URL of SQLite whose file is a relative path: what stands before it, the path, what follows.
_RELATIVE_SQLITE = re.compile(r"(sqlite(?:\+\w+)?:///)(?!/|:memory:|file:)([^?]+)(.*)")


class Config(Section):
    """All of it. Every default is a safe one; an empty file receives nothing, since no node may send."""

    node: Node = Field(default_factory=Node)
    listen: Listen = Field(default_factory=Listen)
    nodes: Mapping[str, AnyNode] = Field(default_factory=dict)
    worklists: Mapping[str, Worklist] = Field(default_factory=dict)
    models: Mapping[str, Model] = Field(default_factory=dict)
    rules: tuple[Rule, ...] = ()
    reading: Reading = Field(default_factory=Reading)
    send: Send = Field(default_factory=Send)
    corrections: Corrections = Field(default_factory=Corrections)
    heatmap: Heatmap = Field(default_factory=Heatmap)
    sr: Sr = Field(default_factory=Sr)
    key_object: KeyObject = Field(default_factory=KeyObject)
    hl7: Hl7 = Field(default_factory=Hl7)
    notices: Notices = Field(default_factory=Notices)
    study: Study = Field(default_factory=Study)
    words: WordLists = Field(default_factory=WordLists)
    database: Database = Field(default_factory=Database)
    spool: Spool = Field(default_factory=Spool)
    retention: Retention = Field(default_factory=Retention)
    web: Web = Field(default_factory=Web)
    changes: Changes = Field(default_factory=Changes)
    audit: Audit = Field(default_factory=Audit)
    alerts: Alerts = Field(default_factory=Alerts)
    atna: Atna = Field(default_factory=Atna)
    log: Log = Field(default_factory=Log)
    _source: Path | None = PrivateAttr(default=None)

    @property
    def source(self) -> Path | None:
        """The file that was read, absolute; None where there was none."""
        return self._source

    @property
    def folder(self) -> Path:
        """Where relative paths start: the folder of the file that was read, else the working folder."""
        return self._source.parent if self._source else Path.cwd()

    @property
    def node_name(self) -> str:
        """What this machine is called among those that share the work."""
        return self.node.name or socket.gethostname()[:64]

    @property
    def peers(self) -> Mapping[str, RemoteNode]:
        """The DICOM nodes: those that may send to us are among them."""
        return {name: node for name, node in self.nodes.items() if isinstance(node, RemoteNode)}

    @property
    def timezone(self) -> str:
        """The zone in which films are taken that state no offset; "" where nobody set it: the default is a guess."""
        return self.node.timezone if "timezone" in self.node.model_fields_set else ""

    def timezone_of(self, calling_aet: str) -> str:
        """The zone of the films of one sender, where it has one of its own, else that of the node."""
        own = (node.timezone for node in self.peers.values() if node.aet == calling_aet and node.timezone)
        return next(own, self.timezone)

    @property
    def message_receivers(self) -> frozenset[str]:
        """The nodes that take HL7 messages and nothing else."""
        return frozenset(name for name, node in self.nodes.items() if isinstance(node, Hl7Node))

    @property
    def database_url(self) -> str:
        """The SQLAlchemy URL of the store."""
        if parts := _RELATIVE_SQLITE.fullmatch(self.database.url):
            return f"{parts[1]}{self.folder / parts[2]}{parts[3]}"
        return self.database.url or f"sqlite+pysqlite:///{self.node.data_dir / 'cxrnode.sqlite'}"

    @property
    def spool_dir(self) -> Path:
        """The folder of the spool, local or shared; beside an object store the one of this machine that receives."""
        if self.spool.url and not self.spool.is_bucket:
            return self.folder / self.spool.url.removeprefix("file://")
        return self.node.data_dir / "spool"

    @property
    def relative_places(self) -> Mapping[str, Path]:
        """Which of `database.url` and `spool.url` name a relative path, and that path as it is written."""
        spool = "" if self.spool.is_bucket else self.spool.url.removeprefix("file://")
        parts = _RELATIVE_SQLITE.fullmatch(self.database.url)
        named = {"database.url": Path(parts[2] if parts else "/"), "spool.url": Path(spool or "/")}
        return {key: path for key, path in named.items() if not path.is_absolute()}

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the canonical JSON, with the passwords taken out: says which settings were in force."""
        values = self.model_dump(mode="json", by_alias=True)
        for section in ("database", "spool"):
            values[section]["url"] = without_secrets(values[section]["url"])
        return hashlib.sha256(json.dumps(values, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    @property
    def modes(self) -> Mapping[str, str]:
        """Each configured model with its mode; what people changed since stands in the store."""
        return {name: model.mode for name, model in self.models.items()}

    def rules_digest(self, modes: Mapping[str, str]) -> str:
        """SHA-256 (hex) of what decided about a film: rules, words, and the models' modes in force."""
        words = self.words.model_dump(mode="json")
        values = {"rules": [rule.model_dump(mode="json") for rule in self.rules], "words": words, "modes": dict(modes)}
        return hashlib.sha256(json.dumps(values, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    @property
    def shared_digest(self) -> str:
        """SHA-256 (hex) of what is the same on machines that share the work: not where they lie and listen."""
        values = self.model_dump(mode="json", by_alias=True, exclude=set(_OF_ONE_MACHINE))
        return hashlib.sha256(json.dumps(values, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        """What no section can check alone. One message for all that is wrong, so that one edit mends it."""
        wrong = [
            f"rule {rule.name!r} names the {kind} {name!r}, which is not configured; {_remedy(name, known, section)}"
            for rule in self.rules
            for kind, names, known, section in (
                ("model", rule.models, self.models, "models"),
                ("node", rule.send_to, self.nodes, "nodes"),
            )
            for name in names
            if name not in known
        ]
        names = [rule.name for rule in self.rules]
        wrong += [
            f"two rules are called {name!r}; rename one" for name in sorted({n for n in names if names.count(n) > 1})
        ]
        active = [model.bundle for model in self.models.values() if model.mode == "active"]
        wrong += [
            # Their outputs would be the same objects: what a model says is named after its bundle.
            f"two active models use the bundle {name!r}; remove one, or make it a shadow"
            for name in sorted({n for n in active if active.count(n) > 1})
        ]
        if "worklist" in self.node.roles and not self.worklists:
            wrong.append("node.roles: worklist has nothing to work off; add [worklists.NAME], or remove the role")
        wrong += [
            f"the name {name!r} is longer than 64 characters; shorten it"
            for name in (*self.models, *self.nodes, *self.worklists)
            if len(name) > 64
        ]
        if self.reading.implausible == "read" and self.node.purpose == "service":
            wrong.append(
                'reading.implausible = "read" would give findings on films that the model cannot judge; '
                'it exists for node.purpose = "demo" or "bench" alone. Remove it'
            )
        if self.heatmap.min_findings > self.heatmap.max_findings:
            wrong.append("heatmap.min_findings is above heatmap.max_findings; lower it")
        flagging = [rule.name for rule in self.rules if "key_object" in rule.outputs]
        if flagging and not self.key_object.findings:
            wrong.append(f"rule {flagging[0]!r} sends key objects, and key_object.findings names no finding; name some")
        for rule in self.rules:
            receivers = [name for name in rule.send_to if name in self.message_receivers]
            if receivers and "hl7" not in rule.outputs:
                wrong.append(f'rule {rule.name!r} sends to {receivers[0]!r} and makes no message; add "hl7" to outputs')
            if "hl7" in rule.outputs and not receivers:
                wrong.append(f'rule {rule.name!r} makes HL7 messages for nobody; name a node of kind "hl7" in send_to')
        if self.send.backoff_base > self.send.backoff_cap:
            wrong.append("send.backoff_base is above send.backoff_cap; lower it")
        if self.reading.decode_timeout >= self.reading.lease:
            wrong.append("reading.decode_timeout must end before reading.lease does; lower it")
        if "://" in self.spool.url and not self.spool.url.startswith(("file://", "s3://")):
            wrong.append("spool.url is a folder or s3://BUCKET/PREFIX; change it")
        if (self.spool.endpoint or self.spool.ca) and not self.spool.is_bucket:
            wrong.append("spool.endpoint and spool.ca are for s3:// urls; remove them, or change spool.url")
        if wrong:
            raise ValueError("; ".join(wrong))
        return self


def load_config(path: Path | None = None, *, environ: Mapping[str, str] | None = None) -> Config:
    """Read the configuration once: `path`, else CXRNODE_CONFIG, ./cxrnode.toml, /etc/cxrnode/cxrnode.toml.

    `CXRNODE__LISTEN__PORT=104` overrides `listen.port`; a value is read as TOML, else as text. Raises ConfigError
    with the key, where it stands and the remedy.
    """
    variables = os.environ if environ is None else environ
    source = _find(path, variables)
    try:
        raw = tomllib.loads(source.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {source}: {error.strerror}. Check the path and its permissions") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{source} is not UTF-8 text; save it as UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{source} is not valid TOML: {error}") from error
    return parse_config(raw, source=source, environ=variables)


def parse_config(
    raw: Mapping[str, Any], *, source: Path | None = None, environ: Mapping[str, str] | None = None
) -> Config:
    """Return the configuration for a table as TOML reads it. Raises ConfigError as `load_config` does."""
    table, named = _overlaid(raw, environ or {})
    folder = source.resolve().parent if source else Path.cwd()
    try:
        config = Config.model_validate(table, context={"folder": folder})
    except ValidationError as error:
        where = str(source) if source else "the configuration"
        raise ConfigError("\n".join(_explained(dict(one), where, named) for one in error.errors())) from None
    config._source = source.resolve() if source else None
    return config


def template(name: str = "cxrnode.toml") -> str:
    """Return the text of a shipped configuration file. Raises ConfigError when the installation lacks it."""
    for folder in _TEMPLATES:
        if (folder / name).is_file():
            return (folder / name).read_text(encoding="utf-8")
    raise ConfigError(f"this installation lacks its template {name}; reinstall cxrnode")


def templates(folder: str, suffix: str) -> tuple[str, ...]:
    """Return the names of the shipped files in a folder of `config` that end so, sorted; none where there is none."""
    return tuple(sorted({path.name for place in _TEMPLATES for path in (place / folder).glob(f"*{suffix}")}))


def _find(path: Path | None, environ: Mapping[str, str]) -> Path:
    if path is not None:
        return path
    if named := environ.get("CXRNODE_CONFIG"):
        return Path(named)
    for candidate in SEARCH:
        if candidate.is_file():
            return candidate
    looked = ", ".join(f"./{p}" if not p.is_absolute() else str(p) for p in SEARCH)
    raise ConfigError(f"no configuration found in {looked}; `cxrnode init` writes one, --config FILE names one")


def _overlaid(raw: Mapping[str, Any], environ: Mapping[str, str]) -> tuple[dict[str, Any], dict[tuple[str, ...], str]]:
    """Return the table with the variables laid over it, and which variable gave which key."""
    table: dict[str, Any] = json.loads(json.dumps(raw, default=str))
    named: dict[tuple[str, ...], str] = {}
    for variable in sorted(environ):
        if not variable.startswith(ENV_PREFIX):
            continue
        branch, path = table, []
        parts = variable.removeprefix(ENV_PREFIX).split("__")
        for depth, part in enumerate(parts, start=1):
            # Variables are upper case by custom and names of nodes are not: an existing key wins in its own spelling.
            key = next((k for k in branch if k.lower() == part.lower()), part.lower())
            path.append(key)
            if depth == len(parts):
                branch[key] = _value(environ[variable])
            elif not isinstance(branch.setdefault(key, {}), dict):
                raise ConfigError(f"{variable}: {'.'.join(path)} is not a table; tables of a list are set in the file")
            else:
                branch = branch[key]
        named[tuple(path)] = variable
    return table, named


def _value(text: str) -> Any:
    """A variable's value as TOML reads it; what is no TOML value is the text itself."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _explained(error: dict[str, Any], where: str, named: Mapping[tuple[str, ...], str]) -> str:
    """One line: the key, the file or variable it stands in, what is wrong and what to do."""
    # The kind that pydantic puts behind a node's name stands in no file.
    whole: tuple[str | int, ...] = error["loc"]
    kind = whole[2] if len(whole) > 2 and whole[0] == "nodes" and whole[2] in NODE_KINDS else ""
    location = whole[:2] + whole[3:] if kind else whole
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).lstrip(".")
    texts = tuple(str(part) for part in location)
    place = next((variable for path, variable in named.items() if path[: len(texts)] == texts), where)
    message = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        return f"{place}: unknown key {key}; {_remedy(str(location[-1]), _keys_at(whole[:-1]))}"
    if error["type"] == "missing":
        return f"{place}: {key} is missing; add it"
    return f"{place}: {key}: {message}" if key else f"{place}: {message}"


def _remedy(name: str, known: typing.Iterable[str], section: str = "") -> str:
    candidates = sorted(known)
    if close := difflib.get_close_matches(name, candidates, n=1):
        return f"did you mean {close[0]}?"
    if section and not candidates:
        return f"add [{section}.{name}]"
    return f"known here: {', '.join(candidates)}"


def _keys_at(location: tuple[str | int, ...]) -> list[str]:
    """The keys that the table at this place may have."""
    at: Any = Config
    for depth, part in enumerate(location):
        if depth == 2 and location[0] == "nodes":  # one of AnyNode
            at = NODE_KINDS[str(part)]
        elif isinstance(at, type) and issubclass(at, BaseModel):
            fields = {field.alias or name: field for name, field in at.model_fields.items()}
            at = fields[str(part)].annotation
        else:  # Mapping[str, X] or tuple[X, ...]
            at = next(arg for arg in typing.get_args(at) if arg not in (str, ...))
        if isinstance(at, types.UnionType):
            at = next(arg for arg in typing.get_args(at) if arg is not type(None))
    return [field.alias or name for name, field in at.model_fields.items()]
