# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""COCO files and folders as other tools write them."""

import json
import re
import shlex

import pytest
from click.testing import CliRunner
from encryption_parts import annotations, check_coco, coco
from hypothesis import given
from hypothesis import strategies as st
from owner_data import ROOT, annotation, coco_file, edit_json, named, photo, tree, write

from hime_mm.apis import verify_dataset
from hime_mm.cli import main
from hime_mm.datasets.coco import load_coco
from hime_mm.errors import CocoError, EncryptionError

ANN = 'annotations/instances_val2017.json'


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def cvat(root):
    """CVAT's "COCO 1.0": names with folders, a licence 0 and texts that are empty."""
    images = [
        dict(id=i, width=64, height=48, file_name=name, license=0, flickr_url='', date_captured=0)
        for i, name in enumerate(('a.jpg', 'frames/b.PNG'), 1)
    ]
    boxes = [
        dict(annotation(1, 1, [1, 2, 30, 20]), segmentation=[], attributes=dict(occluded=False)),
        dict(
            annotation(2, 2, [5.5, 6.25, 3, 4]), segmentation=dict(counts=[48 * 64], size=[48, 64])
        ),
    ]
    licenses = [dict(name='', id=0, url='')]
    put(root / 'annotations/instances_default.json', coco_file(images, boxes, licenses=licenses))
    for image in images:
        write(root / 'images/default' / image['file_name'], photo(48, 64, image['id']))


def fiftyone(root):
    """FiftyOne's `COCODetectionDataset`: null for what there is not, a score with each box."""
    images = [
        dict(id=i, file_name=f'{i:06d}.jpg', height=48, width=64, license=None, coco_url=None)
        for i in (1, 2)
    ]
    categories = [dict(id=i, name=name, supercategory=None) for i, name in enumerate('ab')]
    boxes = [annotation(1, 1, [1, 2, 30, 20], category_id=0, supercategory=None, score=None)]
    state = coco_file(
        images, boxes, categories=categories, licenses=[], info=dict(year='', url=None)
    )
    put(root / 'labels.json', state)
    for image in images:
        write(root / 'data' / image['file_name'], photo(48, 64, image['id']))


def label_studio(root):
    """Label Studio's "COCO with images", here from Windows: folders in the names."""
    images = [dict(width=64, height=48, id=i, file_name=f'images\\{i}-photo.jpg') for i in range(2)]
    categories = [dict(id=0, name='cat'), dict(id=1, name='cup')]
    boxes = [
        dict(id=0, image_id=0, category_id=1, segmentation=[], bbox=[1.5, 2.25, 30, 20], ignore=0)
        | dict(iscrowd=0, area=600.0)
    ]
    state = dict(images=images, categories=categories, annotations=boxes)
    put(root / 'result.json', state | dict(info=dict(year=2024, version='1.0')))
    for i in range(2):
        write(root / f'images/{i}-photo.jpg', photo(48, 64, i))


def roboflow(root):
    """Roboflow's "COCO": each split a folder with its pictures and `_annotations.coco.json`."""
    for split, number in (('train', 2), ('valid', 1), ('test', 1)):
        images = [
            dict(id=i, license=1, file_name=f'{split}{i}_jpg.rf.0a1b.jpg', height=48, width=64)
            | dict(date_captured='2024-01-01T00:00:00+00:00', extra=dict(name=f'{i}.jpg'))
            for i in range(number)
        ]
        categories = [dict(id=0, name='pets', supercategory='none')]
        boxes = [dict(annotation(0, 0, [1, 2, 30, 20]), category_id=0, segmentation=[])]
        put(
            root / split / '_annotations.coco.json',
            coco_file(
                images, boxes, categories=categories, licenses=[dict(id=1, url='u', name='n')]
            ),
        )
        for image in images:
            write(root / split / image['file_name'], photo(48, 64, image['id']))


EXPORTS = dict(cvat=cvat, fiftyone=fiftyone, labelstudio=label_studio, roboflow=roboflow)


def documented_commands():
    """The commands in the table of exports, by their source."""
    text = (ROOT / 'docs/datasets.md').read_text()
    lines = re.findall(r'^\|.*`hime (encrypt coco [^`]*)` \|$', text, re.M)
    return {words[2]: words for words in map(shlex.split, lines)}


class TestExports:
    @pytest.mark.parametrize('tool', EXPORTS)
    def test_command_of_the_docs(self, tmp_path, monkeypatch, tool):
        monkeypatch.chdir(tmp_path)
        EXPORTS[tool](tmp_path / tool)
        words = documented_commands()[tool]
        result = CliRunner(env=dict(HIME_KEY=None)).invoke(main, [*words, '-j', '1'])
        assert result.exit_code == 0, result.output
        src, out = tmp_path / tool, tmp_path / words[3]
        # The same tree, but for the names' ends.
        stems = {re.sub(r'(?i)\.(jpg|png)$', '', name) for name in tree(src)}
        assert {re.sub(r'\.png$', '', name) for name in tree(out)} == stems | {
            'hime.json',
            'hime-000000.json',
        }
        assert verify_dataset(str(out), progress=False).ok
        for path in src.rglob('*.json'):
            before, text = load_coco(str(path)), (out / path.relative_to(src)).read_text()
            folder = next(
                f
                for f in (out, *out.rglob('*/'))
                if (f / json.loads(text)['images'][0]['file_name']).is_file()
            )
            api = check_coco(out / path.relative_to(src), folder)
            assert set(api.anns) == {a['id'] for a in before['annotations']}
            assert [c['name'] for c in before['categories']] == [
                c['name'] for c in api.dataset['categories']
            ]
            assert 'null' not in text

    def test_every_tool_is_documented(self):
        assert set(documented_commands()) == set(EXPORTS)

    @pytest.mark.parametrize('tool', EXPORTS)
    def test_interrupted_and_the_plain_pictures_are_gone(self, tmp_path, tool):
        src = tmp_path / 'src'
        EXPORTS[tool](src)
        pictures = sorted(p for p in src.rglob('*') if p.suffix.lower() in ('.jpg', '.png'))
        good = pictures[0].read_bytes()
        pictures[0].write_bytes(b'')
        assert len(coco(src, tmp_path / 'out', 'mix2', key=None).skipped) == 1
        for path in pictures[1:]:
            path.unlink()
        pictures[0].write_bytes(good)
        summary = coco(src, tmp_path / 'out', 'mix2', key=None)
        assert summary.complete and summary.reused == len(pictures) - 1
        pictures[0].unlink()
        assert coco(src, tmp_path / 'out', 'mix2', key=None).finished_before


OPTIONAL = {
    'images': ('license', 'coco_url', 'height', 'width', 'date_captured', 'flickr_url'),
    'annotations': ('area', 'iscrowd', 'ignore', 'segmentation', 'caption', 'score'),
    'categories': ('supercategory', 'keypoints', 'color'),
    'licenses': ('name', 'url', 'text'),
}


class TestNull:
    @given(st.data())
    def test_is_as_if_absent(self, tmp_path_factory, data):
        folder = tmp_path_factory.mktemp('null')
        state = coco_file({'a.jpg': (20, 30), 'b.jpg': (5, 6)}, [annotation(1, 7, [1, 2, 3, 4])])
        absent = json.loads(json.dumps(state))
        for name, keys in OPTIONAL.items():
            for key in data.draw(st.sets(st.sampled_from(keys))):
                for entry, other in zip(state[name], absent[name], strict=True):
                    entry[key] = None
                    other.pop(key, None)
        for name in data.draw(st.sets(st.sampled_from(['info', 'licenses', 'captions']))):
            state[name] = None
            absent.pop(name, None)
        put(folder / 'null.json', state)
        put(folder / 'absent.json', absent)
        loaded = [load_coco(str(folder / f'{n}.json'), True) for n in ('null', 'absent')]
        assert loaded[0] == loaded[1]

    @pytest.mark.parametrize(
        'place, key',
        [('images', 'id'), ('images', 'file_name')]
        + [('annotations', k) for k in ('id', 'image_id', 'category_id', 'bbox')],
    )
    def test_of_what_has_to_be_there_is_refused(self, tmp_path, place, key):
        state = coco_file({'a.jpg': (20, 30)}, [annotation(1, 7, [1, 2, 3, 4])])
        state[place][0][key] = None
        put(tmp_path / 'x.json', state)
        with pytest.raises(CocoError, match=named(f'`{place}[0]`')):
            load_coco(str(tmp_path / 'x.json'))

    def test_is_not_written_back(self, own_src, tmp_path):
        def change(state):
            for image in state['images']:
                image.update(license=None, height=None, width=None)
            for ann in state['annotations']:
                ann.update(area=None, ignore=None, iscrowd=None, segmentation=None)
            state.update(licenses=None, info=None)
            state['categories'][0]['supercategory'] = None

        edit_json(own_src / ANN, change)
        summary = coco(own_src, tmp_path / 'out')
        assert 'annotations.segmentation' not in summary.dropped
        assert 'null' not in (tmp_path / 'out' / ANN).read_text()
        after = annotations(tmp_path / 'out')
        assert all('license' not in image and image['height'] > 0 for image in after['images'])
        assert all(a['iscrowd'] == 0 and a['area'] > 0 for a in after['annotations'])


@pytest.mark.parametrize('kind', [float, int])
def test_whole_numbers_with_a_point(tmp_path, kind):
    """As tables write them, in which a number is missing elsewhere."""
    state = coco_file({'a.jpg': (20, 30)}, [annotation(1, 7, [1, 2, 3, 4])])
    ids = ('id', 'image_id', 'category_id', 'license', 'height', 'width')
    for name in OPTIONAL:
        for entry in state[name]:
            entry.update({k: kind(v) for k, v in entry.items() if k in ids})
    put(tmp_path / 'x.json', state)
    text = json.dumps(load_coco(str(tmp_path / 'x.json')))
    assert not re.search(r'"(id|\w+_id|license|height|width)": \d+\.', text)
    for place, key, value in [('images', 'id', 7.5), ('annotations', 'category_id', '3')]:
        before = state[place][0][key]
        state[place][0][key] = value
        put(tmp_path / 'x.json', state)
        with pytest.raises(CocoError, match=named(f'`{place}[0]`')):
            load_coco(str(tmp_path / 'x.json'))
        state[place][0][key] = before


class TestNoAnnotations:
    """COCO's image_info_*.json."""

    @pytest.mark.parametrize('without', [('annotations',), ('annotations', 'categories')])
    @pytest.mark.parametrize('null', [False, True])
    def test_encrypted(self, own_src, tmp_path, without, null):
        def change(state):
            for name in without:
                state.pop(name) if not null else state.update({name: None})

        edit_json(own_src / ANN, change)
        summary = coco(own_src, tmp_path / 'out')
        assert summary.complete and summary.images == 4
        api = check_coco(tmp_path / 'out' / ANN, tmp_path / 'out/val2017')
        assert api.getAnnIds() == [] and len(api.getImgIds()) == 4
        assert len(api.getCatIds()) == (0 if 'categories' in without else 2)
        assert verify_dataset(str(tmp_path / 'out'), progress=False).ok

    def test_mmdetection_reads_it(self, own_src, tmp_path):
        datasets = pytest.importorskip('mmdet.datasets')
        edit_json(own_src / ANN, lambda state: state.pop('annotations'))
        coco(own_src, tmp_path / 'out')
        data = datasets.CocoDataset(
            ann_file=ANN,
            data_root=str(tmp_path / 'out'),
            data_prefix=dict(img='val2017/'),
            metainfo=dict(classes=('cat', 'cup')),
            test_mode=True,
        )
        assert len(data) == 4
        assert all(row['instances'] == [] for row in map(data.get_data_info, range(4)))

    def test_categories_belong_to_annotations(self, own_src, tmp_path):
        edit_json(own_src / ANN, lambda state: state.pop('categories'))
        with pytest.raises(CocoError, match=named('`categories`')):
            coco(own_src, tmp_path / 'out')


class TestPlaces:
    @pytest.mark.parametrize(
        ('ann_file', 'place'),
        [
            ('train/labels.json', 'train/data'),
            ('_annotations.coco.json', '.'),
            ('labels.json', 'data'),
            ('result.json', 'images'),
            ('train/_annotations.coco.json', 'train/images'),
            ('annotations/instances_a_b.json', 'images/a_b'),
        ],
    )
    def test_of_annotation_files_under_other_names(self, tmp_path, ann_file, place):
        src, out = tmp_path / 'src', tmp_path / 'out'
        put(src / ann_file, coco_file({'x.jpg': (48, 64)}))
        write(src / place / 'x.jpg', photo(48, 64))
        assert coco(src, out).complete
        assert set(tree(out)) == {
            'hime.json',
            'hime-000000.json',
            ann_file,
            str((out / place / 'x.png').relative_to(out)),
        }

    @pytest.fixture
    def flat(self, tmp_path):
        """A source whose pictures a test moves to where it wants them."""
        src = tmp_path / 'src'
        put(
            src / 'annotations/instances_val.json',
            coco_file({'val/a.jpg': (48, 64), 'b.jpg': (48, 64)}),
        )

        def at(folder):
            for name in ('val/a.jpg', 'b.jpg'):
                write(src / folder / name, photo(48, 64))
            return src

        return at

    @pytest.mark.parametrize(
        'place',
        [
            'val',
            'images/val',
            'data/val',
            'images',
            'data',
            '.',
            'annotations',
            'annotations/images',
        ],
    )
    def test_are_found(self, flat, tmp_path, place):
        src, out = flat(place), tmp_path / 'out'
        # Others are there, too, and hold nothing of it.
        for other in ('val/val', 'images/val', 'data', 'annotations'):
            (src / other).mkdir(parents=True, exist_ok=True)
        assert coco(src, out).complete
        assert (out / place / 'val/a.png').is_file() and (out / place / 'b.png').is_file()

    @pytest.mark.parametrize('place', ['pics', 'train2017'])
    def test_elsewhere_is_told_before_the_work(self, flat, tmp_path, place):
        src = flat(place)
        with pytest.raises(EncryptionError, match=named('val/a.jpg', f'`images=[{place!r}]`')):
            coco(src, tmp_path / 'out')
        assert not (tmp_path / 'out').exists()
        assert coco(src, tmp_path / 'out', images=[place]).complete

    @pytest.mark.parametrize('given', ['pics', 'annotations', 'images/val'])
    def test_wrong_folder_is_told_with_the_right_one(self, flat, tmp_path, given):
        src = flat('images')
        (src / given).mkdir(exist_ok=True)
        things = ('2 pictures', 'val/a.jpg', f'folder {given} of', "`images=['images']`")
        with pytest.raises(EncryptionError, match=named(*things)):
            coco(src, tmp_path / 'out', images=[given])
        assert not (tmp_path / 'out').exists()

    def test_nowhere(self, flat, tmp_path):
        src = flat('a/deep/folder')
        with pytest.raises(
            EncryptionError, match=named('val/a.jpg', 'images/val, ', '`images=...`')
        ):
            coco(src, tmp_path / 'out')
        edit_json(
            src / 'annotations/instances_val.json',
            lambda s: [i.update(file_name=f'https://host/{i["id"]}.jpg') for i in s['images']],
        )
        with pytest.raises(EncryptionError, match=named('https://host/7.jpg', 'addresses')):
            coco(src, tmp_path / 'out')

    def test_only_the_last_picture_is_there(self, tmp_path):
        names = {f'{i}.jpg': (48, 64) for i in range(40)}
        put(tmp_path / 'src/annotations/instances_val.json', coco_file(names))
        write(tmp_path / 'src/val/39.jpg', photo(48, 64))
        assert len(coco(tmp_path / 'src', tmp_path / 'out').skipped) == 39

    def test_several_files_are_all_named(self, own_src, tmp_path):
        put(own_src / 'annotations/instances_x.json', coco_file({'n.jpg': (48, 64)}))
        write(own_src / 'pics/n.jpg', photo(48, 64))
        remedy = "`images=['val2017', 'pics']`"
        with pytest.raises(EncryptionError, match=named('n.jpg', remedy)):
            coco(own_src, tmp_path / 'out')
        assert coco(own_src, tmp_path / 'out', images=['val2017', 'pics']).complete

    def test_hidden_folders_are_left_alone(self, tmp_path):
        put(tmp_path / 'src/.trash/_annotations.coco.json', coco_file({'x.jpg': (48, 64)}))
        write(tmp_path / 'src/.trash/x.jpg', photo(48, 64))
        with pytest.raises(
            EncryptionError, match=named('_annotations.coco.json', '`annotations=...`')
        ):
            coco(tmp_path / 'src', tmp_path / 'out')


class TestAbsolutePaths:
    @pytest.mark.parametrize('linked', [False, True])
    def test_inside_the_source(self, own_src, tmp_path, linked):
        src = own_src
        if linked:
            src = tmp_path / 'link'
            src.symlink_to(own_src)
        # Named by the one, meant by the other.
        for i, (root, named_root) in enumerate([(own_src, src), (src, own_src)]):
            out = tmp_path / f'out{i}'
            coco(
                root, out, annotations=[str(named_root / ANN)], images=[str(named_root / 'val2017')]
            )
            assert set(tree(out)) >= {ANN, 'val2017/000001.png'}

    @pytest.mark.parametrize('linked', [False, True])
    def test_from_the_working_directory(self, own_src, tmp_path, monkeypatch, linked):
        """As a shell completes them."""
        monkeypatch.chdir(tmp_path)
        (tmp_path / 'link').symlink_to(own_src)
        src = 'link' if linked else 'own'
        coco('own', 'out', annotations=[f'{src}/{ANN}'], images=[f'{src}/val2017'])
        assert set(tree(tmp_path / 'out')) >= {ANN, 'val2017/000001.png'}
        # What is there in the source goes first.
        (tmp_path / 'val2017').mkdir()
        assert coco('own', 'two', images=['val2017']).complete
        with pytest.raises(EncryptionError, match=named('elsewhere', 'not inside')):
            (tmp_path / 'elsewhere').mkdir()
            coco('own', 'three', images=['elsewhere'])

    def test_folder_that_is_a_link_stays_where_it_is(self, own_src, tmp_path):
        (own_src / 'val2017').rename(tmp_path / 'elsewhere')
        (own_src / 'val2017').symlink_to(tmp_path / 'elsewhere')
        coco(own_src, tmp_path / 'out', images=[str(own_src / 'val2017')])
        assert (tmp_path / 'out/val2017/000001.png').is_file()

    @pytest.mark.parametrize('path', ['{}/../own/x', '{}/../other', '{}x', '/', '{}/a/../../own2'])
    def test_outside_is_refused(self, own_src, tmp_path, path):
        path = path.format(own_src)
        for options in (dict(images=[path]), dict(annotations=[path], images=['val2017'])):
            with pytest.raises(EncryptionError, match=named(path, 'not inside')):
                coco(own_src, tmp_path / 'out', **options)


@pytest.mark.parametrize('other', [dict(names='ids'), dict(names='keep')])
def test_two_pictures_with_one_id(own_src, tmp_path, other):
    """What helps is named, and helps."""
    put(own_src / 'annotations/instances_new.json', coco_file([dict(id=7, file_name='new.jpg')]))
    write(own_src / 'val2017/new.jpg', photo(48, 64))
    options = dict(
        annotations=[ANN, 'annotations/instances_new.json'], images=['val2017', 'val2017']
    )
    if other['names'] == 'keep':
        assert coco(own_src, tmp_path / 'out', **other, **options).complete
        return
    things = ('000001.jpg', 'new.jpg', 'different ids', "`names='keep'`")
    with pytest.raises(EncryptionError, match=named(*things)):
        coco(own_src, tmp_path / 'out', **other, **options)
    edit_json(own_src / 'annotations/instances_new.json', lambda s: s['images'][0].update(id=70))
    assert coco(own_src, tmp_path / 'out', **other, **options).complete
