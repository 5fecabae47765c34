"""Connections to pods: which channels to open and close. Decides only; the engine does it."""
