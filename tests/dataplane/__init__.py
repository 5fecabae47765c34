"""The data plane over real sockets: every test runs on each engine."""
