# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What an attack got over many pictures, and whether that is more than nothing.

Every risk is measured three times, as anonymeter does (Giomi and others,
"A unified framework for quantifying privacy risk in synthetic data", PoPETs
2023): *main*, the guesses against the truth; *control*, the same guesses
against the truth of other pictures; *baseline*, random guesses against the
truth. Larger is more leakage in every metric.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from hime_mm.errors import HimeError

#: What is measured, by the names in reports and options.
METRICS = {
    'dc': 'share of patches in their own cell (Dc)',
    'nc': 'share of borders between patches that were assembled right (Nc)',
    'lc': 'share of patches in the largest part that was assembled right (Lc)',
    'nc_component': 'Nc of the parts, before the rest was filled up',
    'lc_component': 'Lc of the parts, before the rest was filled up',
    'pixel_order': 'share of pixels of a patch whose place was found, up to a symmetry',
    'psnr': 'likeness of the reconstruction in dB (PSNR)',
    'ssim': 'likeness of the reconstruction (SSIM)',
    'gradient_ssim': 'likeness of the edges of the reconstruction (SSIM of gradients)',
    'rank_1': 'share of pictures that were re-identified',
    'rank_5': 'share of pictures that were among the first five candidates',
    'accuracy': 'share of pictures whose class was found',
    'face_found': 'share of faces that a face detector found',
    'face_recognised': 'share of pictures whose person a face recogniser put first',
    'text_read': 'share of the text that was read, in runs of three letters',
    'object_found': 'share of objects that a detector found',
    'class_named': 'share of pictures whose class a classifier named',
}

#: With fewer pictures there is no interval: that five differ to one side happens by chance in 3 %.
FEWEST = 6
_RESAMPLES = 2000


class Judged(NamedTuple):
    """One picture, by one metric."""

    main: float  #: The guess against the truth.
    control: float  #: The same guess against the truth of another picture.
    baseline: float  #: A random guess against the truth.


@dataclass(frozen=True)
class Estimate:
    """Of the values of all pictures on which the attack ran; None where there are none.

    Attributes:
        mean (float, optional): Mean.
        low (float, optional): Lower end of the 95 % bootstrap interval of the
            mean (percentiles, seeded); None with fewer than six pictures.
        high (float, optional): Upper end.
        median (float, optional): Median.
        max (float, optional): That of the picture of which most leaked.
    """

    mean: float | None = None
    low: float | None = None
    high: float | None = None
    median: float | None = None
    max: float | None = None


@dataclass(frozen=True)
class Risk:
    """One metric of one attack.

    The intervals speak of other pictures under the same cipher. Where all
    values are equal they have no width.

    Attributes:
        metric (str): One of ``METRICS``.
        values (Mapping[str, Judged]): By picture.
        failed (Mapping[str, str]): Pictures on which the attack failed to run,
            and why. They are in no mean: neither as 0 nor unseen.
        seed (int): Of the bootstrap. Defaults to 0.

    Raises:
        HimeError: If the metric is unknown, a value is not finite, or a picture
            was both judged and failed.
    """

    metric: str
    values: Mapping[str, Judged]
    failed: Mapping[str, str] = field(default_factory=dict)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise HimeError(f'no metric is called {self.metric!r}: known are {", ".join(METRICS)}')
        if both := self.values.keys() & self.failed.keys():
            raise HimeError(f'the attack both ran and failed on {", ".join(sorted(both))}')
        for name, judged in self.values.items():
            if not np.isfinite(judged).all():
                raise HimeError(f'{self.metric} of {name} is not finite: {tuple(judged)}')

    @property
    def main(self) -> Estimate:
        """Estimate: The guesses against the truth."""
        return self._estimates[0]

    @property
    def control(self) -> Estimate:
        """Estimate: The same guesses against the truth of other pictures."""
        return self._estimates[1]

    @property
    def baseline(self) -> Estimate:
        """Estimate: Random guesses against the truth."""
        return self._estimates[2]

    @property
    def excess(self) -> Estimate:
        """Estimate: Main less control, picture by picture."""
        return self._estimates[3]

    @property
    def counts(self) -> bool | None:
        """bool | None: Whether main beats control, so that the risk counts.

        It does if the 95 % interval of ``excess`` lies above 0. None with fewer
        than six pictures, which decide nothing.
        """
        return None if self.excess.low is None else self.excess.low > 0

    @cached_property
    def _estimates(self) -> list[Estimate]:
        # In an order of their own: a run that was taken up again gives the same intervals.
        judged = [self.values[name] for name in sorted(self.values)]
        rows = [(*one, one.main - one.control) for one in judged]
        return estimate(np.array(rows, np.float64).reshape(-1, 4), self.seed)

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON, without NaN, in the order in which it is read."""
        return {
            'metric': self.metric,
            'title': METRICS[self.metric],
            'counts': self.counts,
            'pictures': len(self.values),
            'pictures_failed': len(self.failed),
            'main': asdict(self.main),
            'control': asdict(self.control),
            'baseline': asdict(self.baseline),
            'main_less_control': asdict(self.excess),
            'failed': {name: self.failed[name] for name in sorted(self.failed)},
            'values': {
                name: {key: float(value) for key, value in self.values[name]._asdict().items()}
                for name in sorted(self.values)
            },
            'seed': self.seed,
        }


def estimate(table: np.ndarray, seed: int = 0) -> list[Estimate]:
    """Summarize each column of values.

    Args:
        table (np.ndarray): Shape (n, k), a row a picture. All columns are drawn
            together, so that a difference of two is that of their means.
        seed (int): Of the bootstrap. Defaults to 0.
    """
    if not len(table):
        return [Estimate() for _ in range(table.shape[1])]
    intervals = _intervals(table, seed) if len(table) >= FEWEST else [(None, None)] * table.shape[1]
    return [
        Estimate(float(one.mean()), *ends, float(np.median(one)), float(one.max()))
        for one, ends in zip(table.T, intervals, strict=True)
    ]


def _intervals(table: np.ndarray, seed: int) -> list[tuple[float, float]]:
    rng = np.random.default_rng(seed)
    # A part of the draws at a time: of many pictures they would not fit into memory.
    at_once = max(1, 1_000_000 // len(table))
    means = np.concatenate(
        [
            table[
                rng.integers(len(table), size=(min(at_once, _RESAMPLES - done), len(table)))
            ].mean(axis=1)
            for done in range(0, _RESAMPLES, at_once)
        ]
    )
    return [(float(low), float(high)) for low, high in np.quantile(means, (0.025, 0.975), axis=0).T]
