"""Who acts, for which tenant, and as what."""

from dataclasses import dataclass
from typing import Final, Literal

Role = Literal["admin", "desk", "technician", "viewer"]


@dataclass(frozen=True, kw_only=True)
class Principal:
    """Every use-case takes one; what it reads and writes is scoped by `tenant`, and `name` goes into the audit."""

    name: str
    tenant: str
    role: Role


LOCAL_PRINCIPAL: Final = Principal(name="local", tenant="local", role="admin")
"""Stands in until identity is built; everything binds to 127.0.0.1 meanwhile."""
