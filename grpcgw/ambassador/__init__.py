"""The dialect of Ambassador's resources: typed specs, and their compilation to the model."""
