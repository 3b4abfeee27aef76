# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import json
import random
import statistics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hime_mm.errors import HimeError
from hime_mm.evaluation.leakage import METRICS, Estimate, Grade, Judged, Risk, estimate, grade_risk

FINITE = st.floats(-1e6, 1e6)
VALUES = st.dictionaries(st.text(), st.builds(Judged, FINITE, FINITE, FINITE), max_size=12)


def risk(main, control=0.1, baseline=0.1, metric='nc', **options):
    """One with values in columns; numbers stand for columns of them."""
    columns = np.broadcast_arrays(main, control, baseline)
    values = {
        f'{i:03}.png': Judged(*map(float, row)) for i, row in enumerate(zip(*columns, strict=True))
    }
    return Risk(metric, values, **options)


class TestSummary:
    @given(st.lists(FINITE, min_size=6, max_size=30))
    def test_equals_loops(self, values):
        (got,) = estimate(np.array(values)[:, None])
        assert got.mean == pytest.approx(sum(values) / len(values), abs=1e-6)
        assert got.median == pytest.approx(statistics.median(values))
        assert got.max == max(values)
        slack = 1e-6 + 1e-9 * max(map(abs, values))
        assert min(values) - slack <= got.low <= got.high <= max(values) + slack

    def test_the_interval_equals_loops(self):
        values = [0.1, 0.9, 0.4, 0.4, 0.7, 0.2, 1.0, 0.95]
        twin = random.Random(1)
        means = sorted(sum(twin.choices(values, k=8)) / 8 for _ in range(20_000))
        (got,) = estimate(np.array(values)[:, None])
        assert got.low == pytest.approx(means[500], abs=0.02)
        assert got.high == pytest.approx(means[19_500], abs=0.02)

    def test_the_interval_covers(self):
        rng = np.random.default_rng(0)
        hits = 0
        for _ in range(150):
            (got,) = estimate(rng.exponential(size=(50, 1)))
            hits += int(got.low <= 1 <= got.high)
        assert 0.86 <= hits / 150 <= 0.99

    def test_of_many_pictures(self):
        # More than one part of the draws.
        values = np.random.default_rng(0).normal(3, 1, (2500, 1))
        (got,) = estimate(values)
        assert got.high - got.low == pytest.approx(2 * 1.96 / 50, rel=0.1)

    @pytest.mark.parametrize('count', range(1, 6))
    def test_few_have_no_interval(self, count):
        (got,) = estimate(np.arange(count)[:, None] * 1.0)
        assert got.low is None and got.high is None and got.max == count - 1

    def test_none(self):
        assert estimate(np.empty((0, 2))) == [Estimate(), Estimate()]

    def test_differs_with_the_seed_only(self):
        values = np.random.default_rng(0).random((30, 1))
        assert estimate(values) == estimate(values) != estimate(values, seed=1)


class TestRisk:
    @settings(max_examples=30)
    @given(VALUES, st.dictionaries(st.text(), st.text(), max_size=3), st.integers(0, 2**32))
    def test_there_and_back(self, values, failed, seed):
        failed = {f'failed {name}': why for name, why in failed.items()}
        values = {f'tried {name}': one for name, one in values.items()}
        one = Risk('psnr', values, failed, seed)
        text = json.dumps(one.to_dict(), allow_nan=False)
        state = json.loads(text)
        back = {name: Judged(**row) for name, row in state['values'].items()}
        again = Risk(state['metric'], back, state['failed'], state['seed'])
        assert again == one
        assert json.dumps(again.to_dict(), allow_nan=False) == text

    def test_numpy_numbers_are_written(self):
        one = Risk('nc', {'a': Judged(np.float32(0.5), np.int64(0), np.float64(0.1))})
        assert json.loads(json.dumps(one.to_dict()))['values']['a']['main'] == 0.5

    def test_what_a_reader_finds(self):
        got = risk([0.9] * 6, failed={'x.png': 'smaller than a patch'}).to_dict()
        assert list(got)[:3] == ['metric', 'title', 'counts']
        assert got['title'] == METRICS['nc'] and got['counts'] is True
        assert got['pictures'] == 6 and got['pictures_failed'] == 1
        assert got['failed'] == {'x.png': 'smaller than a patch'}
        assert set(got['main']) == {'mean', 'low', 'high', 'median', 'max'}
        assert got['main_less_control']['mean'] == pytest.approx(0.8)
        assert got['values']['000.png'] == {'main': 0.9, 'control': 0.1, 'baseline': 0.1}

    def test_each_kind_on_its_own(self):
        one = risk(np.arange(10), np.arange(10) * 2, 5)
        assert (one.main.mean, one.control.mean, one.baseline.mean) == (4.5, 9, 5)
        assert (one.main.max, one.control.max, one.baseline.max) == (9, 18, 5)
        assert one.excess.mean == -4.5 and one.excess.max == 0

    def test_order_of_pictures_does_not_matter(self):
        values = {f'{i}': Judged(i * 0.37 % 1, i * 0.11 % 1, 0) for i in range(20)}
        back = dict(reversed(values.items()))
        assert json.dumps(Risk('nc', values).to_dict()) == json.dumps(Risk('nc', back).to_dict())

    def test_failed_pictures_are_in_no_mean(self):
        main = np.linspace(0, 1, 9)
        with_failed = risk(main, failed={'x': 'crashed', 'y': 'too small'})
        assert with_failed.main == risk(main).main
        assert with_failed.to_dict()['pictures_failed'] == 2
        assert with_failed != risk(main)

    def test_all_failed(self):
        one = Risk('nc', {}, {'a.png': 'crashed'})
        assert one.main == Estimate() and one.counts is None
        got = json.loads(json.dumps(one.to_dict(), allow_nan=False))
        assert got['pictures'] == 0 and got['counts'] is None and got['main']['mean'] is None


class TestCounts:
    def test_main_beats_control(self):
        rng = np.random.default_rng(0)
        assert risk(rng.normal(1, 1, 40), rng.normal(0, 1, 40)).counts is True
        assert risk(rng.normal(0, 1, 40), rng.normal(1, 1, 40)).counts is False

    def test_the_same_is_no_leak(self):
        values = np.random.default_rng(0).random(30)
        assert risk(values, values).counts is False
        # However much more than a random guess it is.
        assert risk(values + 1, values + 1, 0).counts is False

    def test_picture_by_picture(self):
        # Pictures differ by much more than main and control do.
        main = np.linspace(0, 100, 20)
        one = risk(main, main - 0.5 - 0.1 * (np.arange(20) % 2))
        assert one.control.high > one.main.low and one.counts is True

    def test_chance_rarely_counts(self):
        rng = np.random.default_rng(0)
        counted = [risk(rng.random(40), rng.random(40), seed=i).counts for i in range(60)]
        assert sum(map(int, counted)) <= 5

    def test_few_pictures_decide_nothing(self):
        assert risk([0.9] * 5).counts is None
        assert risk([0.9] * 6).counts is True


class TestWrong:
    def test_unknown_metric(self):
        with pytest.raises(HimeError, match="'lpips': known are dc, nc"):
            Risk('lpips', {})

    @pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize('column', range(3))
    def test_not_finite(self, value, column):
        row = [0.0, 0.0, 0.0]
        row[column] = value
        with pytest.raises(HimeError, match='nc of a.png is not finite'):
            Risk('nc', {'a.png': Judged(*row)})

    def test_judged_and_failed(self):
        with pytest.raises(HimeError, match='both ran and failed on 001.png'):
            risk([1, 2], failed={'001.png': 'crashed'})


class TestGrade:
    @pytest.mark.parametrize(
        'hits, pictures, name, sure',
        [
            (0, 100, 'good', True),
            (0, 40, 'good', False),
            (49, 1000, 'good', False),
            (50, 1000, 'moderate', False),
            (120, 1000, 'moderate', True),
            (200, 1000, 'moderate', False),
            (201, 1000, 'bad', False),
            (40, 40, 'bad', True),
            (1, 1, 'bad', True),
        ],
    )
    def test_scale(self, hits, pictures, name, sure):
        one = risk(np.arange(pictures) < hits, baseline=0.01, metric='rank_1')
        got = grade_risk(one)
        assert isinstance(got, Grade)
        assert (got.grade, got.sure, got.pictures) == (name, sure, pictures)
        assert got.chance == pytest.approx(0.01) and 'NeuraCrypt' in got.source
        assert 0 <= got.low <= got.share <= got.high <= 1

    def test_interval(self):
        # Known values: Brown, Cai and DasGupta's form of Wilson's.
        got = grade_risk(risk(np.zeros(40), metric='rank_1'))
        assert (got.low, got.high) == pytest.approx((0, 0.0876), abs=1e-4)
        got = grade_risk(risk(np.arange(10) < 5, metric='rank_1'))
        assert (got.low, got.high) == pytest.approx((0.2366, 0.7634), abs=1e-4)

    @pytest.mark.parametrize('metric', [name for name in METRICS if name != 'rank_1'])
    def test_no_grades_are_made_up(self, metric):
        assert grade_risk(risk([0.5] * 10, metric=metric)) is None

    def test_nothing_tried(self):
        assert grade_risk(Risk('rank_1', {}, {'a': 'crashed'})) is None
