"""Adapters: reading artifacts, the store, and which versions are in memory."""
