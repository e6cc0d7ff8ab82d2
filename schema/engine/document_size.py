"""The size of a document: one pass that visits each fragment once, but counts it wherever it is spread."""

from dataclasses import dataclass, field, fields
from math import ceil
from typing import Any

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLField,
    GraphQLNamedType,
    GraphQLSchema,
    InlineFragmentNode,
    OperationDefinitionNode,
    OperationType,
    SelectionNode,
    SelectionSetNode,
    get_named_type,
    is_enum_type,
    is_input_object_type,
    is_interface_type,
    is_introspection_type,
    is_object_type,
    is_union_type,
)
from graphql.type import SchemaMetaFieldDef, TypeMetaFieldDef

from schema.engine import prices
from schema.engine.prices import Argument, Factors, Page

INTROSPECTION = {"__schema": SchemaMetaFieldDef, "__type": TypeMetaFieldDef}


@dataclass(slots=True)
class Size:
    """The size of a selection set, fragments expanded."""

    fields: int = 0
    # Fields of the selection set itself, and how many of them are introspection fields.
    direct: int = 0
    introspection: int = 0
    # Levels of nesting, without those below an introspection field.
    depth: int = 0
    aliases: int = 0
    directives: int = 0
    # Fields with the response key of an earlier field of the same selection set.
    repeats: int = 0
    # Values from introspection, rows, and rows in pages whose size depends on variables.
    values: int = 0
    rows: int = 0
    pages: dict[Factors, int] = field(default_factory=dict)
    # What a page of lists costs once: counts, the rows of filters and orders, and those that depend on variables.
    counts: int = 0
    fixed: int = 0
    arguments: list[Argument] = field(default_factory=list)

    def add(self, other: "Size") -> None:
        """Add the size of a sibling."""
        for name in _SUMMED:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.depth = max(self.depth, other.depth)
        self.arguments = [*self.arguments, *other.arguments]
        for factors, times in other.pages.items():
            self.pages[factors] = self.pages.get(factors, 0) + times

    def repeat(self) -> None:
        """Turn what a page costs once into rows, for a field that a page repeats."""
        self.rows, self.counts, self.fixed = prices.rows(self.rows + self.fixed, self.counts, 0), 0, 0
        self.pages |= {(argument,): 1 for argument in self.arguments}
        self.arguments = []

    def multiply(self, page: Page | int) -> None:
        """Multiply the rows by the size of a page. Each of its rows costs one at least."""
        times = self.rows if self.rows or self.pages else 1
        if isinstance(page, int):
            self.rows, self.pages = times * page, {factors: most * page for factors, most in self.pages.items()}
        else:
            self.pages = {(page, *factors): most for factors, most in self.pages.items()}
            self.rows, self.pages[page,] = 0, times


_SUMMED = [one.name for one in fields(Size) if one.name not in {"depth", "pages", "arguments"}]


class Sizes:
    """The sizes of a document's definitions. Unknown names count as leaves; validation rejects them later."""

    def __init__(self, schema: GraphQLSchema, lengths: dict[str, int], document: DocumentNode) -> None:
        self._schema, self._lengths = schema, lengths
        self._roots = [schema.get_root_type(operation) for operation in OperationType]
        fragments = (node for node in document.definitions if isinstance(node, FragmentDefinitionNode))
        self._fragments = {node.name.value: node for node in fragments}
        self._known: dict[str, Size] = {}

    def operation(self, node: OperationDefinitionNode) -> Size:
        size = self._selected(node.selection_set, self._schema.get_root_type(node.operation), set())
        size.directives += len(node.directives or ())
        size.directives += sum(len(one.directives or ()) for one in node.variable_definitions or ())
        return size

    def fragment(self, name: str) -> Size:
        """A fragment's size. A cycle of fragments counts once; validation rejects it later."""
        if name not in self._known:
            self._known[name] = Size()
            node = self._fragments.get(name)
            if node is not None:
                on = self._schema.get_type(node.type_condition.name.value)
                size = self._selected(node.selection_set, on, set())
                size.directives += len(node.directives or ())
                self._known[name] = size
        return self._known[name]

    def _selected(self, selections: SelectionSetNode, on: GraphQLNamedType | None, keys: set[str]) -> Size:
        size, members = Size(), dict[str | None, int]()
        for node in selections.selections:
            one = self._selection(node, on, keys)
            size.add(one)
            size.directives += len(node.directives or ())
            if is_union_type(on):
                member = self._condition(node)
                members[member] = members.get(member, 0) + one.rows
            elif getattr(on, "name", None) in prices.ALTERNATIVES and isinstance(node, FieldNode):
                members[node.name.value] = members.get(node.name.value, 0) + one.rows
        # An object is of one member of the union, or has one of the alternatives: the others touch no rows.
        of_members = [rows for member, rows in members.items() if member not in {None, getattr(on, "name", None)}]
        size.rows += max(of_members, default=0) - sum(of_members)
        return size

    def _condition(self, node: SelectionNode) -> str | None:
        """The type that a fragment applies to."""
        if isinstance(node, FragmentSpreadNode):
            fragment = self._fragments.get(node.name.value)
            return fragment.type_condition.name.value if fragment else None
        condition = node.type_condition if isinstance(node, InlineFragmentNode) else None
        return condition.name.value if condition else None

    def _selection(self, node: SelectionNode, on: GraphQLNamedType | None, keys: set[str]) -> Size:
        if isinstance(node, FragmentSpreadNode):
            return self.fragment(node.name.value)
        if isinstance(node, InlineFragmentNode):
            condition = node.type_condition
            return self._selected(
                node.selection_set, self._schema.get_type(condition.name.value) if condition else on, keys
            )
        assert isinstance(node, FieldNode)  # noqa: S101 - the three kinds of selections there are
        return self._field(node, on, keys)

    def _field(self, node: FieldNode, on: GraphQLNamedType | None, keys: set[str]) -> Size:
        definition = _definition(node, on)
        inner = get_named_type(definition.type) if definition else None
        size = self._selected(node.selection_set, inner, set()) if node.selection_set else Size()
        key = node.alias.value if node.alias else node.name.value
        size.fields += 1
        size.direct = 1
        size.aliases += node.alias is not None
        size.repeats += key in keys
        keys.add(key)
        self._nest(size, node, on)
        if definition is not None:
            _price(size, node, definition, inner, on)
        if on in self._roots and not size.pages:
            size.rows = max(size.rows, 1)
        return size

    def _nest(self, size: Size, node: FieldNode, on: GraphQLNamedType | None) -> None:
        """Add a level of nesting; below introspection fields, count values instead."""
        size.introspection = int(node.name.value in INTROSPECTION)
        if on is not None and is_introspection_type(on):
            size.values = (size.values + 1) * self._lengths.get(node.name.value, 1)
        else:
            size.depth += 1


def _definition(node: FieldNode, on: GraphQLNamedType | None) -> GraphQLField | None:
    name = node.name.value
    if is_object_type(on) or is_interface_type(on):
        return on.fields.get(name) or INTROSPECTION.get(name)
    return None


def _price(size: Size, node: FieldNode, definition: GraphQLField, inner: Any, on: GraphQLNamedType | None) -> None:
    """Set the rows of a field: the rows of its selection set, times its page size."""
    is_row = "Node" in {inner.name, *(one.name for one in getattr(inner, "interfaces", ()))}
    is_repeated = on is not None and (on.name, node.name.value) in prices.REPEATED
    size.rows += is_row and not (is_repeated and prices.is_known(node))
    if on is not None:
        size.rows += prices.LONG.get((on.name, node.name.value), 0)
    size.counts += node.name.value in prices.COUNTS
    if is_repeated:
        size.repeat()
    page = prices.page(node, definition)
    if page is not None:
        size.multiply(page)
    rows, arguments = prices.conditions(node)
    size.fixed += rows + prices.ROWS_OF_CHANGES.get(node.name.value, 0)
    size.arguments = [*size.arguments, *arguments]


def lengths(schema: GraphQLSchema) -> dict[str, int]:
    """The average length of each list of introspection, per type or field, rounded up."""
    types = schema.type_map.values()
    shown = [
        one for type_ in types if is_object_type(type_) or is_interface_type(type_) for one in type_.fields.values()
    ]
    inputs = sum(len(type_.fields) for type_ in types if is_input_object_type(type_))
    values = sum(len(type_.values) for type_ in types if is_enum_type(type_))
    totals = {"fields": len(shown), "inputFields": inputs, "enumValues": values}
    means = {name: ceil(total / len(types)) for name, total in totals.items()}
    return {**means, "types": len(types), "args": ceil(sum(len(one.args) for one in shown) / len(shown))}
