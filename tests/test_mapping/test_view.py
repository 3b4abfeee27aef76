# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""The owner's page of boxes on the originals."""

import html
import json
import os
import re
import shutil
import stat
import sys
import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from owner_data import edit_json, named, photo, write
from picture_files import rotated_jpeg
from view_parts import (
    ANN,
    KEY,
    Reader,
    encrypt,
    make_plain,
    perfect,
    pixels,
    show,
    some_pictures,
)

from hime_mm.apis import BoxView, encrypt_folder, map_coco_results
from hime_mm.datasets.manifest import Manifest
from hime_mm.errors import BoxError, HimeError, ManifestError
from hime_mm.mapping import view as view_module
from hime_mm.visualization import page as page_module

pytest.importorskip('jinja2')
BOXES = [(3, 4, 20, 25.5), (31, 20, 18, 11), (10, 2, 30, 40)]


@pytest.fixture(scope='module')
def plain(tmp_path_factory):
    """Read only, as the next two."""
    return make_plain(tmp_path_factory.mktemp('plain') / 'src', some_pictures(), BOXES)


@pytest.fixture(scope='module')
def mixed(plain, tmp_path_factory):
    return encrypt(plain, tmp_path_factory.mktemp('mixed') / 'out')


@pytest.fixture(scope='module')
def shuffled(plain, tmp_path_factory):
    return encrypt(plain, tmp_path_factory.mktemp('shuffled') / 'out', 'paper-rs', KEY)


def by_picture(mapped):
    """Boxes of each image id with class and score."""
    found = {}
    for row in mapped:
        found.setdefault(row['image_id'], []).append(row)
    return found


class TestBoxes:
    @pytest.mark.parametrize('names', ['keep', 'ids'])
    @pytest.mark.parametrize(('cipher', 'key'), [('mix2', None), ('center+shuffle', KEY)])
    def test_are_the_mapped_ones_on_their_originals(self, plain, tmp_path, cipher, key, names):
        data = encrypt(plain, tmp_path / 'data', cipher, key, names=names)
        mapped, page = show(tmp_path, data, plain, key=key, nms=1)
        assert [figure['name'] for figure in page.figures] == [f'val/{i}.png' for i in range(3)]
        groups = by_picture(mapped)
        for i, figure in enumerate(page.figures):
            rows = groups[7 + i]
            # The best lies on top.
            found = sorted(figure['boxes'], key=lambda box: -box[1])
            assert found == figure['boxes'][::-1]
            expected = sorted(rows, key=lambda row: -row['score'])
            classes = [3, 90]
            assert found == [
                (classes.index(r['category_id']), r['score'], r['bbox'], r['score'] < 0.3)
                for r in expected
            ]
            # Perfect results are the annotations, which are drawn, too.
            h, w = some_pictures()[f'{i}.png'].shape[:2]
            assert figure['view'] == f'0 0 {w} {h}'
            assert figure['truth'] == [list(box) for box in BOXES]
            cut = [np.clip([x, y, x + bw, y + bh], 0, [w, h, w, h]) for x, y, bw, bh in BOXES]
            got = sorted([x, y, x + bw, y + bh] for _, _, (x, y, bw, bh), _ in found)
            np.testing.assert_allclose(got, sorted(map(list, cut)), atol=1e-6)
            assert len(figure['rows']) == 3 and 'cat 0.90' in figure['labels']

    def test_pictures_are_the_originals(self, plain, shuffled, tmp_path):
        _, page = show(tmp_path, shuffled, plain, key=KEY)
        for figure, img in zip(page.figures, some_pictures().values(), strict=True):
            got = pixels(figure)
            back = cv2.resize(got, img.shape[1::-1], interpolation=cv2.INTER_AREA)
            assert np.abs(back.astype(int) - img).mean() < 16
            other = np.abs(back.astype(int) - img[::-1]).mean()
            assert other > 30

    def test_suppressed_ones_are_not_shown(self, plain, shuffled, tmp_path):
        results = perfect(shuffled) * 2
        mapped, page = show(tmp_path, shuffled, plain, results, KEY)
        assert len(mapped) == len(results) / 2
        assert sum(len(figure['boxes']) for figure in page.figures) == len(mapped)

    def test_those_with_a_low_score_are_hidden_and_counted(self, plain, mixed, tmp_path):
        for score, above in ((0.2, 9), (0.21, 6), (0.95, 0)):
            folder = tmp_path / str(score)
            folder.mkdir()
            _, page = show(folder, mixed, plain, score=score)
            low = [box[3] for figure in page.figures for box in figure['boxes']]
            assert low.count(False) == above and len(low) == 9
            hidden = [row.get('class') for figure in page.figures for row in figure['rows']]
            assert hidden.count('low') == 9 - above
            assert f'>{above}</span> of 9 boxes are shown' in page.text
            (slider,) = [a for tag, a in page.tags if tag == 'input' and a['type'] == 'range']
            assert float(slider['value']) == score
            assert float(slider['min']) <= score <= float(slider['max'])

    def test_scores_of_any_range(self, plain, mixed, tmp_path):
        _, page = show(tmp_path, mixed, plain, perfect(mixed, (-4.5, 37, 0.5)))
        (slider,) = [a for tag, a in page.tags if tag == 'input' and a['type'] == 'range']
        assert (float(slider['min']), float(slider['max'])) == (-4.5, 37)

    def test_the_best_of_very_many(self, plain, mixed, tmp_path):
        one = perfect(mixed)[0]
        results = [dict(one, score=i / 300) for i in range(300)]
        mapped, page = show(tmp_path, mixed, plain, results)
        assert len(mapped) == 300
        (figure,) = page.figures
        assert [box[1] for box in figure['boxes']] == [i / 300 for i in range(200, 300)]
        assert '200 more are left out' in figure['text']

    def test_annotations_that_are_not_there(self, plain, mixed, tmp_path):
        shutil.copytree(plain / 'val', tmp_path / 'src/val')
        _, page = show(tmp_path, mixed, tmp_path / 'src')
        assert len(page.figures) == 3 and not any(figure['truth'] for figure in page.figures)
        assert 'annotated' not in page.text.split('<body>')[1].split('<script>')[0]

    def test_annotations_from_elsewhere_are_no_truth(self, plain, mixed, tmp_path):
        """They are in pixels of the encrypted pictures."""
        shutil.copy(mixed / ANN, tmp_path / 'copy.json')
        edit_json(tmp_path / 'copy.json', lambda coco: coco.update(info={}))
        _, page = show(tmp_path, mixed, plain, annotations=str(tmp_path / 'copy.json'))
        assert len(page.figures) == 3 and not any(figure['truth'] for figure in page.figures)


class TestPictures:
    def test_at_most_so_many(self, plain, mixed, tmp_path, monkeypatch):
        read = []
        real = view_module.Originals.read
        monkeypatch.setattr(
            view_module.Originals, 'read', lambda self, name: read.append(name) or real(self, name)
        )
        mapped, page = show(tmp_path, mixed, plain, pictures=2)
        assert len({row['image_id'] for row in mapped}) == 3
        assert [figure['name'] for figure in page.figures] == ['val/0.png', 'val/1.png']
        assert len(read) == 2 and '2 of 3 pictures are shown' in page.text

    def test_without_results_where_their_file_is_named(self, plain, mixed, tmp_path):
        results = [row for row in perfect(mixed) if row['image_id'] == 8]
        _, page = show(tmp_path, mixed, plain, results)
        assert [figure['name'] for figure in page.figures] == ['val/1.png']
        _, page = show(tmp_path, mixed, plain, results, annotations=ANN, force=True)
        assert [len(figure['boxes']) for figure in page.figures] == [0, 3, 0]

    def test_no_results_at_all(self, plain, mixed, tmp_path):
        mapped, page = show(tmp_path, mixed, plain, [])
        assert mapped == [] and not page.figures and 'no pictures to show' in page.text

    def test_that_cannot_be_shown_are_named_in_their_place(self, plain, mixed, tmp_path):
        src = tmp_path / 'src'
        shutil.copytree(plain, src)
        (src / 'val/0.png').unlink()
        write(src / 'val/1.png', photo(96, 65))
        mapped, page = show(tmp_path, mixed, src)
        gone, other, good = page.figures
        assert f'no picture of that name is in {src}' in gone['text']
        assert '65x96 pixels, and 64x96 were encrypted' in other['text']
        assert [figure['img'] is None for figure in page.figures] == [True, True, False]
        assert len(good['boxes']) == 3 and not gone['boxes'] and len(gone['rows']) == 3
        (src / 'val/2.png').write_bytes(b'\x89PNG\r\n\x1a\nno more')
        _, page = show(tmp_path, mixed, src, force=True)
        assert 'could not be shown' in page.figures[2]['text']

    def test_turned_ones_are_shown_as_they_were_encrypted(self, tmp_path):
        for i, color_type in enumerate(('color', 'color_ignore_orientation')):
            size = (70, 40) if i == 0 else (40, 70)
            folder = tmp_path / color_type
            images = {'a.jpg': (rotated_jpeg(6), size)}
            src = make_plain(folder / 'src', images, [(1, 2, 30, 10)])
            data = encrypt(src, folder / 'data', preprocess=dict(color_type=color_type))
            mapped, page = show(folder, data, src)
            (figure,) = page.figures
            assert figure['view'] == f'0 0 {size[1]} {size[0]}'
            shape = pixels(figure).shape[:2]
            assert (shape[0] > shape[1]) == (i == 0)
            np.testing.assert_allclose(mapped[0]['bbox'], [1, 2, 30, 10], atol=1e-9)

    @pytest.mark.parametrize(('channels', 'dtype'), [(1, 'uint8'), (1, 'uint16'), (3, 'uint16')])
    def test_grey_and_deep_ones(self, tmp_path, channels, dtype):
        img = photo(70, 90, channels=channels, dtype=dtype)
        src = make_plain(tmp_path / 'src', {'a.png': img}, BOXES[:1])
        preprocess = dict(color_type='unchanged')
        data = encrypt(src, tmp_path / 'data', preprocess=preprocess)
        _, page = show(tmp_path, data, src)
        got = pixels(page.figures[0])
        assert got.ndim == (2 if channels == 1 else 3)
        expected = img if dtype == 'uint8' else img >> 8
        back = cv2.resize(got, (90, 70), interpolation=cv2.INTER_AREA).astype(int)
        assert np.abs(back - expected).mean() < 12

    @given(st.integers(1, 65535), st.sampled_from([(5, 4), (5, 4, 1), (5, 4, 2), (5, 4, 4)]))
    def test_bits_that_are_used_are_shown(self, most, shape):
        img = np.zeros(shape, np.uint16)
        img[0, 0] = most
        got = view_module.viewable(img)
        assert got.dtype == np.uint8 and got.shape in ((5, 4), (5, 4, 3))
        assert got.max() == (most if most < 256 else most >> (most.bit_length() - 8))

    @pytest.mark.parametrize('size', [(1, 1), (1, 90), (300, 4), (1200, 900), (16, 2500)])
    def test_odd_sizes(self, tmp_path, size):
        h, w = size
        src = make_plain(tmp_path / 'src', {'a.png': photo(h, w)}, [(0, 0, w, h)])
        data = encrypt(src, tmp_path / 'data')
        mapped, page = show(tmp_path, data, src)
        (figure,) = page.figures
        assert figure['view'] == f'0 0 {w} {h}' and max(pixels(figure).shape) <= 640
        assert figure['boxes'][0][2] == mapped[0]['bbox']
        np.testing.assert_allclose(mapped[0]['bbox'], [0, 0, w, h], atol=1e-6)

    @pytest.mark.slow
    def test_memory_does_not_grow_with_their_number(self, tmp_path):
        """The page of eight times the pictures is written in about the same memory."""
        peaks, sizes = [], []
        for count in (6, 48):
            folder = tmp_path / str(count)
            images = {f'{i:03d}.png': photo(400, 400, i) for i in range(count)}
            src = make_plain(folder / 'src', images, BOXES[:1])
            data = encrypt(src, folder / 'data')
            (folder / 'r.json').write_text(json.dumps(perfect(data)))
            tracemalloc.start()
            map_coco_results(
                str(folder / 'r.json'),
                str(folder / 'o.json'),
                str(data),
                progress=False,
                view=BoxView(str(folder / 'page.html'), str(src)),
            )
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
            sizes.append((folder / 'page.html').stat().st_size)
        assert sizes[1] > 6 * sizes[0]
        assert peaks[1] - peaks[0] < (sizes[1] - sizes[0]) / 4


class TestMarkup:
    HOSTILE = '<script>alert(1)</script>"\'&{{ 7 * 7 }}]]>-->'

    def test_names_of_files_and_classes_stay_text(self, tmp_path):
        names = {'<b>&"\'{{ 7*7 }}.png': photo(40, 60), 'x' * 200 + '.png': photo(40, 60)}
        classes = [dict(id=3, name=self.HOSTILE), dict(id=90, name='long ' * 300)]
        src = make_plain(tmp_path / '<i>src', names, BOXES[:2], classes)
        data = encrypt(src, tmp_path / '<u>data')
        _, page = show(tmp_path, data, src)
        assert [figure['name'] for figure in page.figures] == [f'val/{name}' for name in names]
        assert all(self.HOSTILE in figure['text'] for figure in page.figures)
        assert '49' not in page.figures[0]['name']
        assert [tag for tag, _ in page.tags].count('script') == 1
        assert not {'b', 'i', 'u'} & {tag for tag, _ in page.tags}

    @settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(name=st.text(min_size=1, max_size=60), score=st.floats(-1e6, 1e6))
    @example(name='\ud800\0\x1b[1m\u202e', score=0.5)
    def test_whatever_a_class_is_called(self, plain, mixed, tmp_path, name, score):
        copy = tmp_path / 'ann.json'
        coco = json.loads((mixed / ANN).read_text())
        coco['categories'][0]['name'] = name
        copy.write_text(json.dumps(coco))
        results = [dict(perfect(mixed)[0], score=score)]
        mapped, page = show(
            tmp_path, mixed, plain, results, annotations=str(copy), force=True, pictures=1
        )
        tags = [tag for tag, _ in page.tags]
        assert tags == self.tags_of(plain, mixed, tmp_path)
        (box,) = page.figures[0]['boxes']
        assert box[1:3] == (score, mapped[0]['bbox'])

    cache: dict = {}

    def tags_of(self, plain, mixed, tmp_path):
        """Tags of the page with a harmless name."""
        if not self.cache:
            folder = tmp_path / 'harmless'
            folder.mkdir()
            shutil.copy(mixed / ANN, folder / 'ann.json')
            _, page = show(
                folder,
                mixed,
                plain,
                perfect(mixed)[:1],
                annotations=str(folder / 'ann.json'),
                pictures=1,
            )
            self.cache['tags'] = [tag for tag, _ in page.tags]
        return self.cache['tags']

    @pytest.mark.skipif(sys.platform != 'linux', reason='names of any bytes')
    def test_names_that_are_not_utf8(self, plain, mixed, tmp_path):
        src = tmp_path / os.fsdecode(b'\xff\xfe')
        shutil.copytree(plain, src)
        (src / 'val/0.png').unlink()
        _, page = show(tmp_path, mixed, src)
        assert '\\udcff' in page.figures[0]['text']

    def test_nothing_of_its_own_style_or_from_elsewhere(self, plain, shuffled, tmp_path):
        _, page = show(tmp_path, shuffled, plain, key=KEY)
        for tag, attrs in page.tags:
            assert 'style' not in attrs and not any(name.startswith('on') for name in attrs), tag
            for name in ('src', 'href'):
                assert attrs.get(name, 'data:').startswith('data:')
        assert KEY.id not in page.text

    @given(
        text=st.text(max_size=40),
        most=st.integers(0, 25),
    )
    def test_labels_are_cut_to_their_columns(self, text, most):
        cut = view_module._cut(text, most)
        assert view_module._columns(cut) <= most
        if view_module._columns(text) <= most:
            assert cut == text
        else:
            assert cut == '' or cut[-1] == '…' and text.startswith(cut[:-1])


class TestRefusals:
    """Nothing is read of the results, and nothing is written."""

    def refused(self, tmp_path, data, originals, match, error=BoxError, key=None, **options):
        (tmp_path / 'results.json').write_text('no JSON: this must not be read')
        out = options.pop('out', tmp_path / 'page.html')
        force = options.pop('force', False)
        before = sorted(tmp_path.rglob('*'))
        with pytest.raises(error, match=match):
            map_coco_results(
                str(tmp_path / 'results.json'),
                str(tmp_path / 'out.json'),
                str(data),
                key=key,
                force=force,
                progress=False,
                view=BoxView(str(out), str(originals), **options),
            )
        assert sorted(tmp_path.rglob('*')) == before

    @pytest.mark.parametrize('which', ['mixed', 'shuffled'])
    def test_inside_of_the_data_set(self, plain, tmp_path, request, which):
        data = tmp_path / 'data'
        shutil.copytree(request.getfixturevalue(which), data)
        (tmp_path / 'link').symlink_to(data)
        for inside in ('data/page.html', 'data/new/page.html', 'link/val/page.html'):
            self.refused(
                tmp_path,
                data,
                plain,
                named(inside.split('/')[-1], data, 'plain pictures'),
                key=KEY if which == 'shuffled' else None,
                out=tmp_path / inside,
                force=True,
            )

    def test_over_what_is_there(self, plain, mixed, tmp_path):
        (tmp_path / 'page.html').write_text('mine')
        self.refused(tmp_path, mixed, plain, 'page.html.*`force=True`', FileExistsError)
        assert (tmp_path / 'page.html').read_text() == 'mine'
        self.refused(
            tmp_path, mixed, plain, 'results.json itself', out=tmp_path / 'results.json', force=True
        )
        self.refused(tmp_path, mixed, plain, 'for the mapped boxes', out=tmp_path / 'x/../out.json')
        self.refused(tmp_path, mixed, plain, 'is a folder', out=tmp_path)
        KEY.save(str(tmp_path / 'key'))
        self.refused(tmp_path, mixed, plain, 'holds a key', out=tmp_path / 'key', force=True)

    def test_a_wrong_folder(self, plain, mixed, tmp_path):
        (tmp_path / 'wrong/val').mkdir(parents=True)
        write(tmp_path / 'wrong/val/other.png', photo(64, 64))
        wrong = tmp_path / 'wrong'
        self.refused(tmp_path, mixed, wrong, named('none of the 3 originals', wrong))
        self.refused(tmp_path, mixed, mixed, 'is an encrypted data set itself', ManifestError)
        self.refused(tmp_path, mixed, tmp_path / 'no', 'is no folder', HimeError)

    def test_numbers_that_make_no_sense(self, plain, mixed, tmp_path):
        self.refused(tmp_path, mixed, plain, 'one picture or more, not 0', pictures=0)
        self.refused(tmp_path, mixed, plain, 'is a number, not nan', score=float('nan'))

    def test_names_that_need_the_key(self, tmp_path):
        src = make_plain(tmp_path / 'src', some_pictures(), BOXES)
        encrypt_folder(
            str(src), str(tmp_path / 'data'), 'mix2', key=KEY, names='ids', progress=False
        )
        self.refused(tmp_path, tmp_path / 'data', src, f'{KEY.id}.*`key`', ManifestError)

    def test_without_jinja2(self, plain, mixed, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, 'jinja2', None)
        page_module._environment.cache_clear()
        self.refused(tmp_path, mixed, plain, r'hime-mm\[view\]', HimeError)
        # Without a page none is needed.
        (tmp_path / 'results.json').write_text(json.dumps(perfect(mixed)))
        map_coco_results(
            str(tmp_path / 'results.json'), str(tmp_path / 'o.json'), str(mixed), progress=False
        )
        assert (tmp_path / 'o.json').is_file()


class TestFile:
    def test_is_for_its_owner_only_and_says_what_it_holds(self, plain, mixed, tmp_path):
        before = os.umask(0)
        try:
            _, page = show(tmp_path, mixed, plain)
        finally:
            os.umask(before)
        assert stat.S_IMODE((tmp_path / 'page.html').stat().st_mode) == 0o600
        body = html.unescape(re.sub(r'\s+', ' ', page.text.split('<body>')[1]))
        assert body.index('This page holds plain pictures.') < body.index('<figure')
        assert 'do not hand it over' in body

    def test_half_of_it_is_none(self, plain, mixed, tmp_path, monkeypatch):
        real, count = view_module.page.embedded, []

        def stopped(*args):
            count.append(1)
            if len(count) == 3:
                raise KeyboardInterrupt
            return real(*args)

        monkeypatch.setattr(view_module.page, 'embedded', stopped)
        with pytest.raises(KeyboardInterrupt):
            show(tmp_path, mixed, plain)
        assert {path.name for path in tmp_path.iterdir()} == {'results.json', 'out.json'}

    def test_is_made_anew_with_force(self, plain, mixed, tmp_path):
        (tmp_path / 'page.html').write_text('old')
        _, page = show(tmp_path, mixed, plain, force=True)
        assert len(page.figures) == 3
        assert Path(tmp_path / 'page.html').stat().st_mode & 0o777 == 0o600

    def test_names_replaced_by_ids_of_the_key(self, tmp_path):
        """A folder that was encrypted without annotations; results name a file from elsewhere."""
        src = make_plain(tmp_path / 'src', some_pictures(), BOXES)
        shutil.move(src / 'annotations', tmp_path / 'annotations')
        data = tmp_path / 'data'
        encrypt_folder(str(src), str(data), 'shuffle', key=KEY, names='ids', progress=False)
        names = sorted((entry.to_dict() for entry in Manifest.load(data).entries()), key=str)
        coco = json.loads((tmp_path / ANN).read_text())
        coco['images'] = [
            dict(id=i, file_name=row['path'], height=row['shape'][0], width=row['shape'][1])
            for i, row in enumerate(names)
        ]
        coco['annotations'] = []
        (tmp_path / 'own.json').write_text(json.dumps(coco))
        results = [
            dict(image_id=i, category_id=3, bbox=[4, 4, 6, 6], score=0.5) for i in range(len(names))
        ]
        annotations = str(tmp_path / 'own.json')
        _, page = show(tmp_path, data, src, results, KEY, annotations=annotations)
        assert sorted(figure['name'] for figure in page.figures) == [
            f'val/{i}.png' for i in range(3)
        ]
        for figure, row in zip(page.figures, names, strict=True):
            h, w = row['ori_shape']
            assert figure['view'] == f'0 0 {w} {h}' and figure['img']


def test_reader_finds_what_is_there(tmp_path):
    (tmp_path / 'x.html').write_text(
        '<figure><h2>a</h2><svg viewBox="0 0 4 5"><g class="c1 low" data-score="0.1" '
        'data-class="2">'
        '<rect class="under" x="1" y="1" width="1" height="1"/>'
        '<rect x="1" y="2" width="3" height="4"/></g></svg></figure>'
    )
    (figure,) = Reader(tmp_path / 'x.html').figures
    assert figure['boxes'] == [(2, 0.1, [1, 2, 3, 4], True)] and figure['name'] == 'a'
