"""The engine: continuous batching of requests over one base model."""
