"""Ambassador's kinds as discovery needs to know them (`model.dialect`)."""

from __future__ import annotations

from grpcgw.ambassador.compile.misspelt import RESTRICTING_KINDS
from grpcgw.ambassador.spec.certificate_paths import find_named_files
from grpcgw.ambassador.spec.parse import is_meant_for
from grpcgw.ambassador.spec.resources import API_GROUPS, MODELS
from grpcgw.ambassador.spec.secret_names import NAMING_KINDS, find_named_secrets
from grpcgw.model.dialect import DialectObjects

AMBASSADOR_OBJECTS = DialectObjects(
    api_groups=API_GROUPS,
    kinds=frozenset(MODELS),
    restricting_kinds=RESTRICTING_KINDS,
    naming_kinds=NAMING_KINDS,
    is_meant_for=is_meant_for,
    find_secrets=find_named_secrets,
    find_files=find_named_files,
)
