"""What outlives a request, in one SQL database: SQLite by default, PostgreSQL by URL.

`state.Store` is what the rest of the gateway holds; each family of objects has a file of its own.
"""
