"""The control process: wiring, when to compile, and what the workers get."""
