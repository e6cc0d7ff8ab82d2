"""Executes the schema: documents are parsed, validated, priced and planned once, then executed with little work.

Start at `admission`, which every transport calls before it executes anything, and `execution`. `prices` estimates what
an operation costs, `document_size` and `document_limits` bound what it may select; `single`, `direct` and `coercion`
are fast paths past graphql-core. Must not import `schema`: callers pass the schema in.
"""
