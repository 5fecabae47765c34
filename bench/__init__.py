"""Benchmarks of grpcgw: `python -m bench`, explained in docs/performance.md."""
