"""gRPC: thin servicers around the engine and the adapters."""
