"""What one document may ask for, found in one pass that visits each fragment once."""

from dataclasses import dataclass

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    InlineFragmentNode,
    OperationDefinitionNode,
    SelectionNode,
    SelectionSetNode,
)

from app.errors import LimitExceeded

MOST_TOKENS = 1000
MOST_ROOT_FIELDS = 20
MOST_FIELDS = 500
DEEPEST = 10
# The introspection query of client tools nests its type references this deep.
DEEPEST_INTROSPECTION = 20


@dataclass(frozen=True, slots=True)
class Size:
    """The expanded size of a selection set: fields in it and below, levels, and levels below introspection fields."""

    fields: int = 0
    depth: int = 0
    introspection: int = 0


def check(document: DocumentNode) -> None:
    """Raise LimitExceeded for a document that asks for too much."""
    sizes = _Sizes(document)
    for operation in document.definitions:
        if isinstance(operation, OperationDefinitionNode):
            size = sizes.of(operation.selection_set)
            _hold(sizes.direct(operation.selection_set), MOST_ROOT_FIELDS, "root fields")
            _hold(size.fields, MOST_FIELDS, "fields")
            _hold(size.depth, DEEPEST, "levels of nesting")
            _hold(size.introspection, DEEPEST_INTROSPECTION, "levels of introspection")


def _hold(found: int, most: int, what: str) -> None:
    if found > most:
        raise LimitExceeded(f"The operation has more than {most} {what}.")


class _Sizes:
    def __init__(self, document: DocumentNode) -> None:
        fragments = (node for node in document.definitions if isinstance(node, FragmentDefinitionNode))
        self._fragments = {node.name.value: node for node in fragments}
        self._known: dict[str, Size] = {}
        self._direct: dict[str, int] = {}

    def of(self, selections: SelectionSetNode | None) -> Size:
        parts = [self._selection(node) for node in selections.selections] if selections else []
        return Size(
            sum(part.fields for part in parts),
            max((part.depth for part in parts), default=0),
            max((part.introspection for part in parts), default=0),
        )

    def direct(self, selections: SelectionSetNode) -> int:
        """The fields of a selection set itself, with those of its fragments."""
        return sum(self._direct_of(node) for node in selections.selections)

    def _selection(self, node: SelectionNode) -> Size:
        if isinstance(node, FragmentSpreadNode):
            return self._fragment(node.name.value)
        if isinstance(node, InlineFragmentNode):
            return self.of(node.selection_set)
        assert isinstance(node, FieldNode)  # noqa: S101 - the three kinds of selections there are
        below = self.of(node.selection_set)
        if node.name.value in {"__schema", "__type"}:
            return Size(below.fields + 1, 1, below.depth)
        return Size(below.fields + 1, below.depth + 1, below.introspection)

    def _fragment(self, name: str) -> Size:
        """A fragment's size; validation refuses those that are unknown or spread themselves."""
        if name not in self._known:
            self._known[name] = Size()
            fragment = self._fragments.get(name)
            self._known[name] = self.of(fragment.selection_set if fragment else None)
        return self._known[name]

    def _direct_of(self, node: SelectionNode) -> int:
        if isinstance(node, FragmentSpreadNode):
            return self._direct_fragment(node.name.value)
        return self.direct(node.selection_set) if isinstance(node, InlineFragmentNode) else 1

    def _direct_fragment(self, name: str) -> int:
        if name not in self._direct:
            self._direct[name] = 0
            fragment = self._fragments.get(name)
            self._direct[name] = self.direct(fragment.selection_set) if fragment else 0
        return self._direct[name]
