"""gRPC status codes: the numbers of grpcio, and a name for whatever a pod sends."""

from __future__ import annotations

import grpc
import pytest

from grpcgw.model.codes import OTHER_CODE, Code, countable, status_name


def test_codes_are_those_of_grpcio() -> None:
    assert {code.name: code.value for code in Code} == {code.name: code.value[0] for code in grpc.StatusCode}


@pytest.mark.parametrize(("code", "name"), [(0, "OK"), (Code.UNAVAILABLE, "UNAVAILABLE"), (17, "17"), (-1, "OTHER")])
def test_every_number_has_a_name(code: int, name: str) -> None:
    assert status_name(code) == name


@pytest.mark.parametrize(
    ("code", "counted"), [(0, 0), (16, 16), (17, OTHER_CODE), (-5, OTHER_CODE), (2**31, OTHER_CODE)]
)
def test_codes_that_grpc_does_not_define_are_counted_as_one(code: int, counted: int) -> None:
    assert countable(code) == counted
