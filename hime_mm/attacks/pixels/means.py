# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""The means of patches, from how the borders of neighbours fit."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array, diags_array
from scipy.sparse.linalg import spsolve

from hime_mm.ciphers import PatchLayout, join_patches

from ..base import Attack, Evidence, Picture, cut, register_attack
from .lmmse import Lmmse
from .mosaic import as_picture
from .observed import Observed, hindrance, opponents, turned_practice

#: Seams that are learnt from.
SAMPLES = 20000
#: Patches of the pictures whose seams are solved to learn the level of the whole.
SOLVED = 16000
#: Weight of squared coefficients, in units of the mean square of a feature.
RIDGE = 1e-3
#: Degrees of freedom of the errors: the smaller, the heavier the tails.
FREEDOM = 1.0
#: How often rows are weighted anew.
ROUNDS = 6
#: Weight of a row where a patch was left out.
BLIND = 1e-6
#: Quantiles of the values of a picture, of which opposite ones are taken together.
QUANTILES = (0, 0.01, 0.05, 0.5, 0.95, 0.99, 1)


@register_attack
class Seams(Attack):
    """Put the means of patches back, and go on as 'lmmse' does where more is missing.

    All differences within a patch are left. How far the means of two
    neighbours are apart is predicted for each row of their facing borders,
    and the means are those on which most rows of all seams agree. The level
    of the picture as a whole is told by how its values spread, since none may
    leave the range.
    """

    name = 'seams'
    title = 'means of patches from their borders, then linear estimates'
    source = (
        'the Poisson equation of Perez, Gangnet and Blake, "Poisson image editing", '
        'SIGGRAPH 2003, on the grid of patches'
    )
    guesses = Picture

    @classmethod
    def why_not(cls, evidence: Evidence) -> str:
        if not any(step.removes_means for step in evidence.cipher.steps):
            return 'no step removes the means of patches'
        return hindrance(evidence, learns=True)

    def prepare(self, evidence: Evidence) -> None:
        self.evidence, self.observed = evidence, Observed(evidence.cipher)
        self._learn()
        removers = [step for step in evidence.cipher.steps if step.removes_means]
        # Their means come back picture by picture.
        rest = evidence.left([*evidence.images], *removers)
        self.rest = None
        if rest is not None:
            self.rest = Lmmse()
            self.rest.prepare(rest)

    def guess(self, index: int) -> Picture:
        img, layout = self.evidence.images[index], self.evidence.layouts[index]
        img, confidence = self._restore(img, layout)
        if self.rest is not None:
            self.rest.evidence.images[index] = img
            img = self.rest.guess(index).img
        return Picture(confidence, img)

    def _learn(self) -> None:
        rng = np.random.default_rng(self.evidence.seed)
        practice = [one for views in turned_practice(self.evidence) for one in views]
        share = SAMPLES / max(sum(2 * one.layout.num_patches for one in practice), 1)
        samples, known = [], []
        for one in practice:
            grid = Grid.of(self.observed, one.encrypted, one.layout)
            seen = self.observed.apply(self.observed.plain(one.plain))
            levels = seen.mean(axis=(1, 2)) @ opponents(seen.shape[-1])
            rows = grid.both_there & (rng.random(len(grid.first)) < share)
            apart = (levels[grid.second] - levels[grid.first])[rows]
            samples.append((grid.strips(rows), apart))
            known.append((grid, levels))
        self.model = SeamModel.fit(*map(np.concatenate, zip(*samples, strict=True)))
        # The level of the whole, and by how much what was found is too flat, is learnt as well.
        products, targets = [], []
        size = max(len(grid.pieces) for grid, _ in known)
        for grid, levels in known[: max(SOLVED // size, 6)]:
            rows = grid.there
            found = brightness(grid.pieces, solve(grid, self.model)[0])[:, rows]
            back = found.swapaxes(1, 2) / max(rows.sum(), 1)
            products.append(back @ found)
            targets.append(back @ levels.T[:, rows, None])
        self.scale = ridge(np.sum(products, axis=0), np.sum(targets, axis=0), RIDGE)

    def _restore(self, img: np.ndarray, layout: PatchLayout) -> tuple[np.ndarray, float]:
        """A picture with the means put back, and how well its seams agree on them."""
        grid = Grid.of(self.observed, img, layout)
        found, misfit = solve(grid, self.model)
        levels = (brightness(grid.pieces, found) @ self.scale)[..., 0].T
        means = grid.pieces.mean(axis=(1, 2))
        detail = grid.pieces - means[:, None, None]
        low, high = -detail.min(axis=(1, 2)), 255 - detail.max(axis=(1, 2))
        levels = np.clip(levels @ opponents(means.shape[1]).T, low, np.maximum(low, high))
        shift = np.where(grid.there[:, None], levels - means, 0)
        patches = cut(img, layout) + shift[:, None, None]
        return as_picture(join_patches(patches, layout.grid), img.ndim), -misfit


class Grid(NamedTuple):
    """What is seen of one picture, and its m seams."""

    pieces: np.ndarray  #: float32 of shape (n, q, q, C).
    there: np.ndarray  #: bool of shape (n, ).
    first: np.ndarray  #: int64 of shape (m, ), the patch left of a seam, or above it.
    second: np.ndarray  #: The one right of it, or below.
    lies: np.ndarray  #: bool of shape (m, ), whether the seam is a horizontal one.

    @classmethod
    def of(cls, observed: Observed, img: np.ndarray, layout: PatchLayout) -> 'Grid':
        """The grid of an encrypted picture."""
        pieces = observed.pieces(img, layout)
        cells = np.arange(len(pieces)).reshape(layout.grid)
        first = np.concatenate([cells[:, :-1].ravel(), cells[:-1].ravel()])
        second = np.concatenate([cells[:, 1:].ravel(), cells[1:].ravel()])
        return cls(
            pieces,
            observed.there(pieces),
            first,
            second,
            np.arange(len(first)) >= cells[:, 1:].size,
        )

    @property
    def both_there(self) -> np.ndarray:
        """np.ndarray: bool of shape (m, ), whether both patches are."""
        return self.there[self.first] & self.there[self.second]

    def strips(self, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Both patches of some seams: shape (k, 2, q, q, C).

        The axes of a patch are the place along the seam and the distance from it.
        """
        both = self.pieces[np.stack([self.first[rows], self.second[rows]], axis=1)]
        lies = self.lies[rows]
        both[lies] = both[lies].swapaxes(2, 3)
        both[:, 0] = both[:, 0, :, ::-1]
        return both


@dataclass(frozen=True, eq=False)
class SeamModel:
    """How far the levels of two neighbours are apart, as each row of their borders tells it.

    A level is the mean of what is seen of a patch, by opponent colours.
    """

    weights: np.ndarray  #: Of shape (C, f, 1).
    noise: np.ndarray  #: Of shape (2, C): log-variance by the log of what happens at the row.

    @classmethod
    def fit(cls, strips: np.ndarray, apart: np.ndarray) -> 'SeamModel':
        """Learn from strips of shape (k, 2, q, q, C) and differences of shape (k, C)."""
        channels = strips.shape[-1]
        features = row_features(strips)
        flat = features.reshape(channels, -1, features.shape[-1])
        target = np.repeat(apart.T, strips.shape[2], axis=1)[..., None]
        back = flat.swapaxes(1, 2)
        weights = ridge(back @ flat, back @ target, RIDGE)
        errors = (target - flat @ weights)[..., 0]
        line = np.stack([np.ones(errors.shape[1]), np.log1p(activity(strips).ravel())], axis=1)
        # One grey level is what rounding makes unsure.
        noise = np.linalg.lstsq(line, np.log1p(errors.T**2), rcond=None)[0]
        return cls(weights, noise)

    def predict(self, strips: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The differences and their variances by each row, both of shape (C, m, q)."""
        apart = (row_features(strips) @ self.weights[:, None])[..., 0]
        offset, slope = self.noise[..., None, None]
        return apart, np.exp(offset + slope * np.log1p(activity(strips)))


def row_features(strips: np.ndarray) -> np.ndarray:
    """What each row and the two beside it look like, across the seam: shape (C, m, q, f)."""
    means = strips.mean(axis=(2, 3), keepdims=True)
    detail = strips - means
    # Mirrored at the seam, the difference changes its sign, and so do the features.
    slope = detail[:, 0] - detail[:, 1]
    padded = np.pad(slope, ((0, 0), (1, 1), (0, 0), (0, 0)), 'edge')
    apart = np.broadcast_to((means[:, 0] - means[:, 1]), (*slope.shape[:2], 1, slope.shape[3]))
    parts = [slope, padded[:, :-2] + padded[:, 2:], apart]
    features = np.concatenate(parts, axis=2)
    colours = features.reshape(-1, slope.shape[3]) @ opponents(slope.shape[3])
    return np.ascontiguousarray(colours.reshape(features.shape).transpose(3, 0, 1, 2))


def activity(strips: np.ndarray) -> np.ndarray:
    """How much happens at each row of a seam, across it and along it, of shape (m, q)."""
    border = strips[:, :, :, 0]
    across = np.abs(border - strips[:, :, :, min(1, strips.shape[3] - 1)])
    along = np.abs(np.diff(border, axis=2, append=border[:, :, -1:]))
    return (across + along).mean(axis=(1, 3))


def solve(grid: Grid, model: SeamModel) -> tuple[np.ndarray, float]:
    """The levels on which most rows agree: of shape (C, n), with mean 0; and by how much they miss.

    It is a least squares problem in which rows that fit badly count less and
    less, as for errors of Student's distribution.
    """
    n, m = len(grid.pieces), len(grid.first)
    channels = grid.pieces.shape[-1]
    if not m:
        return np.zeros((channels, n)), 0.0
    apart, variance = model.predict(grid.strips())
    sure = 1 / variance.mean(axis=0)
    blind = ~grid.both_there
    apart[:, blind], sure[blind] = 0, BLIND
    ends = np.stack([grid.first, grid.second], axis=1).ravel()
    difference = csr_array((np.tile([-1.0, 1.0], m), ends, np.arange(0, 2 * m + 1, 2)), (m, n))
    trust = sure
    for _ in range(ROUNDS):
        total = trust.sum(axis=1)
        wanted = (apart * trust).sum(axis=2) / total
        # Without the small diagonal any constant would do.
        normal = difference.T @ diags_array(total) @ difference + diags_array(np.full(n, 1e-9))
        levels = spsolve(normal.tocsc(), difference.T @ (total * wanted).T).reshape(n, -1).T
        errors = (difference @ levels.T).T[..., None] - apart
        trust = sure * (FREEDOM + 1) / (FREEDOM + (errors**2 / variance).mean(axis=0))
    misfit = np.sqrt(np.average(errors[0] ** 2, weights=trust))
    return levels - levels.mean(axis=1, keepdims=True), float(misfit)


def brightness(pieces: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """What tells the true levels, beside those that were found: shape (C, n, f).

    Of the whole picture this is how its values lie about their mean, of a
    patch how its own do: where a picture has black and white in it, they say
    where the mean is.
    """
    channels, n = levels.shape
    colours = opponents(channels)
    detail = pieces - pieces.mean(axis=(1, 2), keepdims=True)
    values = detail + (levels.T @ colours.T)[:, None, None]
    flat = np.ascontiguousarray(values.reshape(-1, channels).T)
    spread = np.quantile(flat, QUANTILES, axis=1)
    half = len(QUANTILES) // 2
    whole = (spread[: half + 1] + spread[: half - 1 : -1]) / 2 @ colours
    own = (detail.max(axis=(1, 2)) + detail.min(axis=(1, 2))) / 2 @ colours
    skewed = (detail**3).mean(axis=(1, 2)) / ((detail**2).mean(axis=(1, 2)) + 10) @ colours
    features = np.empty((channels, n, half + 5))
    features[..., : half + 1] = whole.T[:, None]
    features[..., half + 1 :] = np.stack(
        [levels, own.T, skewed.T, np.full_like(levels, 128)], axis=2
    )
    return features


def ridge(products: np.ndarray, targets: np.ndarray, strength: float) -> np.ndarray:
    """Coefficients of shape (C, f, t) from sums of products of (C, f, f) and (C, f, t)."""
    size = products.shape[-1]
    scale = np.trace(products, axis1=1, axis2=2)[:, None, None] / size
    return np.linalg.solve(products + (strength * scale + 1e-9) * np.eye(size), targets)
