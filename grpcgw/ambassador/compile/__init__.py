"""Compiles Ambassador's typed resources to the model. Pure: no I/O, no clock."""
