"""TaskQL's server. Start at `app.main`, which turns settings into a running application.

Data flows down through the packages, from requests to PostgreSQL. No package imports from one above it. From top to
bottom:

    app.cli, app.main, app.startup   the command line, the composition root, checks before the first request
    schema, schema.engine            the GraphQL API, and its execution
    app.web                          HTTP and WebSocket
    app.data                         commands that move the data of users: seed, reset, users, export, import
    app.identity                     authentication
    app.tasks                        tasks: their fields, and features that only tasks have
    app.entities                     data that belongs to a user: reads, writes, filters, orders, changes
    app.live                         delivery of changes to subscribers
    migrations                       the history of the database schema
    app.database                     connections, statements, and checks of the database
    app.sharing                      fair shares among callers: turns, rate limits, caches
    app.observability                metrics, traces, logs
    app.settings, app.models, …      modules that all packages may import
"""
