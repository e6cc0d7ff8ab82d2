"""How callers share one process: each has a stated share, and is charged for what it causes.

Start at `turns` (places in turn, a share to each key) and `rate_limits` (what a caller may use in a window of time).
May import `app.observability` and the modules of `app` itself.
"""
