# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What the gradients of one training step tell of the pictures in it.

The adversary takes part in federated learning: holds the model's weights and
the gradients that a client sent, and no encrypted picture. So these attacks
stand beside those that are registered, which attack data
sets. They need torch, which is imported when they are called.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hime_mm.errors import AttackError

from .base import Guess, Ranking

#: Names of MMPretrain's vision transformers.
EMBEDDING, POSITIONS, ATTENTION = 'patch_embed.projection', 'pos_embed', ('layers.0.attn.qkv',)


@dataclass(frozen=True, eq=False)
class GradientEvidence:
    """What is known of one step: nothing of its input.

    Attributes:
        state (Mapping[str, Tensor]): The model's parameters by name, those
            that an attack names.
        gradients (Mapping[str, Tensor]): Their gradients, those that it names.
    """

    state: Mapping[str, Any]
    gradients: Mapping[str, Any]

    @classmethod
    def of(cls, model: Any) -> 'GradientEvidence':
        """The parameters of a module, and the gradients that they hold."""
        parameters = dict(model.named_parameters())
        return cls(
            {name: one.detach() for name, one in parameters.items()},
            {name: one.grad for name, one in parameters.items() if one.grad is not None},
        )

    def matrix(self, name: str, gradient: bool = True) -> np.ndarray:
        """A parameter or its gradient, float64 of shape (first axis, all others).

        Raises:
            AttackError: If it is missing or not finite.
        """
        import torch

        kind = 'gradient' if gradient else 'parameter'
        known = self.gradients if gradient else self.state
        if name not in known:
            raise AttackError(f'there is no {kind} {name!r}: known are {sorted(known)}')
        found = torch.as_tensor(known[name]).detach().to('cpu', torch.float64).numpy()
        if not np.isfinite(found).all():
            raise AttackError(f'the {kind} {name!r} is not finite: take another step')
        return found.reshape(len(found), -1)


@dataclass(frozen=True, eq=False)
class Patches(Guess):
    """The patches of one picture.

    Attributes:
        patches (np.ndarray): float64 of shape (n, d), one a position, as the
            embedding got them: (C, p, p) flattened, normalised.
        residual (float): Share of the equations' right side that no input
            explains: 0 up to rounding where the closed form holds. The
            confidence is minus its logarithm.
    """

    patches: np.ndarray
    residual: float


def april(
    evidence: GradientEvidence,
    embedding: str = EMBEDDING,
    positions: str = POSITIONS,
    attention: Sequence[str] = ATTENTION,
) -> Patches:
    """The picture of a batch of one, in closed form.

    Lu et al., "APRIL: Finding the Achilles' Heel on Privacy for Vision
    Transformers", CVPR 2022. The tokens z = x Weᵀ + b + E_pos are all that the
    first attention gets, and it is all that they go to. Then A = ∂L/∂E_pos is
    ∂L/∂z = Gq Wq + Gk Wk + Gv Wv, and since the gradient of a weight is
    gW = Gᵀ z,

        Aᵀ z = Wqᵀ gWq + Wkᵀ gWk + Wvᵀ gWv,

    of which all but z is known: linear equations, solved by least squares;
    then x = (z − E_pos − b) We⁺ᵀ. One set of queries, keys and values in one
    matrix is the same sum.

    It works where

    * the batch holds one picture, since pictures share E_pos, but not z;
    * positions are learned and their gradients handed over: PEViT has none;
    * tokens are no more than the width, and the width is no less than the
      numbers of a patch;
    * neither a LayerNorm nor a residual connection stands between: the
      pre-norm transformers of today, MMPretrain's among them, lie outside of
      the closed form, and :attr:`Patches.residual` says so. That protects
      nothing: attacks that search for the input remain.

    Args:
        evidence (GradientEvidence): With the parameters named below, and the
            gradients of positions and attention.
        embedding (str): The patch embedding; ``.weight`` and ``.bias`` are
            looked up. Defaults to MMPretrain's name.
        positions (str): Learned positions of shape (1, n, D); extra tokens
            come first. Defaults to MMPretrain's name.
        attention (Sequence[str]): The linear layers that tokens go to.
            Defaults to MMPretrain's name.

    Returns:
        Patches: One row a position; those of extra tokens come first, and are
        no patches.

    Raises:
        AttackError: If parameters are missing or not finite, or there are more
            unknowns than equations.
    """
    weight = evidence.matrix(f'{embedding}.weight', gradient=False)
    width = len(weight)
    shared = evidence.matrix(positions).reshape(-1, width)
    if len(shared) > width or width < weight.shape[1]:
        raise AttackError(
            f'{len(shared)} tokens of width {width}, of patches of {weight.shape[1]} numbers, '
            'have more unknowns than equations: nothing to solve'
        )
    right = sum(
        evidence.matrix(f'{name}.weight', gradient=False).T @ evidence.matrix(f'{name}.weight')
        for name in attention
    )
    tokens = np.linalg.lstsq(shared.T, right, rcond=None)[0]
    residual = _share(right - shared.T @ tokens, right)
    tokens = tokens - evidence.matrix(positions, gradient=False).reshape(-1, width)
    if f'{embedding}.bias' in evidence.state:
        tokens -= evidence.matrix(f'{embedding}.bias', gradient=False).ravel()
    patches = np.linalg.lstsq(weight, tokens.T, rcond=None)[0].T
    return Patches(-float(np.log(max(residual, 1e-300))), patches, residual)


def patch_span(
    evidence: GradientEvidence, embedding: str = EMBEDDING, rounding: float | None = None
) -> np.ndarray:
    """What the gradient of the patch embedding spans: directions of the batch's patches.

    ∂L/∂We = Σ δ_n x_nᵀ over all patches of the batch, so that its rows lie in
    the span of the patches, wherever these were, and whatever comes after.
    They span the same as long as patches are fewer than the width of the
    tokens and than the numbers of a patch.

    Args:
        evidence (GradientEvidence): With the gradient of the embedding.
        embedding (str): The patch embedding. Defaults to MMPretrain's name.
        rounding (float, optional): Share of the largest singular value below
            which one is rounding. None is twice the precision of the
            gradient's type, since the decomposition rounds, too; after mixed
            precision 1e-3 does. Defaults to None.

    Returns:
        np.ndarray: float64 of shape (r, d), orthonormal rows.

    Raises:
        AttackError: If the gradient is missing, zero or not finite.
    """
    name = f'{embedding}.weight'
    gradient = evidence.matrix(name)
    if not gradient.any():
        raise AttackError(f'the gradient of {name!r} is zero: is the layer frozen?')
    _, values, rows = np.linalg.svd(gradient, full_matrices=False)
    share = rounding or 2 * _eps(evidence.gradients[name])
    return rows[values > share * values[0]]


def patches_in_batch(
    evidence: GradientEvidence,
    candidates: np.ndarray,
    public: np.ndarray | None = None,
    embedding: str = EMBEDDING,
    rounding: float | None = None,
) -> Ranking:
    """Which of these patches were in the batch, by how far each is from the span.

    Works against PEViT, which has no positions, shuffled or not: the adversary
    learns that a picture was trained on, not its layout. Where the batch holds
    as many patches as one has numbers, and tokens are as wide, the gradient
    spans everything, and all candidates score the same.

    Otherwise it degrades. Patches are smooth, so that most of any lies in the
    span of others; measured by the covariance of public patches, what counts
    is the rest. On photos at 224x224, 196 patches of 768 numbers, a patch of
    the batch then ranks before one of other photos with a probability of 1.00
    from gradients in float32, 0.89 to 0.97 (six photos) where the forward
    pass was in bfloat16, 0.94 to 0.99 in float32 with tokens of width 64, and
    0.80 to 0.85 with four photos in such a batch. Gradients of another photo
    gave 0.42 to 0.62.

    Args:
        evidence (GradientEvidence): With the gradient of the embedding.
        candidates (np.ndarray): Shape (m, C, p, p) or (m, d), as the model
            gets them: encrypted and normalised.
        public (np.ndarray, optional): Patches of others, such as (k, d), made
            alike, to measure distances by. Defaults to None.
        embedding (str): The patch embedding. Defaults to MMPretrain's name.
        rounding (float, optional): See :func:`patch_span`. Defaults to None.

    Returns:
        Ranking: Minus the share of each candidate's length that lies outside
        of the span: 0 up to rounding for those of the batch. -1 for patches of
        zeros, which are in every span. The confidence is the share of
        directions that the span leaves out: at 0 nothing can be told.

    Raises:
        AttackError: If the gradient is missing, zero or not finite, or patches
            do not have its size.
    """
    span = patch_span(evidence, embedding, rounding)
    numbers = span.shape[1]
    wanted = _flat(candidates, numbers)
    confidence = 1 - len(span) / numbers
    if public is not None:
        white = _whitening(_flat(public, numbers))
        wanted, span = wanted @ white, np.linalg.qr((span @ white).T)[0].T
    outside = np.linalg.norm(wanted - wanted @ span.T @ span, axis=1)
    size = np.linalg.norm(wanted, axis=1)
    scores = -np.divide(outside, size, out=np.ones(len(wanted)), where=size > 0)
    return Ranking(confidence, scores)


def _flat(patches: np.ndarray, numbers: int) -> np.ndarray:
    flat = np.asarray(patches, np.float64).reshape(len(patches), -1)
    if flat.shape[1] != numbers:
        raise AttackError(
            f'patches have {flat.shape[1]} numbers each, but the embedding '
            f'takes {numbers}: cut and encrypt them as the model gets them'
        )
    return flat


def _whitening(patches: np.ndarray) -> np.ndarray:
    """What makes the second moments of these patches the identity, of shape (d, d)."""
    values, axes = np.linalg.eigh(patches.T @ patches / len(patches))
    # So that directions that few patches have do not count without bounds.
    return axes / np.sqrt(np.maximum(values, 0) + 1e-4 * values.mean())


def _share(part: np.ndarray, whole: np.ndarray) -> float:
    size = float(np.linalg.norm(whole))
    return float(np.linalg.norm(part)) / size if size else 1.0


def _eps(gradient: Any) -> float:
    import torch

    return float(torch.finfo(torch.as_tensor(gradient).dtype).eps)
