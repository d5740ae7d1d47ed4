"""Trains adapters over a frozen, quantized base and publishes them as artifacts."""
