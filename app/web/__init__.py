"""HTTP and WebSocket: all requests enter here.

Start at `endpoint` (GraphQL over HTTP), `sockets` (GraphQL over WebSocket) or `event_streams` (server-sent events).
`http_protocol` and `socket_protocol` bound what the parsers accept; `health`, `explorer` and `metrics_port` serve the
other paths. May import all packages below the schema; `app.main` passes the schema in.
"""
