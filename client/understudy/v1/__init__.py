"""Generated protobuf and gRPC stubs of understudy.v1."""
