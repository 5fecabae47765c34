"""Builds grpcgw. With GRPCGW_COMPILE=1, mypyc compiles the modules that every RPC passes (docs/decisions/040).

Everything else about the package is in pyproject.toml.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from setuptools import Extension, setup

COMPILED = (
    "balancer/least_request.py",
    "balancer/round_robin.py",
    "engines/exchange.py",
    "engines/http2/client_connection.py",
    "engines/http2/client_rpc.py",
    "engines/http2/client_side.py",
    "engines/http2/connection.py",
    "engines/http2/memory_bound.py",
    "engines/http2/owed_resets.py",
    "engines/http2/part_cutter.py",
    "engines/http2/pod_attempt.py",
    "engines/http2/pod_connection.py",
    "engines/http2/pod_link.py",
    "engines/http2/policy_replies.py",
    "engines/http2/reset_budget.py",
    "engines/http2/timers.py",
    "engines/http2/turn.py",
    "policy/chain.py",
    "policy/ext_authz/ext_authz_policy.py",
    "policy/ext_authz/ext_authz_request.py",
    "policy/filter_policy.py",
    "policy/metadata_editor.py",
    "policy/protobuf_fields.py",
    "policy/request.py",
    "policy/timeouts.py",
    "policy/tokens/jwt_policy.py",
    "routing/header_match.py",
    "routing/routing_snapshot.py",
    "routing/table.py",
    "session/admission.py",
    "session/ending.py",
    "session/forwarding.py",
    "session/further_tries.py",
    "session/message_reader.py",
    "session/message_scanner.py",
    "session/pod_try.py",
    "session/policy_rpc.py",
    "session/policy_stage.py",
    "session/record.py",
    "session/relay.py",
    "session/request_side.py",
    "session/response_side.py",
    "session/session.py",
    "telemetry/counters.py",
    "upstream/pod.py",
)
"""Not among them: classes that are held by weak references or stood in for by others, which mypyc does not allow, and
`engines/http2/headers.py` and `responses.py`, as mypyc makes a plain tuple of a field that must never be indexed."""


def find_extensions() -> Sequence[Extension]:
    if os.environ.get("GRPCGW_COMPILE") != "1":
        return ()
    # Imported here: whoever installs grpcgw as it is needs neither mypyc nor a C compiler.
    from mypyc.build import mypycify

    return mypycify([f"grpcgw/{name}" for name in COMPILED], opt_level="2", debug_level="0")


setup(ext_modules=list(find_extensions()))
