"""The commands of `grpcgw`."""
