"""The engine on libnghttp2: one event loop for all connections of a worker, TLS and HTTP/2 driven with bytes."""
