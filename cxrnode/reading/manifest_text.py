"""A manifest as TOML: read strictly, checked, and written so that it reads back as an equal value.

An unknown or missing key is refused by its name: a card read half would give findings under the wrong terms.
"""

from __future__ import annotations

import dataclasses
import math
import re
import tomllib
import types
import typing
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, TypeVar

from cxrnode.errors import BundleError
from cxrnode.reading.manifest import NAME, Calibration, LabelCalibration, Manifest, Saliency

FORMAT = 1

_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_T = TypeVar("_T")


def parse_manifest(text: str) -> Manifest:
    """Read a manifest. Raises BundleError that names the file, the key and the remedy."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BundleError(f"{NAME}: not TOML ({error}); copy the bundle again, or export it again") from error
    if raw.get("format") != FORMAT:
        raise _wrong(
            "format", f"this version reads format {FORMAT}, not {raw.get('format')!r}", "export the bundle again"
        )
    manifest = _parse(Manifest, raw, "")
    _check(manifest)
    return manifest


def format_manifest(manifest: Manifest) -> str:
    """Write a manifest as TOML that `parse_manifest` reads back as an equal value."""
    return "\n".join(_lines(manifest, "")) + "\n"


def _check(manifest: Manifest) -> None:
    """Refuse what is well typed and still cannot be."""
    if manifest.activation != "sigmoid":
        raise _wrong("activation", f"{manifest.activation!r} is not known, only sigmoid", "use a newer cxrnode")
    if not _PLAIN.fullmatch(manifest.name):
        raise _wrong("name", f"{manifest.name!r} is not a plain name", "use letters, digits, dot, dash, underscore")
    for file in manifest.files:
        if not _PLAIN.fullmatch(file.name) or file.name == NAME:
            raise _wrong("files.name", f"{file.name!r} is not a plain file name", "name a file of the bundle's folder")
        if not _SHA256.fullmatch(file.sha256):
            raise _wrong("files.sha256", f"no SHA-256 for {file.name}", "write 64 lower-case hex digits")
    if len({file.name for file in manifest.files}) != len(manifest.files):
        raise _wrong("files.name", "a file is named twice", "name each file once")
    given = manifest.input
    if given.channels not in (1, 3) or given.size < 32 or given.interpolation != "bilinear":
        raise _wrong("input", "size >= 32, 1 or 3 channels and bilinear are what the engine does", "correct it")
    if not len(given.mean) == len(given.std) == given.channels or min(given.std) <= 0:
        raise _wrong("input.mean, input.std", f"{given.channels} numbers each, std above 0, are needed", "correct them")
    _check_shape(manifest)
    use = manifest.intended_use
    if not 0 <= use.age_min <= use.age_max or not use.views or not use.modalities:
        raise _wrong("intended_use", "ages must be in order, views and modalities named", "correct it")
    if not manifest.labels or len({label.name for label in manifest.labels}) != len(manifest.labels):
        raise _wrong("labels", "each output of the network needs a label of its own name", "correct them")
    for label in manifest.labels:
        where = f"labels.{label.name}"
        if label.report and label.concept is None:
            raise _wrong(f"{where}.concept", "missing", "give the coded concept, or set report = false")
        if label.thresholds is not None and label.calibration is None:
            raise _wrong(f"{where}.calibration", "missing beside thresholds", "say what the thresholds were set on")
        if label.calibration is not None:
            _check_calibration(label.calibration, manifest.calibration, f"{where}.calibration")
        if not 0 <= label.map_floor < label.map_ceiling:
            raise _wrong(f"{where}.map_floor", "0 <= map_floor < map_ceiling is needed", "measure the scale again")
        if label.concept is not None and not 0 < len(label.concept.meaning) <= 64:
            raise _wrong(f"{where}.concept.meaning", "1 to 64 characters are needed (PS3.5 6.2, LO)", "shorten it")
    weights = manifest.sha256_of("weights.safetensors")
    for part, made_for in (
        ("calibration", manifest.calibration.weights_sha256),
        ("plausibility", manifest.plausibility.weights_sha256),
    ):
        if made_for != weights:
            raise _wrong(
                f"{part}.weights_sha256",
                f"{part} was made for weights {made_for[:12]}..., the bundle holds {weights[:12]}...",
                "take thresholds and weights from the same export",
            )


def _check_shape(manifest: Manifest) -> None:
    try:
        shape = manifest.shape
    except ValueError as error:
        raise _wrong("head", str(error), "correct it, or export the bundle again") from error
    side = manifest.input.size
    if side < shape.smallest:
        raise _wrong("input.size", f"{shape.architecture} needs {shape.smallest} or more, not {side}", "correct it")
    if shape.flatten_to not in (0, side):
        raise _wrong("head.flatten_to", f"{shape.flatten_to} is not input.size, {side}", "make both the same")
    if manifest.saliency is Saliency.CLOSED and not shape.closed:
        raise _wrong(
            "saliency", "there is no closed form for a head of more than one layer", f'write "{Saliency.GRADCAM}"'
        )


def _check_calibration(one: LabelCalibration, whole: Calibration, where: str) -> None:
    if one.slope <= 0:
        raise _wrong(f"{where}.slope", f"{one.slope!r} would turn the scores round", "calibrate again")
    if one.shown_prevalence is None:
        return
    if not (0 < one.shown_prevalence < 1 and 0 < one.prevalence < 1):
        raise _wrong(f"{where}.shown_prevalence", "both prevalences must lie between 0 and 1", "calibrate again")
    if not whole.population:
        raise _wrong("calibration.population", "missing beside shown_prevalence", "name whose prevalence it is")
    if whole.representative:
        raise _wrong(
            f"{where}.shown_prevalence", "a representative set has the prevalence itself", "remove one of the two"
        )


def _wrong(key: str, what: str, remedy: str) -> BundleError:
    return BundleError(f"{NAME}: {key}: {what}; {remedy}")


def _parse(kind: type[_T], raw: object, where: str) -> _T:
    """Build a dataclass from a TOML table, exactly its keys."""
    assert dataclasses.is_dataclass(kind)
    if not isinstance(raw, Mapping):
        raise _wrong(where, "a table is needed", "correct it")
    hints = typing.get_type_hints(kind)
    prefix = f"{where}." if where else ""
    for key in raw:
        if key not in hints:
            raise _wrong(f"{prefix}{key}", "unknown key", "remove it, or use a newer cxrnode")
    values: dict[str, Any] = {}
    for field in dataclasses.fields(kind):
        if field.name in raw:
            values[field.name] = _value(hints[field.name], raw[field.name], f"{prefix}{field.name}")
        elif field.default is dataclasses.MISSING:
            raise _wrong(f"{prefix}{field.name}", "missing", "add it, or export the bundle again")
    try:
        return typing.cast(_T, kind(**values))
    except ValueError as error:
        raise _wrong(where, str(error), "correct it") from error


def _value(hint: Any, raw: object, where: str) -> Any:
    if isinstance(hint, types.UnionType):  # X | None: the key is simply left out for None
        hint = next(part for part in hint.__args__ if part is not type(None))
    if typing.get_origin(hint) is tuple:
        if not isinstance(raw, list):
            raise _wrong(where, "an array is needed", "correct it")
        return tuple(_value(typing.get_args(hint)[0], item, _item(where, item)) for item in raw)
    if dataclasses.is_dataclass(hint):
        return _parse(typing.cast(type, hint), raw, where)
    if issubclass(hint, StrEnum):
        if raw not in list(hint):
            raise _wrong(where, f"{raw!r} is not one of {', '.join(hint)}", "correct it")
        return hint(raw)
    if hint is float and type(raw) is int:
        raw = float(raw)
    if type(raw) is not hint:
        raise _wrong(where, f"{raw!r} is no {hint.__name__}", "correct it")
    if hint is float and not math.isfinite(typing.cast(float, raw)):
        raise _wrong(where, f"{raw!r} is not finite", "measure it again")
    return raw


def _item(where: str, item: object) -> str:
    return f"{where}.{item['name']}" if isinstance(item, dict) and "name" in item else where


def _lines(value: Any, where: str) -> list[str]:
    """TOML of one dataclass: its plain keys first, then its tables, as TOML 1.0 wants."""
    plain, tables = [], []
    for field in dataclasses.fields(value):
        item, key = getattr(value, field.name), f"{where}.{field.name}" if where else field.name
        if item is None:
            continue
        if dataclasses.is_dataclass(item):
            tables += ["", f"[{key}]", *_lines(item, key)]
        elif isinstance(item, tuple) and item and dataclasses.is_dataclass(item[0]):
            for part in item:
                tables += ["", f"[[{key}]]", *_lines(part, key)]
        else:
            plain.append(f"{field.name} = {_toml(item)}")
    return plain + tables


def _toml(item: object) -> str:
    if isinstance(item, bool):
        return "true" if item else "false"
    if isinstance(item, str):
        escaped = "".join(f"\\{c}" if c in '"\\' else c if c.isprintable() else f"\\U{ord(c):08x}" for c in item)
        return f'"{escaped}"'
    if isinstance(item, tuple):
        return f"[{', '.join(_toml(part) for part in item)}]"
    if isinstance(item, (int, float)):
        return repr(item)
    raise TypeError(f"no TOML for {type(item).__name__}")
