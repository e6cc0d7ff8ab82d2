"""How callers share one process: each has a defined share and is charged for the work it causes.

Start at `turns` (fair queueing, with a share for each key) and `rate_limits` (what a caller may use in a time window).
May import `app.observability` and the modules of `app` itself.
"""
