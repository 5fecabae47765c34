"""Error types that cross module borders. Adapters translate foreign exceptions to these once.

The command line prints a `UserError` as one line, without a traceback.
"""


class GrpcgwError(Exception):
    """Base of every error that grpcgw raises on purpose; its text is for an operator."""


class UserError(GrpcgwError):
    """An error that the user can cause and fix (argument, file, environment); says what, where, and what to do."""
