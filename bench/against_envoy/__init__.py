"""What grpcgw does, compared with a real Envoy: `make against-envoy`. Not in tests/, which need no Envoy."""
