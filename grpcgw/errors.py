"""The few error types that cross module borders. Foreign exceptions are translated to these once, at the adapter.

`UserError` is what a user can cause and mend: the command line prints it as one line, without a traceback.
"""


class GrpcgwError(Exception):
    """Base of every error grpcgw raises on purpose; its text is meant to be read by an operator."""


class UserError(GrpcgwError):
    """A wrong argument, file or environment: the message says what was wrong, where, and what to do."""


class EngineUnfit(GrpcgwError):
    """The installed grpcio does not have the shape the completion-queue engine needs; another engine must serve."""
