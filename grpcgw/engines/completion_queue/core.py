"""What the engine uses of grpc core: grpcio's private `cygrpc`, checked for fit when this module is imported.

This package alone imports `grpc._cython`. Where the installed grpcio lacks what is used here, the import raises
EngineUnfit.
"""

from __future__ import annotations

import os
from typing import Any

# Must be set before grpc is imported. With the event engine off, the thread that waits on a queue does its socket I/O
# as well: about a third less CPU per RPC (docs/performance.md). The backup poller watches
# connections without RPCs; its default of 5 s would leave a dead pod in the picker for as long.
# A program that embeds the gateway is not affected: it never imports this module.
os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_listener,-event_engine_client")
os.environ.setdefault("GRPC_CLIENT_CHANNEL_BACKUP_POLL_INTERVAL_MS", "200")

import grpc
from grpc._cython import cygrpc as cygrpc

from grpcgw.errors import EngineUnfit

NO_FLAGS = 0
CANCELLED, UNAVAILABLE = 1, 14

Event = Any
"""cygrpc's BatchOperationEvent or RequestCallEvent: no type information is published for them."""

_USED = {
    "Channel": ("integrated_call", "check_connectivity_state", "next_call_event", "close_on_fork"),
    "Server": (
        "request_call",
        "register_completion_queue",
        "add_http2_port",
        "start",
        "shutdown",
        "cancel_all_calls",
        "destroy",
    ),
    "CompletionQueue": ("poll", "shutdown"),
    "CompletionType": ("queue_shutdown", "queue_timeout"),
    "IntegratedCall": ("operate", "cancel"),
    "Call": ("start_server_batch", "peer", "cancel"),
    "BatchOperationEvent": ("batch_operations", "success", "tag"),
    "RequestCallEvent": ("call", "call_details", "invocation_metadata"),
    "auth_context": (),
    "ReceiveCloseOnServerOperation": ("cancelled",),
    "ReceiveMessageOperation": ("message",),
    "ReceiveInitialMetadataOperation": ("initial_metadata",),
    "ReceiveStatusOnClientOperation": ("code", "details", "trailing_metadata"),
    "SendInitialMetadataOperation": (),
    "SendMessageOperation": (),
    "SendStatusFromServerOperation": (),
    "SendCloseFromClientOperation": (),
}


def check_fit() -> None:
    """Raise EngineUnfit where the installed grpcio lacks what this engine calls. Runs when the module is imported."""
    missing = [name for name in _USED if not hasattr(cygrpc, name)]
    missing += [
        f"{name}.{attribute}"
        for name, attributes in _USED.items()
        for attribute in attributes
        if name not in missing and not hasattr(getattr(cygrpc, name), attribute)
    ]
    if missing:
        raise EngineUnfit(f"grpcio {grpc.__version__} does not have {', '.join(missing)}")


check_fit()

RECEIVE_CLOSE = cygrpc.ReceiveCloseOnServerOperation
RECEIVE_MESSAGE = cygrpc.ReceiveMessageOperation
RECEIVE_HEADERS = cygrpc.ReceiveInitialMetadataOperation
RECEIVE_STATUS = cygrpc.ReceiveStatusOnClientOperation
SEND_HEADERS = cygrpc.SendInitialMetadataOperation
SEND_MESSAGE = cygrpc.SendMessageOperation
SEND_STATUS = cygrpc.SendStatusFromServerOperation
HALF_CLOSE = cygrpc.SendCloseFromClientOperation(NO_FLAGS)


def ignore(event: Event) -> None:
    """For batches whose end needs no action."""
