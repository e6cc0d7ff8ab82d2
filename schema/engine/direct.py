"""Resolvers called by graphql-core directly, with arguments that it has brought into their Python form.

Strawberry would convert each argument of each request by asking what its type is. graphql-core can do it while it
checks values, if its types know the Python names and classes: `out_name` and `out_type`.

This is for the root fields that return a `Rendered` value. All others are Strawberry's own in every respect, such as
permissions and extensions; only input objects reach them as graphql-core has built them.
"""

from collections.abc import Callable
from dataclasses import MISSING
from typing import Any, get_args

import strawberry
from graphql import GraphQLInputObjectType, GraphQLObjectType
from strawberry import Some
from strawberry.types.arguments import InputContext
from strawberry.types.base import StrawberryMaybe, StrawberryObjectDefinition
from strawberry.types.field import StrawberryField
from strawberry.types.fields.resolver import StrawberryResolver

from schema.engine.execution import Rendered
from schema.engine.single import RENDERED

DEFINITION = "strawberry-definition"


def direct(schema: strawberry.Schema) -> strawberry.Schema:
    """The same schema, whose rendered root fields and input types need no conversion by Strawberry."""
    core = schema._schema  # noqa: SLF001 - Strawberry has no public name for graphql-core's schema
    for type_ in core.type_map.values():
        if isinstance(type_, GraphQLInputObjectType):
            _build_directly(type_, type_.extensions[DEFINITION])
    for root in (core.query_type, core.mutation_type):
        _resolve_directly(root)
    return schema


def _build_directly(type_: GraphQLInputObjectType, definition: StrawberryObjectDefinition) -> None:
    for field, described in zip(type_.fields.values(), definition.fields, strict=True):
        field.out_name = described.python_name
    definition.from_input = _as_it_is
    # Assigned as its constructor does; what was there checks that one of several is given.
    type_.out_type = _builder(definition, type_.out_type)  # type: ignore[method-assign]  # see above


def _as_it_is(_type: type, value: object, _context: InputContext) -> object:
    """An input object for resolvers that Strawberry calls: it is built already."""
    return value


def _builder(definition: StrawberryObjectDefinition, check: Callable[[dict[str, Any]], Any]) -> Callable[..., Any]:
    """What makes an input object of a mapping that graphql-core has checked; what is optional and omitted is None."""
    maybes = frozenset(field.python_name for field in definition.fields if isinstance(field.type, StrawberryMaybe))
    omitted = {field.python_name: None for field in definition.fields if field.default_value is MISSING}
    origin, new = definition.origin, object.__new__

    def build(value: dict[str, Any]) -> Any:
        given = check(value)
        if maybes:
            given = {name: Some(item) if name in maybes else item for name, item in given.items()}
        made = new(origin)
        made.__dict__ = {**omitted, **given}  # as its constructor does, which only takes longer
        return made

    return build


def _resolve_directly(root: GraphQLObjectType | None) -> None:
    for field in root.fields.values() if root else ():
        described: StrawberryField = field.extensions[DEFINITION]
        resolver = described.base_resolver
        if resolver is None or described.extensions or not _is_rendered(resolver):
            continue
        for argument, named in zip(field.args.values(), described.arguments, strict=True):
            argument.out_name = named.python_name
        field.resolve, field.extensions[RENDERED] = _resolver(described), True


def _is_rendered(resolver: StrawberryResolver[Any]) -> bool:
    """Whether a resolver returns what PostgreSQL has rendered; it asks for the selection, so it takes `info`."""
    returned = resolver.signature.return_annotation
    return resolver.info_parameter is not None and Rendered in (get_args(returned) or (returned,))


def _resolver(described: StrawberryField) -> Callable[..., Any]:
    function: Any = described.base_resolver and described.base_resolver.wrapped_func

    def resolve(_source: None, info: Any, **arguments: Any) -> Any:
        return function(None, strawberry.Info(_raw_info=info, _field=described), **arguments)

    return resolve
