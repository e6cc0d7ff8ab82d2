"""TaskQL's server. Start at `app.main`, which turns settings into a running application.

Data flows down through the packages, from what strangers send to what PostgreSQL stores, and no package imports from
one above it. From top to bottom:

    app.cli, app.main, app.startup   the command line, the composition root, what runs before the first request
    schema, schema.engine            the GraphQL API, and what executes it
    app.web                          HTTP and WebSocket
    app.identity                     who is asking
    app.tasks                        tasks: their fields, and what they alone have
    app.entities                     what a user owns: reading, writing, filtering, ordering, following
    app.live                         who is told of changes
    migrations                       the history of the database
    app.database                     connections, statements, and the checks of a database
    app.sharing                      how callers share the process: turns, rate limits, caches
    app.observability                metrics, traces, logs
    app.settings, app.models, …      the modules of this package that everything may import
"""
