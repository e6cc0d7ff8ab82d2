"""HTTP and WebSocket: everything that strangers send passes through here.

Start at `endpoint` (GraphQL over HTTP), `sockets` (GraphQL over WebSocket) or `event_streams` (server-sent events).
`protocols` bounds what the parsers accept; `health`, `explorer` and `metrics_port` are the other addresses. May import
everything below the schema; the schema is handed in by `app.main`.
"""
