"""`grpcgw explain` says of a call what the gateway does with it."""

from __future__ import annotations

import time
from itertools import product

from dataplane.configured import compile_yaml
from dataplane.lab import Lab, on_http2
from grpcgw.cli.explain import add_own_answer, make_request
from grpcgw.model.codes import Code
from grpcgw.session.explanation import explain_rpc
from tests.jwts import make_signer, write_jwks

SIGNER = make_signer("ec", "ES256")
CONFIGURATION = f"""
    name: greet
    service: pods
    ---
    name: admin
    prefix: /test.Pod/Admin
    service: pods
    host: gateway.test
    ---
    kind: Module
    metadata: {{name: ambassador}}
    spec:
      config: {{max_request_headers_kb: 1, headers_with_underscores_action: DROP_HEADER, xff_num_trusted_hops: 1}}
    ---
    apiVersion: v1
    kind: Secret
    metadata: {{name: keys}}
    stringData: {{ann: key-of-ann, jwks: '{write_jwks(SIGNER).decode()}'}}
    ---
    kind: Filter
    metadata: {{name: keys}}
    spec: {{APIKey: {{keys: [{{secretName: keys}}]}}}}
    ---
    kind: Filter
    metadata: {{name: jwt}}
    spec:
      JWT:
        jwksSecret: {{name: keys}}
        tokenOptional: true
        injectRequestHeaders: [{{name: authorization, value: "{{{{ .token.Claims.sub }}}}"}}]
    ---
    kind: FilterPolicy
    metadata: {{name: policy}}
    spec:
      rules:
        - {{host: open.test}}
        - path: /test.Pod/Unary
          filters:
            - {{name: keys, onDeny: continue, ifRequestHeader: {{name: x-a, valueRegex: ^1$}}}}
            - {{name: jwt, ifRequestHeader: {{name: x-none, negate: true}}}}
        - filters: [{{name: keys, onAllow: break}}, {{name: jwt}}]
    ---
    apiVersion: grpcgw.io/v1alpha1
    kind: AuthorizationPolicy
    metadata: {{name: rules}}
    spec:
      action: DENY
      rules:
        - permissions: [{{method: /test.Pod/Unary}}]
          principals: [{{all: [{{header: {{name: x-a, value: '2'}}}}, {{not: {{claim: {{name: sub, value: ann}}}}}}]}}]
        - principals: [{{address: 10.0.0.0/8}}]
"""
PATHS = (
    *("/test.Pod/Unary", "/test.Pod/Admin", "/test.Pod/unary", "//test.Pod/Unary", "/test.Pod/Unary?x=1"),
    *("/other.Pod/Unary", "/grpc.health.v1.Health/Check"),
)
NAMES = ("gateway.test", "Open.test:80", "other.test", "a..b%")
METADATA = (
    (),
    (("x-a", "1"),),
    (("x-a", "2"),),
    (("x-a", "1"), ("x-a", "2")),
    (("x_a", "1"), ("x-api-key", "key-of-ann")),
    (("x-api-key", "key-of-ann"), ("x-api-key", "key-of-ann")),
    (("authorization", f"Bearer {SIGNER.sign({'sub': 'ann'})}"), ("x-a", "2")),
    (("authorization", f"Bearer {SIGNER.sign({'sub': 'bob'})}"), ("x-a", "2")),
    (("authorization", f"Bearer {SIGNER.sign({'exp': 1})}"),),
    (("x-api-key", "key-of-ann"), ("x-forwarded-for", "10.1.2.3")),
    (("x-grpcgw-any", "1"), ("x-a", "2")),
    (("x-a", "a" * 2000),),
)


@on_http2
def test_what_is_explained_is_what_happens(lab: Lab) -> None:
    configuration = compile_yaml(CONFIGURATION, lab.engine).snapshot
    pod = lab.pod("pods", {"Admin": lambda requests, _: iter(list(requests))})
    gateway = lab.gateway(configuration=configuration, clusters=dict.fromkeys(configuration.clusters, (pod,)))
    gateway.wait_for_ready_pods(len(configuration.clusters))
    client = lab.raw_client(gateway)
    for path, name, metadata in product(PATHS, NAMES, METADATA):
        answer = client.call(path, *metadata, authority=name)
        reason = answer.header("x-grpcgw-reason")
        happens = f"{Code(answer.status).name} ({reason}): {answer.message}" if reason else ""
        request = make_request(path, [f"{key}={value}" for key, value in metadata], "", name, "127.0.0.1", tls=False)
        found = add_own_answer(explain_rpc(configuration, request, time.monotonic()), path)
        refusals = [one.why for mapping in found.mappings for one in mapping.policies if one.verdict == "refuses"]
        assert (found.refused or "".join(refusals)) == happens, f"{path} {name} {metadata}"
