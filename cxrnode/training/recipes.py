"""Recipes as TOML: read by name or path, changed by dotted keys, written. Loads no torch and opens no film."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from cxrnode.config import template, templates
from cxrnode.errors import Rejected
from cxrnode.training.recipe import Recipe

FOLDER = "recipes"


class RecipeError(Rejected):
    """The recipe is wrong; the message names the key and the remedy."""


def shipped() -> tuple[str, ...]:
    """Return the names of the recipes that ship with cxrnode, sorted."""
    return tuple(Path(name).stem for name in templates(FOLDER, ".toml"))


def read_recipe(name: str) -> Recipe:
    """Return a recipe by its shipped name or the path of a TOML file. Raises RecipeError."""
    if name in shipped():
        return parse_recipe(template(f"{FOLDER}/{name}.toml"), where=f"recipe {name}")
    try:
        return parse_recipe(Path(name).read_text(encoding="utf-8"), where=Path(name).name)
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "not UTF-8"
        raise RecipeError(
            f"no recipe {name!r} ({why}); shipped are {', '.join(shipped())}, any other is a path of a TOML file"
        ) from None


def parse_recipe(text: str, *, where: str) -> Recipe:
    """Read a recipe. Raises RecipeError that names each wrong key, a line for each."""
    try:
        return validated(tomllib.loads(text), where=where)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{where}: not TOML ({error}); correct the line") from None


def validated(values: Mapping[str, Any], *, where: str) -> Recipe:
    """Return the recipe of a table as TOML reads it. Raises RecipeError."""
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        lines = []
        faults = error.errors()
        for one in faults:
            # What holds a fault is at fault itself; only the inner one says what to do.
            if any(other["loc"][: len(one["loc"])] == one["loc"] != other["loc"] for other in faults):
                continue
            key = ".".join(str(part) for part in one["loc"])
            said = "not known; correct or remove it" if one["type"] == "extra_forbidden" else one["msg"]
            lines.append(f"{where}: {key + ': ' if key else ''}{said.removeprefix('Value error, ')}")
        raise RecipeError("\n".join(lines)) from None


def changed(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """Return the recipe with values at dotted keys, such as `phases.0.rate`, replaced. Raises RecipeError."""
    values = recipe.model_dump(mode="python")
    for key, value in changes.items():
        *path, last = key.split(".")
        place: Any = values
        try:
            for part in path:
                place = place[int(part)] if isinstance(place, tuple) else place[part]
            if isinstance(place, tuple) or last not in place:
                raise KeyError
        except (KeyError, IndexError, ValueError, TypeError):
            raise RecipeError(f"search.{key}: the recipe has no such key; name one, such as phases.0.rate") from None
        place[last] = value
    return validated(values, where=f"recipe {recipe.name}")


def in_small(
    recipe: Recipe, *, epochs: int | None = None, side: int | None = None, held_out: tuple[int, ...] | None = None
) -> Recipe:
    """Return the recipe cut for a try: at most so many epochs a phase, another side, other folds.

    Raises RecipeError.
    """
    values = recipe.model_dump(mode="python")
    for phase in (*values["phases"], *values["apart"], *values["together"]):
        if epochs is not None:
            phase["epochs"] = min(phase["epochs"], epochs)
        if side is not None:
            phase["side"] = side
    if epochs is not None:
        explained = values["explanation"]
        explained["films"] = min(explained["films"], 2)
    if side is not None:
        values["input"]["size"] = side
    if held_out is not None:
        films = values["films"]
        films["held_out"] = held_out
        films["watched"] = tuple(fold for fold in films["watched"] if fold not in held_out)
        if recipe.films.watched and not films["watched"]:
            raise RecipeError(
                f"--held-out {' '.join(map(str, held_out))}: no fold is left to watch; the recipe watches "
                f"{', '.join(map(str, recipe.films.watched))}"
            )
    return validated(values, where=f"recipe {recipe.name}")


def format_recipe(recipe: Recipe) -> str:
    """Write a recipe as TOML that `parse_recipe` reads back as an equal value. Comments are not kept."""
    return "\n".join(_lines(recipe.model_dump(mode="json", exclude_none=True), "")).lstrip("\n") + "\n"


def _lines(table: Mapping[str, Any], where: str) -> list[str]:
    plain, deeper = [], []
    for key, value in table.items():
        name = key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else f'"{key}"'
        if isinstance(value, dict):
            deeper += ["", f"[{where}{name}]", *_lines(value, f"{where}{name}.")] if value else []
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            for one in value:
                deeper += ["", f"[[{where}{name}]]", *_lines(one, f"{where}{name}.")]
        else:
            plain.append(f"{name} = {_value(value)}")
    return plain + deeper


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
        return f'"{escaped}"'
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    return repr(value)
