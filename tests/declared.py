"""The task types of the schema: test models derive their fields and sample values from here."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import hypothesis.strategies as st
from graphql import (
    GraphQLEnumType,
    GraphQLInputObjectType,
    GraphQLList,
    GraphQLNonNull,
    GraphQLObjectType,
    build_schema,
    get_named_type,
    is_leaf_type,
    value_from_ast_untyped,
)
from sqlalchemy import FetchedValue

from schema import sdl

SCHEMA = build_schema(sdl())
# Two values of each scalar that are valid for every field of this type.
SCALARS: Mapping[str, tuple[Any, Any]] = {
    "ID": ("00000000-0000-4000-8000-00000000000a", "00000000-0000-4000-8000-00000000000b"),
    "String": ("One text", "another text"),
    "Int": (2, 30),
    "Boolean": (True, False),
    "Date": ("2026-12-24", "9999-12-31"),
    "DateTime": ("2021-11-22T05:33:58.69+00:00", "1999-12-31T23:59:59.000001+00:00"),
}
# The fields of a new task that the server decides if they are omitted or null.
DECIDED = {"completed", "completedAt", "createdAt"}
# The members of a filter that nest filters or select the trash.
NO_CONDITIONS = {"and", "or", "not", "trashed"}


def snake(name: str) -> str:
    """The column name of a field."""
    return re.sub("[A-Z]", lambda letter: "_" + letter[0].lower(), name)


def is_derived(column: Any) -> bool:
    """Whether the database computes a column from others: it is generated, or a trigger sets it."""
    return column.computed is not None or type(column.server_default) is FetchedValue


def leaves(type_name: str) -> dict[str, Any]:
    """The scalar and enum fields of an output type, with their types."""
    type_ = SCHEMA.type_map[type_name]
    assert isinstance(type_, GraphQLObjectType)
    return {name: field.type for name, field in type_.fields.items() if is_leaf_type(get_named_type(field.type))}


def inputs(type_name: str) -> dict[str, Any]:
    """The fields of an input type, with their types."""
    type_ = SCHEMA.type_map[type_name]
    assert isinstance(type_, GraphQLInputObjectType)
    return {name: field.type for name, field in type_.fields.items()}


def values_of(enumeration: str) -> list[str]:
    type_ = SCHEMA.type_map[enumeration]
    assert isinstance(type_, GraphQLEnumType)
    return list(type_.values)


def samples(type_: Any) -> tuple[Any, Any]:
    """Two different values of a type."""
    if isinstance(type_, GraphQLNonNull):
        return samples(type_.of_type)
    if isinstance(type_, GraphQLList):
        first, second = samples(type_.of_type)
        return [first], [second, first]
    if isinstance(type_, GraphQLEnumType):
        names = list(type_.values)
        return names[1], names[-1]
    return SCALARS[type_.name]


def strategy(type_: Any) -> st.SearchStrategy[Any]:
    """Values of an input type, including null if it is nullable."""
    if isinstance(type_, GraphQLNonNull):
        return strategy(type_.of_type).filter(lambda value: value is not None)
    if isinstance(type_, GraphQLInputObjectType):
        return st.fixed_dictionaries({}, optional={name: strategy(field.type) for name, field in type_.fields.items()})
    return st.sampled_from([None, *samples(type_)])


def given(values: Mapping[str, Any]) -> dict[str, Any]:
    """The input of a new task without the nulls by which the server decides."""
    return {name: value for name, value in values.items() if name not in DECIDED or value is not None}


def empty(type_name: str) -> dict[str, Any]:
    """The values of an input's optional fields if omitted: the declared default, else an empty list or None.

    Without those that the server decides.
    """
    type_ = SCHEMA.type_map[type_name]
    assert isinstance(type_, GraphQLInputObjectType)
    return {
        name: _default(field)
        for name, field in type_.fields.items()
        if name not in {"id", *DECIDED} and not isinstance(field.type, GraphQLNonNull)
    }


def _default(field: Any) -> Any:
    if field.ast_node.default_value is not None:
        return value_from_ast_untyped(field.ast_node.default_value)
    return [] if isinstance(field.type, GraphQLList) else None


def conditions(type_name: str) -> Iterator[tuple[str, Any]]:
    """The paths and types of a filter's conditions: completed, due.gte."""
    for name, type_ in inputs(type_name).items():
        if name in NO_CONDITIONS:
            continue
        if isinstance(type_, GraphQLInputObjectType):
            yield from ((f"{name}.{end}", field.type) for end, field in type_.fields.items())
        else:
            yield name, type_


def condition(path: str, value: Any) -> dict[str, Any]:
    """A filter with one condition."""
    name, _, end = path.partition(".")
    return {name: {end: value}} if end else {name: value}
