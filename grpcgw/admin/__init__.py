"""The admin port: probes, the diagnostics page and its JSON, Prometheus metrics. Reads, never changes anything."""
