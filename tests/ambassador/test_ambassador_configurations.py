"""Configurations as operators of Ambassador 0.x to Emissary 3.x write them: none of them may be called wrong.

Each file of `configurations` is one. What grpcgw cannot or need not do is a notice; an error here is a false one.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from grpcgw.model.objects import KubeObject, ObjectKey, Severity
from tests.compiling import compile_objects, said
from tests.parsing import parse_objects
from tests.pems import key_pair, secret

FILES = sorted((Path(__file__).parents[1] / "configurations").glob("*.yaml"))
ENVIRONMENT = {"HOST_IP": "10.0.0.7", "CONSUL_PORT": "8500", "GREET_PORT": "50051", "STAGE": "test"}
NOT_FOR_THIS_GATEWAY = "not-mine"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_what_ambassador_serves_is_never_called_wrong(path: Path) -> None:
    objects, problems = parse_objects(path.read_text(), path.name, environment=ENVIRONMENT)
    compiled = compile_objects(*objects, *certificates(objects))
    assert [str(problem) for problem in problems] == []
    assert said(compiled, Severity.ERROR) == []
    served = {obj.key for obj in objects if obj.key.kind == "Mapping" and obj.key.name != NOT_FOR_THIS_GATEWAY}
    assert served <= set(compiled.last_good)


def certificates(objects: tuple[KubeObject, ...]) -> list[KubeObject]:
    """The Secrets that the files name, in each of their namespaces."""
    one = secret(*key_pair("edge"))
    return [
        replace(one, key=ObjectKey("Secret", namespace, name))
        for namespace in {obj.key.namespace for obj in objects}
        for name in ("edge-tls", "authority")
    ]
