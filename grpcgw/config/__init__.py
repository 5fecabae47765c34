"""What is configured: typed resources, the pure compiler, and the immutable Snapshot it makes. No I/O, no clock."""
