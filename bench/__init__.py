"""What grpcgw costs, measured: `python -m bench`, explained in docs/performance.md."""
