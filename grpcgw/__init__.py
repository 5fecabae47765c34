"""grpcgw: a gRPC-native API gateway for Kubernetes."""

__version__ = "0.1.0"
