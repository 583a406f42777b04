"""The configuration of a node that a test starts, as TOML: what all have in common, and what one has otherwise."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

#: Films of any kind, by one sender, are read by the demonstration model, and results go to one archive.
COMMON: Mapping[str, Any] = {
    "node": {"ae_title": "CXRNODE"},
    "listen": {"host": "127.0.0.1"},
    "nodes": {"MODALITY": {"aet": "MODALITY", "host": "127.0.0.1", "port": 104, "can_send": True}},
    "models": {"chest": {"bundle": "demo"}},
    "rules": [
        {"name": "films", "unsure": "read", "models": ["chest"], "outputs": ["sr", "heatmap"], "send_to": ["PACS"]}
    ],
    "spool": {"min_free": "50 MiB"},
    "log": {"level": "info", "format": "json"},
}


def configuration(*settings: Mapping[str, Any]) -> str:
    """`COMMON` with each of these laid over it, table by table; None takes a key away."""
    whole: dict[str, Any] = {}
    for one in (COMMON, *settings):
        _lay_over(whole, one)
    return "\n".join(_lines(whole)) + "\n"


def _lay_over(whole: dict[str, Any], settings: Mapping[str, Any]) -> None:
    for key, value in settings.items():
        if isinstance(value, Mapping):
            under = whole.setdefault(key, {})
            _lay_over(under, value)
        elif value is None:
            whole.pop(key, None)
        else:
            whole[key] = value


def _lines(table: Mapping[str, Any], name: str = "") -> Iterator[str]:
    """TOML. Of strings, numbers, truths and lists of them JSON is TOML too."""
    for key, value in table.items():
        if not isinstance(value, Mapping) and not _is_tables(value):
            yield f"{key} = {json.dumps(value, ensure_ascii=False)}"
    for key, value in table.items():
        below = f"{name}.{key}".lstrip(".")
        if isinstance(value, Mapping):
            yield f"[{below}]"
            yield from _lines(value, below)
        elif _is_tables(value):
            for one in value:
                yield f"[[{below}]]"
                yield from _lines(one, below)


def _is_tables(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], Mapping)
