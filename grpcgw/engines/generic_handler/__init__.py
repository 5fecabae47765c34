"""The engine on grpcio's public API: a `grpc.GenericRpcHandler` of `grpc.aio`."""
