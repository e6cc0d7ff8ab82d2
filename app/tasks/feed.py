"""What the feed contains, in the order in which it shows the rows of one version."""

from app.tasks.fields import TASK
from app.tasks.lists import LIST

# Their places are the kinds of tombstones.
FEED = (LIST, TASK)
