"""Resolvers called by graphql-core directly, with arguments that it has brought into their Python form.

Strawberry would convert each argument of each request by asking what its type is. graphql-core can do it while it
checks values, if its types know the Python names and classes: `out_name` and `out_type`.

This is for the root fields that return a `Rendered` value. All others are Strawberry's own in every respect, such as
permissions and extensions; only input objects reach them as graphql-core has built them.
"""

from collections.abc import Callable
from dataclasses import MISSING, fields
from typing import Any, get_args

import strawberry
from graphql import GraphQLInputObjectType, GraphQLObjectType, GraphQLSchema
from strawberry import Some
from strawberry.schema.schema_converter import GraphQLCoreConverter
from strawberry.types.arguments import InputContext
from strawberry.types.base import StrawberryMaybe, StrawberryObjectDefinition
from strawberry.types.field import StrawberryField
from strawberry.types.fields.resolver import StrawberryResolver

from app.shapes import require
from schema.engine.execution import Rendered
from schema.engine.single import RENDERED

# Where Strawberry notes on graphql-core's types and fields what they were made of.
DEFINITION = GraphQLCoreConverter.DEFINITION_BACKREF

require(
    [field.name for field in fields(strawberry.Info)] == ["_raw_info", "_field"],
    "strawberry.Info was made of graphql-core's info and a field.",
)


def core(schema: strawberry.Schema) -> GraphQLSchema:
    """graphql-core's schema, which Strawberry's is made into."""
    found: object = schema._schema  # noqa: SLF001 - Strawberry has no public name for it
    if not isinstance(found, GraphQLSchema):
        raise TypeError(f"strawberry.Schema has no graphql-core schema where it had one, but a {type(found).__name__}.")
    return found


def direct(schema: strawberry.Schema) -> strawberry.Schema:
    """The same schema, whose rendered root fields and input types need no conversion by Strawberry."""
    made = core(schema)
    for type_ in made.type_map.values():
        if isinstance(type_, GraphQLInputObjectType):
            _build_directly(type_, type_.extensions[DEFINITION])
    for root in (made.query_type, made.mutation_type):
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
