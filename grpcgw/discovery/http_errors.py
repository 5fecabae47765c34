"""Why a server could not be reached, in words of our own: those of aiohttp name its arguments and change."""

from __future__ import annotations

import os
import ssl

import aiohttp


def explain_failure(error: Exception) -> str:
    """`error` is what a request of aiohttp, or the work with its answer, ended with.

    The server's address is left out: it may come from the environment in part.
    """
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"its certificate cannot be trusted ({cause.verify_message})"
    if isinstance(cause, OSError) and cause.errno and not (cause.filename or isinstance(cause, ssl.SSLError)):
        return f"the connection failed ({os.strerror(cause.errno)})"
    return str(cause) or type(cause).__name__
