"""Variables are coerced exactly as graphql-core does, whatever a client sends."""

from typing import Any

import pytest
from graphql import (
    GraphQLError,
    GraphQLInputType,
    Undefined,
    coerce_input_value,
    get_named_type,
    is_enum_type,
    is_input_object_type,
    is_list_type,
    is_non_null_type,
    parse_type,
    type_from_ast,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from schema import schema
from schema.engine.coercion import Coercions
from schema.engine.direct import core

CORE = core(schema)
INPUTS = sorted(name for name, type_ in CORE.type_map.items() if is_input_object_type(type_))
SHAPES = ("{}", "{}!", "[{}]", "[{}!]!", "[[{}]]")
SCALARS = ("ID", "String", "Int", "Boolean", "Date", "DateTime", "SyncToken", "TaskPriority")
COERCIONS = Coercions()

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def values(type_: GraphQLInputType, depth: int = 0) -> st.SearchStrategy[Any]:
    """Values that mostly match a type, with mismatches at any depth."""
    if is_non_null_type(type_):
        return values(type_.of_type, depth)
    if is_list_type(type_):
        return st.none() | st.lists(values(type_.of_type, depth), max_size=3) | values(type_.of_type, depth) | anything
    named = get_named_type(type_)
    if is_input_object_type(named):
        if depth > 1:
            return st.none() | st.just({})
        known = {name: values(field.type, depth + 1) for name, field in named.fields.items()}
        strange = st.dictionaries(st.sampled_from(["title", "strange"]), anything, max_size=1)
        return st.none() | st.builds(
            lambda one, two: {**one, **two}, st.fixed_dictionaries({}, optional=known), strange
        )
    if is_enum_type(named):
        return st.sampled_from([*named.values, "none", "", None, 1, True])
    likely = st.sampled_from(["2026-01-31", "2026-01-31T09:30:00Z", "01890a5d-ac96-774b-bcce-b302099a8057", 1, True])
    return st.none() | likely | anything


def by_graphql_core(value: Any, type_: GraphQLInputType) -> Any:
    try:
        return coerce_input_value(value, type_)
    except GraphQLError:
        return Undefined


@pytest.mark.parametrize("name", [shape.format(name) for name in (*INPUTS, *SCALARS) for shape in SHAPES])
@settings(max_examples=40)
@given(data=st.data())
def test_the_same_as_graphql_core(name: str, data: st.DataObject) -> None:
    """Each type accepts and rejects the same values as graphql-core, with equal results."""
    type_: Any = type_from_ast(CORE, parse_type(name))
    assert type_ is not None
    value = data.draw(values(type_))

    ours, theirs = COERCIONS.of(type_)(value), by_graphql_core(value, type_)
    assert repr(ours) == repr(theirs)
    assert (ours is Undefined) == (theirs is Undefined)


def test_deeply_nested_values_are_rejected() -> None:
    """A deeply nested value of a recursive type is rejected before it exhausts the stack."""
    value: dict[str, Any] = {}
    for _ in range(10_000):
        value = {"not": value}

    task_filter: Any = CORE.type_map["TaskFilter"]
    assert COERCIONS.of(task_filter)(value) is Undefined
