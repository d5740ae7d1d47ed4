"""Python client of the Understudy server."""
