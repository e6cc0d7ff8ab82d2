"""Enums of both inputs and outputs."""

from enum import Enum

import strawberry


@strawberry.enum(description="Priority of a task, from lowest to highest.")
class TaskPriority(Enum):
    NONE = strawberry.enum_value("NONE", description="No priority. The default.")
    LOW = strawberry.enum_value("LOW", description="Can wait.")
    MEDIUM = strawberry.enum_value("MEDIUM", description="Should be done soon.")
    HIGH = strawberry.enum_value("HIGH", description="Should be done before other tasks.")
    URGENT = strawberry.enum_value("URGENT", description="Must be done now.")
