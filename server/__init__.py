"""The gRPC server: one quantized base model, a different adapter per request."""
