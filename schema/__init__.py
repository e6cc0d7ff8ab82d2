"""The GraphQL API: types, inputs, queries, mutations, subscriptions.

Start at `queries` and `mutations`: resolvers call the domain through their `context` and contain no SQL. `engine`
executes what this package declares. May import `app.tasks` and the packages below it; only `app.main` and `app.cli`
import this package.
"""

import strawberry

from schema.engine.direct import direct
from schema.mutations import Mutation
from schema.queries import Query
from schema.subscriptions import Subscription
from schema.types import CONFIG, Task, TaskList, User

schema = direct(strawberry.Schema(Query, Mutation, Subscription, types=[Task, TaskList, User], config=CONFIG))


def sdl() -> str:
    """The schema in GraphQL's schema definition language, as committed in schema.graphql."""
    return schema.as_str() + "\n"
