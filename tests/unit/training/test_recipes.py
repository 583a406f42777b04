"""Recipes are read strictly, changed by dotted keys, and written so that they read the same."""

from __future__ import annotations

import re
import tomllib

import pytest

from cxrnode.config import template
from cxrnode.training.recipe import Recipe
from cxrnode.training.recipes import (
    RecipeError,
    changed,
    format_recipe,
    in_small,
    parse_recipe,
    read_recipe,
    shipped,
)
from tests.peers import REPOSITORY

PUBLISHED = {
    "nih14-densenet121",
    "nih15-inceptionv3",
    "abnormal-densenet121",
    "nih15-mobilenet",
    "nih15-cnn",
    "pneumonia-resnet152",
    "pneumonia-cnn",
    "nih15-resnet50",
}


def test_the_published_systems_and_our_own_are_shipped() -> None:
    assert set(shipped()) == PUBLISHED | {"demo", "nih14-boxes", "pneumonia-densenet121"}


@pytest.mark.parametrize("name", shipped())
def test_a_shipped_recipe_says_what_the_original_did_and_reads_back_the_same(name: str) -> None:
    text = template(f"recipes/{name}.toml")
    assert text.startswith(f"# {name}: ")
    assert name not in PUBLISHED or ("The original" in text and "differs here" in text)
    recipe = read_recipe(name)
    assert recipe.name == name
    assert parse_recipe(format_recipe(recipe), where="again") == recipe
    for key, where in recipe.search.items():
        changed(recipe, {key: where.choices[0] if where.choices else where.low})


@pytest.mark.parametrize("name", shipped())
def test_the_documentation_has_a_part_for_each_recipe(name: str) -> None:
    text = (REPOSITORY / "docs" / "recipes.md").read_text()
    assert re.search(rf"^## `{name}`$", text, re.MULTILINE)
    assert re.search(rf"^\| `{name}` \|", text, re.MULTILINE), "and a row in the table"


def test_the_documentation_names_every_key_of_a_recipe() -> None:
    text = (REPOSITORY / "docs" / "recipes.md").read_text()
    missing = []
    for name, field in Recipe.model_fields.items():
        section = field.annotation
        arguments = getattr(section, "__args__", ())
        for kind in (section, *arguments):
            for key in getattr(kind, "model_fields", {}):
                if f"`{key}`" not in text:
                    missing.append(f"{name}.{key}")
    assert missing == []


def recipe_text(**replaced: str) -> str:
    text = template("recipes/abnormal-densenet121.toml")
    for old, new in replaced.items():
        pattern = {"watched": r"watched = \[1\]", "rate": r"rate = 3e-4", "labels": r'labels = \["Abnormal"\]'}[old]
        text, count = re.subn(pattern, new, text)
        assert count == 1
    return text


@pytest.mark.parametrize(
    ("replaced", "said"),
    [
        ({"rate": "rate = 3e-4\nspeed = 1"}, r"x\.toml: phases\.0\.speed: not known"),
        ({"rate": "rate = -1"}, r"x\.toml: phases\.0\.rate: .*greater than 0"),
        ({"rate": "rate = 3e-4\nimportance = [1, 2]"}, r"phases\.0\.importance: one number, or one for each label"),
        ({"rate": "rate = 3e-4\naverage = 0.9"}, r"phases\.0\.average: nothing is averaged; give optimiser\.average"),
        ({"watched": "watched = [0]"}, r"fold 0 is held out too"),
        ({"watched": ""}, r"early stopping and the schedule plateau need a fold"),
        ({"labels": 'labels = ["Abnormal", "Abnormal"]'}, r"named twice"),
        ({"labels": "labels = []"}, r"films\.labels: .*at least 1"),
        ({"rate": "rate = 3e-4\nlabels = ['Edema']"}, r"the last one trains what the bundle holds"),
    ],
)
def test_what_is_wrong_is_refused_by_its_key(replaced: dict[str, str], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        parse_recipe(recipe_text(**replaced), where="x.toml")


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(RecipeError) as raised:
        parse_recipe(recipe_text(rate="rate = 0\nspeed = 1"), where="x.toml")
    assert len(str(raised.value).splitlines()) == 2


def test_an_unknown_name_tells_the_shipped_ones() -> None:
    with pytest.raises(RecipeError, match=r"no recipe 'resnet'.*nih15-cnn"):
        read_recipe("resnet")


def test_a_value_is_replaced_by_its_dotted_key() -> None:
    recipe = read_recipe("pneumonia-resnet152")
    other = changed(recipe, {"phases.1.rate": 0.5, "network.dropout": 0.1})
    assert [phase.rate for phase in other.phases] == [recipe.phases[0].rate, 0.5]
    assert other.network.dropout == 0.1
    for key in ("phases.2.rate", "phases.rate", "network.width", "speed"):
        with pytest.raises(RecipeError, match=f"search.{key}"):
            changed(recipe, {key: 1})


def test_a_try_is_smaller_and_watches_no_fold_that_it_holds_out() -> None:
    recipe = read_recipe("nih15-mobilenet")
    small = in_small(recipe, epochs=1, side=64, held_out=(3, 4))
    assert (small.epochs, small.input.size, small.phases[0].side) == (1, 64, 64)
    assert (small.films.held_out, small.films.watched) == ((3, 4), (1,))
    with pytest.raises(RecipeError, match="no fold is left to watch"):
        in_small(recipe, held_out=(1,))


def test_recipes_are_part_of_the_wheel() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    included = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert included["config"] == "cxrnode/templates"
