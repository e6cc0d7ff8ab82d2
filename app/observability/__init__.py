"""What the process tells of itself: metrics, traces and logs. None of it holds tokens or task text.

Start at `metrics`. May import only the modules of `app` itself.
"""
