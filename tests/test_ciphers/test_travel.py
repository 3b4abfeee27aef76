# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Boxes that travel with their patches: who owns a border, and the way back."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from loops import travel_of
from owner_data import named

from hime_mm.ciphers import PatchLayout, invert_permutation
from hime_mm.ciphers.travel import BORDER, blunted
from hime_mm.datasets.coco import from_corners, steps_of, to_corners
from hime_mm.errors import BoxError

SCALES = st.sampled_from([(1.0, 1.0), (0.5, 0.25), (0.7, 1.3), (400 / 427, 592 / 601)])
# From a border between patches, or from that of the image.
NEAR = st.sampled_from(
    [0, 1e-14, 1e-12, 1e-9, BORDER / 2, BORDER, 2 * BORDER, 1e-6, 1e-4, 1e-3]
).flatmap(lambda near: st.sampled_from([near, -near, near - BORDER, -near - BORDER]))
SIDES = st.one_of(st.sampled_from([0.0, 1.0, 16.0]), st.floats(0, 100), st.floats(100, 1e5))


@st.composite
def layouts(draw, patch_sizes=(1, 2, 4, 12, 16, 32)):
    rows, cols = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    p = draw(st.sampled_from(patch_sizes))
    perm = np.random.default_rng(draw(st.integers(0, 99))).permutation(rows * cols)
    scale = draw(SCALES)
    shape = (max(round(rows * p / scale[1]), 1), max(round(cols * p / scale[0]), 1))
    return PatchLayout(shape, p, (rows, cols), scale, perm)


@st.composite
def encrypted_boxes(draw, layout, num=8):
    """Boxes whose centres lie in the image, in pixels of the encrypted one; some on borders."""
    boxes = []
    for _ in range(num):
        low_high = []
        for length in layout.shape[::-1]:
            border = draw(st.integers(0, length // layout.patch_size)) * layout.patch_size
            centre = draw(st.one_of(st.floats(0, length), NEAR.map(lambda x, b=border: b + x)))
            half = draw(SIDES) / 2
            centre = min(max(centre, 0), length)
            low_high.append((centre - half, centre + half))
        boxes.append([*(low for low, _ in low_high), *(high for _, high in low_high)])
    return np.array(boxes)


def cases(**kwargs):
    return layouts(**kwargs).flatmap(lambda one: st.tuples(st.just(one), encrypted_boxes(one)))


def through_json(boxes):
    """As an annotation file holds them."""
    return np.array(to_corners(json.loads(json.dumps(from_corners(boxes)))))


@given(cases())
def test_there_and_back(case):
    layout, encrypted = case
    boxes = encrypted / np.tile(layout.scale, 2)
    inverse = invert_permutation(layout.permutation)
    mapped = layout.map_boxes(boxes)
    owner = layout.cells(boxes * np.tile(layout.scale, 2))
    for there in (mapped, through_json(mapped)):
        assert layout.cells(there).tolist() == inverse[owner].tolist()
        assert layout.find_strays(there).size == 0
        np.testing.assert_allclose(layout.unmap_boxes(there), boxes, rtol=0, atol=1e-6)
    # And from any place in the encrypted image.
    back = layout.unmap_boxes(encrypted)
    assert (
        layout.cells(back * np.tile(layout.scale, 2)).tolist()
        == layout.permutation[layout.cells(encrypted)].tolist()
    )
    np.testing.assert_allclose(layout.map_boxes(back), encrypted, rtol=0, atol=1e-6)


@pytest.mark.parametrize('axis', [0, 1])
@pytest.mark.parametrize('size', [2, 12, 16])
def test_from_the_far_end_of_the_image(axis, size):
    """Coordinates there round more coarsely than those where a box goes to."""
    rng, count = np.random.default_rng(size + axis), 200
    for num in (3, 7, 64):
        shape, grid, scale = (97, 2 * size), (num, 2), (1.0, num * size / 97)
        if axis == 0:
            shape, grid, scale = shape[::-1], grid[::-1], scale[::-1]
        layout = PatchLayout(shape, size, grid, scale, np.arange(2 * num)[::-1])
        centres, sides = rng.uniform(0, 1, (2, count, 2)) * shape[::-1]
        centres[:, axis] = shape[1 - axis]
        boxes = np.concatenate([centres - sides / 2, centres + sides / 2], axis=1)
        for there in (layout.map_boxes(boxes), through_json(layout.map_boxes(boxes))):
            np.testing.assert_allclose(layout.unmap_boxes(there), boxes, rtol=0, atol=1e-6)


@pytest.mark.parametrize('half', [1.0, 4000.0, 4192.0, 1e5])
@pytest.mark.parametrize('centre', [0.0, 16.0])
def test_a_centre_gives_way_by_a_thousandth_at_most(half, centre):
    layout = PatchLayout((16, 16), 16, (1, 1), (1.0, 1.0), np.zeros(1, int))
    box = np.array([[8 - half, centre - half, 8 + half, centre + half]])
    assert np.abs(blunted(layout.map_boxes(box, np.float32)) - box).max() <= 1e-3


@given(cases())
def test_travels_as_the_loop_does(case):
    layout, encrypted = case
    boxes = encrypted / np.tile(layout.scale, 2)
    scaled = boxes * np.tile(layout.scale, 2)
    for targets, moved, given_ in (
        (np.argsort(layout.permutation), layout.map_boxes(boxes), scaled),
        (
            layout.permutation,
            layout.unmap_boxes(encrypted) * np.tile(layout.scale, 2),
            encrypted,
        ),
    ):
        # A centre on the very edge of a territory may be rounded into either.
        firm = np.abs((centres(given_) + BORDER) / layout.patch_size % 1 - 0.5).max(1) < 0.5 - 1e-9
        wanted = [travel_of(box, targets, layout.patch_size, layout.grid) for box in given_[firm]]
        np.testing.assert_allclose(moved[firm], np.reshape(wanted, (-1, 4)), rtol=0, atol=1e-6)
        np.testing.assert_allclose(sizes(moved), sizes(given_), rtol=0, atol=1e-6)


@pytest.mark.slow
@given(cases(patch_sizes=(4, 12, 16, 32)))
def test_single_precision_keeps_the_owner(case):
    """As a pipeline has boxes, a reader of files, and an assigner that computes in their type."""
    layout, encrypted = case
    boxes = (encrypted / np.tile(layout.scale, 2)).astype(np.float32)
    scaled = boxes.astype(np.float64) * np.tile(layout.scale, 2)
    mapped = layout.map_boxes(boxes, np.float32)
    # Larger ones would have to give way further.
    firm = np.abs(mapped).max(axis=1) < 4000
    wanted = invert_permutation(layout.permutation)[layout.cells(scaled)][firm].tolist()
    rows, cols = layout.grid
    for there in (mapped, through_json(mapped)):
        held = there.astype(np.float32)[firm]
        assert layout.cells(held).tolist() == wanted
        col, row = np.floor(centres(held) / np.float32(layout.patch_size)).astype(int).T
        assert (row * cols + col).tolist() == wanted
    assert layout.find_strays(mapped.astype(np.float32)).size == 0
    # What rounding took out of the image has come to its edge.
    inside = np.setdiff1d(np.flatnonzero(firm), layout.find_strays(scaled))
    error = np.abs(layout.unmap_boxes(mapped) - boxes)[inside] * np.tile(layout.scale, 2)
    assert (error <= 1e-3 + 1e-6).all()


@pytest.mark.parametrize('dtype', [np.float64, np.float32])
@given(cells=st.tuples(st.integers(0, 3), st.integers(0, 4)), half=st.integers(0, 999))
def test_a_border_has_one_owner(dtype, cells, half):
    """Of whole numbers, and of those that were scaled and are not whole any more."""
    for scale in (1.0, 400 / 427, 1 / 3, 0.1):
        row, col = cells
        x, y = (16 * col / scale, 16 * row / scale)
        layout = PatchLayout((427, 601), 16, (4, 5), (scale, scale), np.arange(20)[::-1])
        boxes = np.array([[x - half, y - half, x + half, y + half]], dtype)
        mapped = layout.map_boxes(boxes, dtype)
        owner = layout.cells(boxes.astype(np.float64) * scale)
        # Single precision may scale a border to either side of it.
        if dtype == np.float64:
            assert owner.tolist() == [row * 5 + col]
        assert layout.cells(mapped.astype(dtype)).tolist() == [19 - owner[0]]
        assert layout.cells(through_json(mapped).astype(dtype)).tolist() == [19 - owner[0]]


@pytest.mark.parametrize('axis', [0, 1], ids=['horizontal', 'vertical'])
@given(st.integers(1, 83), st.integers(0, 300), SCALES, st.integers(0, 99))
def test_a_border_has_one_owner_in_the_mirror(axis, cell, half, scale, seed):
    """Whoever mirrors a shuffled image and its boxes mirrors a shuffling."""
    grid = (3, 84)[:: 1 - 2 * axis]
    perm = np.random.default_rng(seed).permutation(252)
    layout = PatchLayout((1000, 1000), 16, grid, scale, perm)
    point = np.full(2, 24.0)
    point[axis] = 16 * cell
    boxes = np.array([[*(point - half), *(point + half)]]) / np.tile(scale, 2)
    there = through_json(layout.map_boxes(boxes, np.float32)).astype(np.float32)
    mirrored, side = there.copy(), layout.shape[1 - axis]
    mirrored[:, axis], mirrored[:, 2 + axis] = side - there[:, 2 + axis], side - there[:, axis]
    slot = list(divmod(layout.cells(there)[0], grid[1]))
    slot[1 - axis] = grid[1 - axis] - 1 - slot[1 - axis]
    assert layout.cells(mirrored).tolist() == [slot[0] * grid[1] + slot[1]]


def test_owners_of_a_border():
    layout = PatchLayout((32, 48), 16, (2, 3))
    xs = [-5, 0, 16 - 2 * BORDER, 16 - BORDER / 2, 16, 17, 32 - BORDER / 2, 48 - BORDER / 2, 48, 99]
    points = np.array([[x, 8, x, 8] for x in xs], float)
    assert layout.cells(points).tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 2]
    points = points[:, [1, 0, 3, 2]][2:5]
    assert layout.cells(points).tolist() == [0, 3, 3]


@given(
    layouts(),
    st.lists(st.tuples(st.floats(-300, 300), st.floats(-300, 300)), min_size=1, max_size=9),
    SIDES,
)
def test_centres_outside_travel_with_the_nearest_point(layout, points, side):
    size, (h, w) = layout.patch_size, layout.shape
    centre = np.array(points)
    boxes = np.hstack([centre - side / 2, centre + side / 2]) / np.tile(layout.scale, 2)
    mapped = layout.map_boxes(boxes)
    scaled = boxes * np.tile(layout.scale, 2)
    nearest = centres(scaled).clip(0, (w, h))
    col, row = ((nearest + BORDER) // size).clip(0, np.array(layout.grid[::-1]) - 1).T
    slots = invert_permutation(layout.permutation)[(row * layout.grid[1] + col).astype(int)]
    assert layout.cells(mapped).tolist() == slots.tolist()
    np.testing.assert_allclose(sizes(mapped), sizes(scaled), rtol=0, atol=1e-6)
    back = layout.unmap_boxes(through_json(mapped)) * np.tile(layout.scale, 2)
    np.testing.assert_allclose(centres(back), nearest, rtol=0, atol=1e-6)
    inside = (nearest == centres(scaled)).all(axis=1)
    np.testing.assert_allclose(back[inside], scaled[inside], rtol=0, atol=1e-6)


def test_boxes_of_the_largest_coordinates():
    """Such a box has no exact centre; it comes back all the same."""
    layout = PatchLayout((48, 64), 16, (3, 4), permutation=np.roll(np.arange(12), 5))
    boxes = np.array(
        [[8 - 1e9, 8 - 1e9, 8 + 1e9, 8 + 1e9], [16 - 1e9, 32 - 1e9, 1e9 + 16, 1e9 + 32]]
    )
    mapped = layout.map_boxes(boxes)
    owner = invert_permutation(layout.permutation)[layout.cells(boxes)]
    for there in (mapped, through_json(mapped)):
        assert layout.cells(there).tolist() == owner.tolist()
        np.testing.assert_allclose(layout.unmap_boxes(there), boxes, rtol=0, atol=2e-6)


# What is in no slot


LAYOUT = PatchLayout((32, 48), 16, (2, 3), permutation=[5, 4, 3, 2, 1, 0])
STRAYS = [
    [-9, 0, 5, 9],
    [44, 0, 53, 9],
    [0, -9, 9, 8.99],
    [0, 30, 9, 34.1],
    [48.002, 0, 48.002, 9],
    [-1e12, 0, 9, 9],
    [float('nan'), 0, 9, 9],
    [0, 0, 9, float('inf')],
    [-np.inf, 0, np.inf, 9],
]


@pytest.mark.parametrize('box', STRAYS)
def test_a_box_in_no_slot_is_refused(box):
    good = [[0, 0, 9, 9], [-40, -60, 40, 70]]
    x, y = centres(np.array([box]))[0]
    for layout in (LAYOUT, LAYOUT.public()):
        assert layout.find_strays([*good, box, good[0], box]).tolist() == [2, 4]
        assert layout.find_strays(np.zeros((0, 4))).size == 0
    with pytest.raises(BoxError, match=named('box 2', f'({x:g}, {y:g})', '32x48', 'token')):
        LAYOUT.unmap_boxes([*good, box])
    # Where no patch moved, nothing has to take it back.
    still = LAYOUT.in_place()
    assert still.find_strays([box]).size == 0
    np.testing.assert_array_equal(still.unmap_boxes([box]), [box])


@pytest.mark.parametrize('edge', [-1e-3, 0, 1e-3])
def test_boxes_on_the_edge_of_the_image_are_in_a_slot(edge):
    boxes = [
        [-edge - 3, 4, 3 - edge, 5],
        [47 + edge, 4, 49 + edge, 6],
        [4, 31 + edge, 5, 33 + edge],
    ]
    assert LAYOUT.find_strays(np.round(boxes, 9)).size == 0
    assert LAYOUT.cells(boxes).tolist() == [0, 2, 3]
    assert LAYOUT.cells(LAYOUT.unmap_boxes(boxes)).tolist() == [5, 3, 2]


@pytest.mark.parametrize('value', [float('nan'), float('inf'), -float('inf')])
def test_boxes_without_a_centre_are_not_moved(value):
    with pytest.raises(BoxError, match='box 1 has no centre'):
        LAYOUT.map_boxes([[0, 0, 9, 9], [0, value, 9, 9]])


def centres(boxes):
    with np.errstate(invalid='ignore'):
        return (boxes[:, :2] + boxes[:, 2:]) / 2


def sizes(boxes):
    return boxes[:, 2:] - boxes[:, :2]


# What digits tell


def places_by_a_loop(box, layout, step, slack):
    """A box is put into each slot with its patch, and looked at in pixels of the original."""
    (cell,), (rows, cols), p = layout.cells([box]), layout.grid, layout.patch_size
    height, width = (n * s for n, s in zip(layout.ori_shape, layout.scale[::-1], strict=True))
    fitting, exact = 0, [set(), set()]
    for r in range(rows):
        for c in range(cols):
            dx, dy = (c - cell % cols) * p, (r - cell // cols) * p
            x1, y1, x2, y2 = (v + d for v, d in zip(box, (dx, dy, dx, dy), strict=True))
            inside = min(x1, y1) >= -1e-3 and x2 <= width + 1e-3 and y2 <= height + 1e-3
            fitting += inside
            for axis, (ends, scale, at) in enumerate(
                (((x1, x2), layout.scale[0], c), ((y1, y2), layout.scale[1], r))
            ):
                if inside and all(
                    abs(v / scale / step - round(v / scale / step)) * scale * step <= slack
                    for v in ends
                ):
                    exact[axis].add(at)
    return fitting, len(exact[0]) * len(exact[1])


@pytest.mark.parametrize('step', [1, 0.5, 0.25, 0.1, 0.01])
@pytest.mark.parametrize('shape', [(427, 640), (333, 500), (100, 100), (160, 96), (37, 1000)])
def test_round_numbers_tell_places(shape, step):
    rng = np.random.default_rng(0)
    grid = (max(shape[0] // 32, 1), max(shape[1] // 32, 1))
    scale = (grid[1] * 16 / shape[1], grid[0] * 16 / shape[0])
    layout = PatchLayout(shape, 16, grid, scale, rng.permutation(grid[0] * grid[1]))
    corner = rng.uniform(0, np.array(shape[::-1]) * 0.7, (20, 2))
    boxes = np.hstack([corner, corner + rng.uniform(1, np.array(shape[::-1]) * 0.3, (20, 2))])
    boxes = np.round(boxes / step) * step
    # Each is found; a few are multiples of a larger one by chance.
    steps = steps_of(boxes)
    np.testing.assert_allclose(np.rint(steps / step) * step, steps)
    assert np.median(steps) == step <= steps.max() <= 1
    moved = blunted(layout.map_boxes(boxes, np.float32))
    places = layout.count_places(moved, step)
    for box, found in zip(moved, places, strict=True):
        fitting, exact = places_by_a_loop(box, layout, step, 2.5e-8)
        assert found == (exact or fitting)
    # Whoever does not know the step knows less, and rounding takes it from those who do.
    assert (places <= layout.count_places(moved)).all()
    coarse = layout.round_boxes(moved, steps)
    # Those along an edge of the picture may stick out of it now.
    inside = (coarse.round(6) >= 0).all(axis=1)
    assert (layout.count_places(coarse, step) == layout.count_places(coarse))[inside].all()


def test_rounded_numbers_are_exact_in_few_places_by_chance():
    """At a scale of 3/5 every third is, which says nothing of a box that was rounded."""
    rng = np.random.default_rng(0)
    layout = PatchLayout((400, 400), 16, (15, 15), (0.6, 0.6), rng.permutation(225))
    corner = rng.integers(20, 300, (40, 2))
    boxes = np.hstack([corner, corner + rng.integers(5, 60, (40, 2))])
    coarse = layout.round_boxes(blunted(layout.map_boxes(boxes, np.float32)), steps_of(boxes))
    np.testing.assert_array_equal(layout.count_places(coarse, 1), layout.count_places(coarse))


@given(cases(patch_sizes=(2, 12, 14, 16)), st.sampled_from([1.0, 0.5, 0.1, 0.01, 1e-6, 0.0]))
def test_rounded_boxes(case, step):
    layout, encrypted = case
    encrypted = encrypted.clip(-1e4, 1e4)
    new = layout.round_boxes(encrypted, np.full(len(encrypted), step))
    assert layout.cells(new).tolist() == layout.cells(encrypted).tolist()
    if not step:
        np.testing.assert_array_equal(new, encrypted)
        return
    grain = 2.0**-26
    while grain < step * max(layout.scale) and layout.patch_size % (2 * grain) == 0:
        grain *= 2
    assert (new % grain == 0).all()
    assert np.abs(new - encrypted).max() <= 1.5 * grain
    long = sizes(encrypted) >= grain
    assert (sizes(new)[long] >= grain).all()
    np.testing.assert_array_equal(layout.round_boxes(new, np.full(len(new), step)), new)


def test_steps():
    boxes = [[1, 2, 3, 4], [1, 2, 3.5, 4], [0.25, 1, 1, 1], [1e6 / 3, 0, 0, 0], [0, 0, 0, 0]]
    boxes += [[123456.78, 0, 0, 1e-6], [1, 1, 1, 2 / 3], [0.1 + 0.2, 0, 12.300000000000068, 1]]
    boxes += [[-0.2, 0, 0.6, 640], [1e9, -1e9, 0, 0]]
    assert steps_of(np.array(boxes)).tolist() == [1, 0.5, 0.25, 0, 1, 1e-6, 0, 0.1, 0.2, 1]
    assert steps_of(np.zeros((0, 4))).shape == (0,)
