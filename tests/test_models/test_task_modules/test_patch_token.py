# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from mmdet.models.task_modules import AssignResult, PseudoSampler
from mmdet.registry import TASK_UTILS
from mmdet.structures.bbox import HorizontalBoxes
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData

from hime_mm.ciphers import PatchLayout, draw_permutation
from hime_mm.ciphers.travel import BORDER
from hime_mm.models.task_modules import PatchTokenAssigner, PatchTokenCoder

CODER = PatchTokenCoder()


def cells(boxes, size):
    """Columns and rows of the slots that hold centres, (n, 2)."""
    boxes = np.asarray(boxes, np.float64)
    return np.floor(((boxes[:, :2] + boxes[:, 2:]) / 2 + BORDER) / size).astype(int)


def slots_at(places, size, dtype=torch.float32):
    """Slots in some columns and rows."""
    corners = torch.as_tensor(places, dtype=dtype) * size
    return torch.cat((corners, corners + size), dim=1)


def slots_of(grid, size, num=1):
    """The slots of an image, each of them once for each of its predictions."""
    rows, cols = np.divmod(np.arange(grid[0] * grid[1]), grid[1])
    return slots_at(np.repeat(np.stack([cols, rows], 1), num, axis=0), size)


finite = st.one_of(st.floats(-1e4, 1e4), st.floats(-65504, 65504), st.sampled_from([-1e4, 1e4, 0]))


@st.composite
def predictions(draw):
    size = draw(st.integers(4, 32))
    n = draw(st.integers(1, 8))
    places = draw(
        st.lists(st.tuples(*[st.integers(0, 4096 // size - 1)] * 2), min_size=n, max_size=n)
    )
    coded = draw(st.lists(st.lists(finite, min_size=4, max_size=4), min_size=n, max_size=n))
    scale = draw(st.lists(st.floats(0.05, 20), min_size=2, max_size=2))
    return size, places, coded, scale


class TestCoder:
    @pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32, torch.float64])
    @given(case=predictions())
    @example(case=(4, [(1023, 1023)], [[1e4, 1e4, 1e4, 1e4]], [0.1, 3.0]))
    @example(case=(4, [(1023, 0)], [[-1e4, 1e4, 1e4, -1e4]], [1 / 3, 7.0]))
    @example(case=(32, [(127, 127)], [[-1e4, 1e4, 9.0, 9.0]], [0.7, 0.3]))
    def test_boxes_stay_with_their_slots(self, dtype, case):
        """Whatever is predicted, and whatever resizing is undone and done again."""
        size, places, coded, scale = case
        boxes = CODER.decode(slots_at(places, size), torch.tensor(coded, dtype=dtype))
        assert boxes.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert boxes.isfinite().all()
        boxes = boxes.float()
        assert (boxes[:, 2:] >= boxes[:, :2]).all()
        np.testing.assert_array_equal(cells(boxes, size), places)
        # As the host's heads divide, in float32, and as a metric multiplies.
        factor = torch.tensor(scale).repeat(2)
        rescaled = boxes * torch.tensor([1 / s for s in scale]).repeat(2)
        np.testing.assert_array_equal(cells(rescaled * factor, size), places)
        exact = rescaled.double().numpy() * np.tile(scale, 2)
        np.testing.assert_array_equal(cells(exact, size), places)
        # As (x, y, w, h), which files have.
        x, y, w, h = np.hstack([exact[:, :2], exact[:, 2:] - exact[:, :2]]).T
        np.testing.assert_array_equal(cells(np.stack([x, y, x + w, y + h], 1), size), places)

    @given(case=predictions())
    def test_layouts_agree(self, case):
        """So the holder of the permutation brings each box back with the right patch."""
        size, places, coded, _ = case
        boxes = CODER.decode(slots_at(places, size), torch.tensor(coded))
        grid = (4096 // size, 4096 // size)
        layout = PatchLayout((grid[0] * size, grid[1] * size), size, grid)
        expected = [row * grid[1] + col for col, row in places]
        assert layout.cells(boxes.numpy()).tolist() == expected

    @given(case=predictions(), place=st.floats(0.01, 0.99), ratio=st.floats(1e-3, 1000))
    def test_encode_is_the_inverse(self, case, place, ratio):
        size, places, _, _ = case
        slots = slots_at(places, size, torch.float64)
        centre = slots[:, :2] + torch.tensor([place, 1 - place]) * size
        half = torch.tensor([ratio, 1 / ratio], dtype=torch.float64) * size / 2
        boxes = torch.cat((centre - half, centre + half), dim=1)
        torch.testing.assert_close(
            CODER.decode(slots, CODER.encode(slots, boxes)), boxes, atol=1e-6, rtol=1e-9
        )

    def test_by_hand(self):
        slots = torch.tensor([[16.0, 32, 32, 48]])
        coded = torch.tensor([[0.0, 2.0, 0.0, 1.0]])
        x, y = 24, 32 + 16 * (0.001 + 0.998 / (1 + np.exp(-2)))
        h = 16 * np.e
        expected = torch.tensor([[x - 8, y - h / 2, x + 8, y + h / 2]], dtype=torch.float32)
        for box_type in (torch.Tensor.clone, HorizontalBoxes):
            boxes = CODER.decode(box_type(slots), coded, max_shape=(33, 17))
            torch.testing.assert_close(boxes, expected)
            torch.testing.assert_close(CODER.encode(box_type(slots), box_type(boxes)), coded)

    def test_outside_is_the_nearest_inside(self):
        slots = torch.tensor([[16.0, 16, 32, 32]])
        boxes = torch.tensor([[0.0, 0, 2, 100], [40, 16, 41, 16]])
        back = CODER.decode(slots.expand(2, 4), CODER.encode(slots.expand(2, 4), boxes))
        assert cells(back, 16).tolist() == [[1, 1], [1, 1]]
        assert back.isfinite().all()

    def test_gradients(self):
        coded = torch.randn(5, 4, requires_grad=True)
        CODER.decode(slots_of((1, 5), 16), coded).square().sum().backward()
        assert (coded.grad != 0).all()
        none = CODER.decode(torch.zeros(0, 4), torch.zeros(0, 4))
        assert none.shape == (0, 4)


def instances(boxes, labels=None, box_type=torch.Tensor.clone):
    boxes = torch.as_tensor(np.asarray(boxes, np.float32).reshape(-1, 4))
    labels = torch.arange(len(boxes)) + 7 if labels is None else torch.as_tensor(labels)
    return InstanceData(bboxes=box_type(boxes), labels=labels)


def assign(slots, truth, ignored=None):
    return PatchTokenAssigner().assign(InstanceData(priors=slots), truth, ignored)


def by_a_loop(layout, num, boxes, ignored):
    """Of each prediction its object from 1 on, 0 or -1; by the layout's own rule."""
    (rows, cols), size = layout.grid, layout.patch_size
    found = [[0] * num for _ in range(rows * cols)]

    def inside(box):
        centre = [(box[0] + box[2]) / 2, (box[1] + box[3]) / 2]
        return all(
            -BORDER <= c < n * size - BORDER for c, n in zip(centre, (cols, rows), strict=True)
        )

    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in boxes]
    for i in sorted(range(len(boxes)), key=lambda i: -areas[i]):
        if inside(boxes[i]):
            row = found[layout.cells([boxes[i]])[0]]
            if 0 in row:
                row[row.index(0)] = i + 1
    for box in ignored:
        if inside(box):
            cell = layout.cells([box])[0]
            found[cell] = [value or -1 for value in found[cell]]
    return sum(found, [])


@st.composite
def scenes(draw):
    """A grid, and boxes in quarters of pixels: in it, on its borders, around and beside it."""
    size, rows, cols = draw(st.sampled_from([4, 7, 16])), *draw(st.tuples(*[st.integers(1, 4)] * 2))
    middle = st.one_of(
        st.integers(-4 * size, 4 * size * 5).map(lambda n: n / 4),
        st.integers(-1, 5).map(lambda n: n * size),
        # Near one.
        *(
            st.integers(0, 4).map(lambda n, gap=gap: n * size + gap)
            for gap in (-(2**-11), 2**-11, -(2**-9), 2**-9)
        ),
        # Several in one slot, and of one size.
        st.sampled_from([0.5, size / 2]),
    )
    side = st.one_of(st.sampled_from([2, 4]), st.integers(0, 200).map(lambda n: n / 2))
    boxes = st.lists(st.tuples(middle, middle, side, side), max_size=9)
    return (
        size,
        (rows, cols),
        *(
            [[x - w / 2, y - h / 2, x + w / 2, y + h / 2] for x, y, w, h in draw(b)]
            for b in [boxes] * 2
        ),
    )


class TestAssigner:
    @pytest.mark.parametrize('box_type', [torch.Tensor.clone, HorizontalBoxes])
    @given(scene=scenes(), num=st.integers(1, 3))
    def test_against_a_loop(self, box_type, scene, num):
        size, grid, boxes, ignored = scene
        layout = PatchLayout((grid[0] * size, grid[1] * size), size, grid)
        truth = instances(boxes, box_type=box_type)
        slots = slots_of(grid, size, num)
        result = assign(slots, truth, instances(ignored, box_type=box_type))
        expected = by_a_loop(layout, num, boxes, ignored)
        assert result.gt_inds.tolist() == expected
        assert result.labels.tolist() == [i + 6 if i > 0 else -1 for i in expected]
        # What was not ignored stays as it is without.
        alone = assign(slots, truth).gt_inds
        assert alone.tolist() == [max(i, 0) for i in expected]

    @given(scene=scenes(), seed=st.integers(0, 99))
    def test_objects_move_with_their_patches(self, scene, seed):
        """Each patch learns the objects that it learns where nothing has moved."""
        size, grid, boxes, _ = scene
        boxes = [
            b
            for b in boxes
            if 0 < b[0] + b[2] < 2 * grid[1] * size and 0 < b[1] + b[3] < 2 * grid[0] * size
        ]
        perm = draw_permutation(grid[0] * grid[1], np.random.default_rng(seed))
        plain = PatchLayout((grid[0] * size, grid[1] * size), size, grid)
        moved = PatchLayout(plain.ori_shape, size, grid, permutation=perm)
        slots = slots_of(grid, size, 2)
        expected = assign(slots, instances(boxes)).gt_inds.unflatten(0, (-1, 2))
        got = assign(slots, instances(moved.map_boxes(np.array(boxes).reshape(-1, 4)))).gt_inds
        assert torch.equal(got.unflatten(0, (-1, 2)), expected[perm])

    def test_largest_first_and_the_rest_goes_without(self):
        boxes = [[4, 4, 6, 6], [0, 0, 10, 10], [3, 3, 7, 7], [1, 1, 9, 9], [20, 4, 22, 6]]
        assert assign(slots_of((1, 2), 16, 2), instances(boxes)).gt_inds.tolist() == [2, 4, 5, 0]
        # The order of the annotations decides between equals.
        same = [[4, 4, 6, 6], [5, 5, 7, 7], [3, 3, 5, 5]]
        assert assign(slots_of((1, 1), 16, 2), instances(same)).gt_inds.tolist() == [1, 2]

    @pytest.mark.parametrize('box_type', [torch.Tensor.clone, HorizontalBoxes])
    @pytest.mark.parametrize('boxes', [[], [[3, 3, 5, 5], [99, 99, 101, 103]]], ids=len)
    def test_what_the_host_promises(self, boxes, box_type):
        init_default_scope('mmdet')
        assigner = TASK_UTILS.build(dict(type='hime_mm.PatchTokenAssigner'))
        priors = InstanceData(priors=slots_of((2, 2), 16, 2))
        truth = instances(boxes, box_type=box_type)
        result = assigner.assign(priors, truth, None, img_meta={})
        assert isinstance(result, AssignResult) and 'gt_inds' in str(result)
        assert result.num_gts == len(boxes) and result.num_preds == 8
        assert result.gt_inds.dtype == result.labels.dtype == torch.long
        assert result.max_overlaps.tolist() == (result.gt_inds > 0).float().tolist()
        sampled = PseudoSampler().sample(result, priors, truth)
        assert sampled.pos_inds.tolist() == [0][: len(boxes)]
        assert len(sampled.neg_inds) == 8 - len(sampled.pos_inds)
        assert sampled.pos_gt_labels.tolist() == [7][: len(boxes)]
        assert sampled.pos_gt_bboxes.shape == (len(sampled.pos_inds), 4)

    @pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
    def test_slots_of_other_types(self, dtype):
        """Slots tell their type, and boxes keep theirs: half precision would move them."""
        boxes = [[1007.0, 0.5, 1008.9, 8]]
        slots = slots_of((1, 64), 16, 2).to(dtype)
        assert assign(slots, instances(boxes)).gt_inds.nonzero().tolist() == [[2 * 62]]
