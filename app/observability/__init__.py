"""Metrics, traces and logs. They never contain tokens or task text.

Start at `metrics`. May import only the modules of `app` itself.
"""
