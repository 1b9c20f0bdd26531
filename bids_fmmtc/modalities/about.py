"""What is said of a modality to people: in methods texts, on pages, on model cards. No numbers, no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

LETTERS: Final[Mapping[str, str]] = MappingProxyType({"T": "time series", "V": "volumes", "C": "connectivity"})
"""What a model can read of a recording: FMM_TC's T and C, and V, the image itself; in the order they are named."""


@dataclass(frozen=True, slots=True)
class About:
    """What is said of a modality.

    Parameters
    ----------
    letter
        One of `LETTERS`: what it reads. The ablation takes modalities out by it.
    encoder
        Name of the pretrained network as its authors write it; empty where there is none.
    cite
        How a text cites the network: ``Ortega Caro et al. 2024``.
    reference
        The work in full, as a list of references names it.
    licence
        What a user who has a bundle, but not the network's weights, must know of how to come by them; one clause.
    """

    letter: str
    encoder: str = ""
    cite: str = ""
    reference: str = ""
    licence: str = "Its weights are not in this bundle, so each user brings them"

    def __post_init__(self) -> None:
        if self.letter not in LETTERS:
            raise ValueError(f"a modality reads one of {', '.join(LETTERS)}, found {self.letter!r}")

    @property
    def reads(self) -> str:
        """What it reads, in a word."""
        return LETTERS[self.letter]

    @property
    def embedding(self) -> str:
        """What its vector is, in words."""
        return f"embedding of the {self.reads}" if self.encoder else self.reads
