"""Makes graphql-core call resolvers directly, with arguments that it has already converted to Python objects.

Strawberry would look up the type of each argument of each request to convert it. graphql-core can convert arguments
while it coerces them, if its types have the Python names and classes: `out_name` and `out_type`.

This is for the root fields that return a `Rendered` value. Strawberry resolves all others as usual, with permissions
and extensions; only their input objects are built by graphql-core.
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

# The key under which graphql-core's types and fields refer to Strawberry's definitions.
DEFINITION = GraphQLCoreConverter.DEFINITION_BACKREF

require(
    [field.name for field in fields(strawberry.Info)] == ["_raw_info", "_field"],
    "strawberry.Info was constructed from graphql-core's info and a field.",
)


def core(schema: strawberry.Schema) -> GraphQLSchema:
    """The graphql-core schema that Strawberry has built."""
    found: object = schema._schema  # noqa: SLF001 - Strawberry has no public name for it
    if not isinstance(found, GraphQLSchema):
        raise TypeError(f"strawberry.Schema._schema must be a GraphQLSchema; it is a {type(found).__name__}.")
    return found


def direct(schema: strawberry.Schema) -> strawberry.Schema:
    """Change a schema so that rendered root fields and input types need no conversion by Strawberry; returns it."""
    made = core(schema)
    for type_ in made.type_map.values():
        if isinstance(type_, GraphQLInputObjectType):
            _build_directly(type_, type_.extensions[DEFINITION])
    for type_ in made.type_map.values():
        if isinstance(type_, GraphQLObjectType) and not type_.name.startswith("__"):
            _name_arguments(type_)
    for root in (made.query_type, made.mutation_type):
        _resolve_directly(root)
    return schema


def _name_arguments(type_: GraphQLObjectType) -> None:
    """Give the arguments of fields their Python names, for fields that are not resolved by Strawberry."""
    for field in type_.fields.values():
        described: StrawberryField | None = field.extensions.get(DEFINITION)
        for argument, named in zip(field.args.values(), described.arguments if described else (), strict=True):
            argument.out_name = named.python_name


def _build_directly(type_: GraphQLInputObjectType, definition: StrawberryObjectDefinition) -> None:
    for field, described in zip(type_.fields.values(), definition.fields, strict=True):
        field.out_name = described.python_name
    # Strawberry checks @oneOf types itself, with errors that name no field. graphql-core's do.
    type_.is_one_of = definition.is_one_of
    definition.from_input = _already_built
    # Assigned as its constructor does. Strawberry's own function checks @oneOf types.
    type_.out_type = _builder(definition, type_.out_type)  # type: ignore[method-assign]  # see above


def _already_built(_type: type, value: object, _context: InputContext) -> object:
    """An input object for resolvers that Strawberry calls: it is built already."""
    return value


def _builder(definition: StrawberryObjectDefinition, check: Callable[[dict[str, Any]], Any]) -> Callable[..., Any]:
    """A function that builds an input object from coerced values. Omitted optional fields are None."""
    maybes = frozenset(field.python_name for field in definition.fields if isinstance(field.type, StrawberryMaybe))
    omitted = {field.python_name: None for field in definition.fields if field.default_value is MISSING}
    origin, new = definition.origin, object.__new__

    def build(value: dict[str, Any]) -> Any:
        given = check(value)
        if maybes:
            given = {name: Some(item) if name in maybes else item for name, item in given.items()}
        made = new(origin)
        made.__dict__ = {**omitted, **given}  # the same as its constructor, but faster
        return made

    return build


def _resolve_directly(root: GraphQLObjectType | None) -> None:
    for field in root.fields.values() if root else ():
        described: StrawberryField = field.extensions[DEFINITION]
        resolver = described.base_resolver
        if resolver is None or described.extensions or not _is_rendered(resolver):
            continue
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
