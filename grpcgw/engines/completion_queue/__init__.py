"""The engine on grpcio's completion queues."""
