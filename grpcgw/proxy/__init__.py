"""The embedded data plane: one RPC's state machine without I/O, and the engines that drive it."""
