"""Coercion of variables: one function per input type, built once, since graphql-core looks up the type of each value.

A function takes a JSON value and returns the same as `graphql.coerce_input_value`. It returns Undefined if the value is
invalid, or nested too deeply.
"""

from collections.abc import Callable, Mapping
from typing import Any

from graphql import (
    GraphQLEnumType,
    GraphQLError,
    GraphQLInputObjectType,
    GraphQLInputType,
    GraphQLScalarType,
    Undefined,
    coerce_input_value,
    get_named_type,
    is_enum_type,
    is_input_object_type,
    is_list_type,
    is_non_null_type,
    is_required_input_field,
)
from graphql.execution.values import input_is_nested_too_deeply
from graphql.utilities.coerce_input_value import coerce_default_value

Coerce = Callable[[Any], Any]

# Built-in scalars whose values need no conversion.
_UNCHANGED: Mapping[str, type] = {"String": str, "ID": str, "Boolean": bool}


class Coercions:
    """The coercion functions of a schema's input types."""

    def __init__(self) -> None:
        self._known: dict[str, Coerce] = {}

    def of(self, type_: GraphQLInputType) -> Coerce:
        key = str(type_)
        if key not in self._known:
            self._known[key] = _by_graphql_core(type_) if _is_special(type_) else self._made(type_)
        return self._known[key]

    def _made(self, type_: Any) -> Coerce:
        null, type_ = (Undefined, type_.of_type) if is_non_null_type(type_) else (None, type_)
        if is_list_type(type_):
            return _list(self.of(type_.of_type), null)
        if is_input_object_type(type_):
            return self._object(type_, null)
        return _enum(type_, null) if is_enum_type(type_) else _scalar(type_, null)

    def _object(self, type_: GraphQLInputObjectType, null: object) -> Coerce:
        fields = {name: (field.out_name or name, self.of(field.type)) for name, field in type_.fields.items()}
        required = {name for name, field in type_.fields.items() if is_required_input_field(field)}
        defaults = {field.out_name or name: coerce_default_value(field) for name, field in type_.fields.items()}
        defaults = {name: default for name, default in defaults.items() if default is not Undefined}

        def coerce(value: Any) -> Any:
            if not isinstance(value, dict):
                return Undefined if value is not None else null
            if not (required <= value.keys() <= fields.keys()):
                return Undefined
            if type_.is_one_of and (len(value) != 1 or None in value.values()):
                return Undefined
            found = defaults.copy()
            for name, given in value.items():
                out_name, inner = fields[name]
                found[out_name] = item = inner(given)
                if item is Undefined:
                    return Undefined
            return _built(type_, found)

        return coerce


def _built(type_: GraphQLInputObjectType, found: dict[str, Any]) -> Any:
    try:
        return type_.out_type(found)
    except GraphQLError:
        return Undefined


def _is_special(type_: GraphQLInputType, *within: GraphQLInputObjectType) -> bool:
    """Whether a type is recursive; graphql-core then coerces its values."""
    named = get_named_type(type_)
    if not is_input_object_type(named):
        return False
    inner = [field.type for field in named.fields.values()]
    return named in within or any(_is_special(one, *within, named) for one in inner)


def _by_graphql_core(type_: GraphQLInputType) -> Coerce:
    def coerce(value: Any) -> Any:
        if input_is_nested_too_deeply(value, type_):
            return Undefined
        try:
            return coerce_input_value(value, type_)
        except GraphQLError:
            return Undefined

    return coerce


def _list(inner: Coerce, null: object) -> Coerce:
    def coerce(value: Any) -> Any:
        if value is None:
            return null
        items = [inner(item) for item in (value if isinstance(value, list) else [value])]
        for item in items:
            if item is Undefined:  # not `Undefined in items`: Undefined equals None
                return Undefined
        return items

    return coerce


def _enum(type_: GraphQLEnumType, null: object) -> Coerce:
    values = {name: type_.coerce_input_value(name) for name in type_.values}

    def coerce(value: Any) -> Any:
        return values.get(value, Undefined) if isinstance(value, str) else null if value is None else Undefined

    return coerce


def _scalar(type_: GraphQLScalarType, null: object) -> Coerce:
    unchanged = _UNCHANGED.get(type_.name)

    def coerce(value: Any) -> Any:
        if type(value) is unchanged:
            return value
        try:
            return null if value is None else type_.coerce_input_value(value)
        except Exception:  # noqa: BLE001 - whatever a scalar raises, the value is invalid
            return Undefined

    return coerce
