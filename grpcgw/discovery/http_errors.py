"""Messages for errors of aiohttp requests. The texts of aiohttp itself name its arguments and change."""

from __future__ import annotations

import os
import ssl

import aiohttp


def explain_failure(error: Exception) -> str:
    """The message for `error`, raised by an aiohttp request or while its answer was read.

    It contains neither the server's address, parts of which may come from the environment, nor a URL, whose query may
    be a secret, nor what the server sent.
    """
    if isinstance(error, aiohttp.InvalidURL):
        return "its URL cannot be used"
    if isinstance(error, aiohttp.ClientResponseError):
        return "its answer is no HTTP that can be read"
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"its certificate cannot be trusted ({cause.verify_message})"
    if isinstance(cause, OSError) and cause.errno and not (cause.filename or isinstance(cause, ssl.SSLError)):
        return f"the connection failed ({os.strerror(cause.errno)})"
    return str(cause) or type(cause).__name__
