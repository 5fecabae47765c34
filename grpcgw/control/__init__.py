"""The control process: wiring, when to compile, and publishing to carriers."""
