"""The end-to-end demonstration."""
