"""The contract between the control process and whatever carries the configuration to clients."""
