# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What every rewriter is told."""

from dataclasses import dataclass, field
from fractions import Fraction

from hime_mm.ciphers import Cipher

from ..findings import Finding, warning
from ..plan import Node, Plan


@dataclass(frozen=True)
class Job:
    """One config that is to encrypt, and with what.

    The nodes of ``plan`` are edited in place; the plan itself stays that of the
    config before.
    """

    plan: Plan
    cipher: Cipher
    written: dict  #: The options by which ``hime_mm.Encrypt`` makes the cipher.
    #: ``mean`` and ``std`` of pictures that are encrypted so, where a data set says them.
    statistics: dict[str, list[float]] = field(default_factory=dict)
    notes: list[Finding] = field(default_factory=list)  #: What a user should know of.

    @property
    def side(self) -> int:
        """int: Of an encrypted patch, in pixels."""
        return self.cipher.encrypted_patch_size

    @property
    def ratio(self) -> Fraction:
        """Fraction: Pixels of the encrypted image for each of the plain one, along a side."""
        return Fraction(self.side, self.cipher.patch_size)

    @property
    def model(self) -> Node:
        """Node: What holds the backbone."""
        return self.plan.find(self.plan.backbone.place.rpartition('.')[0])

    def note(self, place: str, text: str, remedy: str = '') -> None:
        """Add what a user should know of."""
        self.notes.append(warning(place, text, remedy))

    def scaled(self, length: float) -> float:
        """A length in plain pixels, in encrypted ones; whole where it is."""
        exact = Fraction(length) * self.ratio
        return int(exact) if exact.denominator == 1 else float(exact)
