"""Counters of each worker, their reports to the control process, and the access log."""
