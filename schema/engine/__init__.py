"""What executes the schema: documents are parsed, checked, priced and planned once, then run in few steps.

Start at `admission`, which every transport asks before anything runs, and `execution`. `prices`, `document_size` and
`document_limits` say what a document costs and may ask for; `single`, `direct` and `coercion` are short cuts past
graphql-core. Must not import `schema`: the schema is handed in.
"""
