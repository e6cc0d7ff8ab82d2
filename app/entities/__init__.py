"""What all entities that a user owns have in common: reading, writing, filtering, ordering, following.

Start at `problems`. May import `app.live` and what is below. It knows neither GraphQL nor HTTP.
"""
