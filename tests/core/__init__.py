"""Tests of the core that does no I/O: no socket, no thread that serves, no clock but a number."""
