"""The door to engines: our own `grpc.aio` server."""
