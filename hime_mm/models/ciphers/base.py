# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What a torch form is, and what the forms share."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hime_mm.ciphers import PatchLayout, Step
from hime_mm.ciphers.randomness import RNG, draw_bytes, draw_codes

#: The torch forms, by the name of their step.
FORMS: dict[str, type['TorchForm']] = {}


def register_torch(name: str) -> Callable[[type], type]:
    """Make a class known as the torch form of the step of this name."""

    def register(cls: type['TorchForm']) -> type['TorchForm']:
        FORMS[name] = cls
        return cls

    return register


class TorchForm:
    """One step on batches of images, (B, C, H, W), each with its own draw.

    A draw is a tensor whose first axis is the image, or None.

    Args:
        step (Step): The step, with its parameters.
    """

    def __init__(self, step: Step) -> None:
        self.step: Any = step

    def draw(
        self,
        layout: PatchLayout,
        batch: int,
        channels: int,
        rng: RNG,
        device: torch.device,
    ) -> Tensor | None:
        """Draw for all images of a batch of this layout."""
        return None

    def stack(self, draws: Sequence[np.ndarray]) -> Tensor:
        """What :meth:`Step.draw` gave for each image, as one draw."""
        return torch.from_numpy(np.stack(draws))

    def apply(self, x: Tensor, layout: PatchLayout, drawn: Any) -> Tensor:
        """A new batch, encrypted; uint8 or floating-point as ``x``."""
        raise NotImplementedError

    def trace(self, origins: Tensor, drawn: Any) -> Tensor:
        """The plain patch in each slot after this step, -1 for none, (B, N), from that before."""
        return origins

    def embed(self, weight: Tensor, centred: bool) -> Tensor:
        """The kernel for patches after this step that gives tokens most like those before it.

        Args:
            weight (Tensor): The kernel before it, shape (D, C, P, P).
            centred (bool): Whether the mean of each patch is gone already.

        Returns:
            Tensor: Shape (D, C, P', P').
        """
        return weight


def patch_view(x: Tensor, layout: PatchLayout) -> Tensor:
    """A batch as a view of shape (B, C, rows, P, cols, P)."""
    rows, cols = layout.grid
    side = layout.patch_size
    return x.contiguous().view(*x.shape[:2], rows, side, cols, side)


def per_patch(values: Tensor, layout: PatchLayout) -> Tensor:
    """Values of shape (B, N) so that they broadcast over the patches."""
    rows, cols = layout.grid
    return values.view(values.shape[0], 1, rows, 1, cols, 1)


def draw_permutations(count: int, num: int, rng: RNG, device: torch.device) -> Tensor:
    """:func:`~hime_mm.ciphers.randomness.draw_permutations` on a device."""
    raw = np.frombuffer(bytearray(draw_bytes(8 * count * num, rng)), np.int64)
    words = torch.from_numpy(raw).view(count, num)
    # Torch sorts signed words only: the sign bit flipped, their order is that
    # of the unsigned ones.
    words = words.to(device, non_blocking=True) ^ torch.iinfo(torch.int64).min
    return words.argsort(dim=1, stable=True)


def draw_patch_codes(shape: tuple[int, int], bits: int, rng: RNG, device: torch.device) -> Tensor:
    """:func:`~hime_mm.ciphers.randomness.draw_codes` for each patch of each image, (B, N)."""
    codes = draw_codes(shape[0] * shape[1], bits, rng)
    return torch.from_numpy(codes).view(shape).to(device)
