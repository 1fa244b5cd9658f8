"""Which model read a context: its keys and values mean nothing to another one, however alike in size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mechicl.errors import InputError
from mechicl.models import Adapter
from mechicl.models.provenance import weight_digest


@dataclass(frozen=True, eq=False)
class Reader:
    """A model by its weights: itself while it is in memory, by their digest once the context was saved."""

    name: str
    raw: Any = None
    """The model; None where the context comes from a file."""
    saved_digest: str = ""

    @property
    def weight_digest(self) -> str:
        """SHA-256 of its parameters; taken only when asked for, since it reads them all."""
        return self.saved_digest or weight_digest(self.raw)

    def check(self, net: Adapter) -> None:
        """Refuse a model of other weights, or of the same in another processing or dtype, by InputError."""
        if net.raw is not self.raw and weight_digest(net.raw) != self.weight_digest:
            raise InputError(
                f"This context was read by another model than {net.name}: by {self.name} with other weights, "
                "processing or dtype. Load that model in the same way, or read the context again."
            )
