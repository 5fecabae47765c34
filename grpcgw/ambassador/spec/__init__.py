"""Ambassador's resources as typed models: every field, its type, and what grpcgw does with it."""
