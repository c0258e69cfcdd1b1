"""Recipes from shipped names, TOML files and plain fields, with `section.key=value` overrides. No torch."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import resources
from pathlib import Path

from pydantic import ValidationError

from grok1.config.axes import AXES
from grok1.config.recipe import Recipe
from grok1.config.refusals import RecipeError, describe_validation_error, printable, quoted, reason_of

if sys.version_info >= (3, 11):
    import tomllib
else:  # Python 3.10 is what the Ascend stack runs
    import tomli as tomllib

Fields = dict[str, object]  # a recipe before it is checked: sections, their keys, values

# overrides that put any recipe on one rank
ONE_RANK = (
    *(f"parallel.{axis}=1" for axis in (*AXES, "virtual_pipeline")),
    *(f"parallel.{end}_stage_layers=0" for end in ("first", "last")),
)
_MAX_RECIPE_BYTES = 16 * 1024  # hostile keys cost tomllib quadratic time; the shipped recipes need 1.5 KiB


def recipe_names() -> list[str]:
    """Names of the shipped recipes, sorted."""
    folder = resources.files("grok1") / "recipes"
    return sorted(entry.name[: -len(".toml")] for entry in folder.iterdir() if entry.name.endswith(".toml"))


def load_recipe(name_or_path: str, overrides: tuple[str, ...] | list[str] = ()) -> Recipe:
    """The recipe of that shipped name or TOML file, with `section.key=value` overrides applied.

    Raises:
        RecipeError: one line that names what is wrong and what to do.
    """
    return build_recipe(f"recipe {name_or_path}", _read_toml(name_or_path), overrides)


def build_recipe(
    what: str,
    fields: Fields,
    overrides: tuple[str, ...] | list[str] = (),
    complete: Callable[[Fields], None] = lambda fields: None,
) -> Recipe:
    """A recipe from plain fields with overrides applied; `complete` then fills in the values that follow from others.

    Raises:
        RecipeError: one line that starts with `what`.
    """
    for override in overrides:
        _apply_override(fields, override)
    complete(fields)
    try:
        return Recipe.model_validate(fields)
    except ValidationError as error:
        raise RecipeError(f"{what}: {describe_validation_error(error)}") from None


def _read_toml(name_or_path: str) -> Fields:
    if name_or_path.endswith(".toml"):
        content = _read_file(Path(name_or_path))
    elif name_or_path in recipe_names():
        content = (resources.files("grok1") / "recipes" / f"{name_or_path}.toml").read_bytes()
    else:
        raise RecipeError(f"unknown recipe {quoted(name_or_path)}; choose one of {_names()}, or give a .toml file")
    if len(content) > _MAX_RECIPE_BYTES:
        raise RecipeError(f"recipe file {name_or_path} is larger than {_MAX_RECIPE_BYTES} bytes; shorten it")
    try:
        return tomllib.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise RecipeError(f"recipe file {name_or_path} is no text in UTF-8: save it as UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise RecipeError(f"recipe file {name_or_path} is not valid TOML: {reason_of(error)}") from None


def _read_file(path: Path) -> bytes:
    """At most one byte more than a recipe may have, so that the caller can refuse a larger file."""
    remedy = f"give a .toml file or one of {_names()}"
    try:
        if not path.is_file():
            raise RecipeError(f"recipe file {path} does not exist; {remedy}")
        with path.open("rb") as file:
            return file.read(_MAX_RECIPE_BYTES + 1)
    except OSError as error:
        raise RecipeError(f"recipe file {str(path)[:80]!r} cannot be read: {error.strerror}; {remedy}") from None


def _names() -> str:
    return ", ".join(recipe_names())


def _apply_override(fields: Fields, override: str) -> None:
    """`parallel.tensor=2` sets fields["parallel"]["tensor"]; the value is read as TOML, else as a string."""
    key, separator, text = override.partition("=")
    path = key.strip().split(".")
    if not separator or not all(path):
        raise RecipeError(f"override {quoted(override)} is not of the form section.key=value, like parallel.tensor=2")
    try:
        value = tomllib.loads(f"value = {text.strip()}")["value"]
    except (ValueError, RecursionError):  # also integers of too many digits, and lists too deep
        value = text.strip()
    *sections, leaf = path
    for section in sections:
        inner = fields.setdefault(section, {})
        if not isinstance(inner, dict):
            raise RecipeError(f"override {quoted(override)}: {printable(section)[:80]} is a value, not a section")
        fields = inner
    fields[leaf] = value
