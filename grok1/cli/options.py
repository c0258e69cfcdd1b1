"""Options that several commands have, and commands that take their options in groups."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING, Field, fields
from typing import Annotated, Any, get_type_hints

import typer

RecipeName = Annotated[
    str, typer.Option(metavar="NAME|FILE", help="A shipped recipe (see `grok1 recipes`) or a .toml file.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one recipe value, like parallel.tensor=2. Repeatable."),
]
Device = Annotated[
    str | None, typer.Option(metavar="cpu|cuda|npu", help="The processor to run on; default: what the machine has.")
]


class Grouped:
    """What typer can call in place of a function whose parameters are dataclasses: their fields become its options."""

    def __init__(self, function: Callable[..., None]) -> None:
        self._function = function
        self._groups = {name: group for name, group in get_type_hints(function).items() if name != "return"}
        self.__name__, self.__doc__, self.__module__ = function.__name__, function.__doc__, function.__module__
        parameters = [_parameter(group, each) for group in self._groups.values() for each in fields(group)]
        self.__signature__ = inspect.Signature(parameters)
        self.__annotations__ = {each.name: each.annotation for each in parameters}

    def __call__(self, **values: Any) -> None:
        made = {
            name: group(**{each.name: values[each.name] for each in fields(group)})
            for name, group in self._groups.items()
        }
        self._function(**made)


def _parameter(group: type, field: Field[Any]) -> inspect.Parameter:
    return inspect.Parameter(
        field.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=inspect.Parameter.empty if field.default is MISSING else field.default,
        annotation=get_type_hints(group, include_extras=True)[field.name],
    )
