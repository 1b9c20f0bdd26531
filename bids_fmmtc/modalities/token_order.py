"""The order in which an encoder sees its tokens, as the recipe chooses it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bids_fmmtc.errors import RecipeError

_ORDER_FIELDS: dict[str, tuple[str, ...]] = {
    "identity": (),
    "permutation": ("permutation",),
    "shuffles": ("count", "seed"),
}


@dataclass(frozen=True, slots=True)
class TokenOrder:
    """In which order the encoder sees the tokens; it changes the CLS, so it is part of the recipe.

    In training the order was random, anew each time. ``identity`` (parcel by parcel) is simple and repeatable but no
    order the model saw; ``shuffles`` averages the CLS of ``count`` random orders, at that many times the cost.

    Parameters
    ----------
    kind
        ``identity``, ``permutation`` or ``shuffles``.
    permutation
        Of all V*N token numbers, for ``permutation``.
    count, seed
        How many random orders, and the seed of PCG64, for ``shuffles``.

    Raises
    ------
    RecipeError
        An unknown kind, or values that no order fits.
    """

    kind: str = "identity"
    permutation: tuple[int, ...] = ()
    count: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        where = "recipe: brainlm token_order"
        if self.kind not in _ORDER_FIELDS:
            raise RecipeError(f"{where}: {self.kind!r} is none of {', '.join(_ORDER_FIELDS)}.")
        if not all(type(i) is int for i in self.permutation):
            raise RecipeError(f"{where}: a permutation holds whole numbers.")
        if sorted(self.permutation) != list(range(len(self.permutation))):
            raise RecipeError(f"{where}: a permutation of n tokens holds each of 0..n-1 once.")
        if self.kind == "permutation" and not self.permutation:
            raise RecipeError(f"{where}: the permutation is empty.")
        if type(self.count) is not int or self.count < 1:
            raise RecipeError(f"{where}: count must be a whole number of at least 1, found {self.count!r}.")
        if type(self.seed) is not int or self.seed < 0:
            raise RecipeError(f"{where}: seed must be a whole number of at least 0, found {self.seed!r}.")

    @classmethod
    def from_json(cls, data: Any) -> TokenOrder:
        """Build an order from the recipe's option ``token_order``; each kind needs all its fields and no others.

        Raises
        ------
        RecipeError
            As the class, or an unknown or missing field.
        """
        where = "recipe: brainlm token_order"
        if not isinstance(data, Mapping):
            raise RecipeError(f"{where}: expected an object, found {data!r}.")
        kind = data.get("kind")
        if not isinstance(kind, str) or kind not in _ORDER_FIELDS:
            raise RecipeError(f"{where}: kind {kind!r} is none of {', '.join(_ORDER_FIELDS)}.")
        needed = {"kind", *_ORDER_FIELDS[kind]}
        if set(data) != needed:
            raise RecipeError(f"{where}: {kind} has the fields {sorted(needed)}, found {sorted(map(str, data))}.")
        values = dict(data)
        if "permutation" in values:
            if not isinstance(values["permutation"], list | tuple):
                raise RecipeError(f"{where}: permutation must be a list.")
            values["permutation"] = tuple(values["permutation"])
        return cls(**values)

    def orders(self, tokens: int) -> Iterator[NDArray[np.int64]]:
        """Yield the orders (V*N,) for that many tokens.

        Raises
        ------
        RecipeError
            The permutation is of another length.
        """
        self.check(tokens)
        if self.kind == "identity":
            yield np.arange(tokens)
        elif self.kind == "permutation":
            yield np.array(self.permutation, dtype=np.int64)
        else:
            # Raw words of PCG64, sorted: numpy promises that stream for ever, but not that of `permutation()`.
            stream = np.random.PCG64(self.seed)
            for _ in range(self.count):
                yield np.argsort(stream.random_raw(tokens), kind="stable")

    def check(self, tokens: int) -> None:
        """Raise RecipeError if the permutation is not of that many tokens."""
        if self.kind == "permutation" and len(self.permutation) != tokens:
            raise RecipeError(
                f"recipe: brainlm token_order: the permutation has {len(self.permutation)} entries, expected {tokens} "
                "(parcels times tokens per parcel)."
            )
