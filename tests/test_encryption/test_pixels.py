# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import io
import json
import shutil
from pathlib import Path

import mmcv
import numpy as np
import pytest
from encryption_parts import KEY, check_coco, coco, folder
from hypothesis import given, settings
from hypothesis import strategies as st
from owner_data import edit_json, found, photo, png_chunks, read, tree, write
from PIL import Image

from hime_mm.ciphers import Cipher
from hime_mm.datasets.manifest import Manifest
from hime_mm.images.sizing import fit_image


class TestPixels:
    @pytest.mark.parametrize(
        'cipher',
        [
            'shuffle',
            'center+erode2+shuffle',
            'mix2+shuffle',
            'mix2',
            'noise25+shuffle',
            'drop30',
            'orient+negate+permute_channels',
            'permute_pixels+shuffle',
            'mix4:tiled',
        ],
    )
    def test_are_what_the_cipher_gives(self, coco_src, tmp_path, cipher):
        summary = coco(coco_src, tmp_path / 'out', cipher)
        assert summary.complete and summary.files == summary.images == 4
        cipher = Cipher(cipher)
        for plain in sorted((coco_src / 'val2017').iterdir()):
            name = f'val2017/{plain.stem}.png'
            img, _ = fit_image(mmcv.imread(plain), 16)
            drawn = cipher.draw(img.shape, KEY.image_rng('d', name))
            np.testing.assert_array_equal(read(tmp_path / 'out' / name), cipher.apply(img, drawn))

    def test_of_real_pictures(self, coco_tiny, tmp_path):
        path = 'annotations/instances_val2017.json'
        names = [i['file_name'] for i in json.loads((coco_tiny / path).read_text())['images'][:6]]
        (tmp_path / 'src' / 'annotations').mkdir(parents=True)
        (tmp_path / 'src' / 'val2017').symlink_to(coco_tiny / 'val2017')
        shutil.copy(coco_tiny / path, tmp_path / 'src' / path)

        def first(state):
            state['images'] = state['images'][:6]
            ids = {i['id'] for i in state['images']}
            state['annotations'] = [a for a in state['annotations'] if a['image_id'] in ids]

        edit_json(tmp_path / 'src' / path, first)
        out = tmp_path / 'out'
        assert coco(tmp_path / 'src', out, workers=2).complete
        for name in names:
            img, _ = fit_image(mmcv.imread(coco_tiny / 'val2017' / name), 16)
            name = f'val2017/{Path(name).stem}.png'
            drawn = Cipher('shuffle').draw(img.shape, KEY.image_rng('d', name))
            np.testing.assert_array_equal(read(out / name), Cipher('shuffle').apply(img, drawn))
        check_coco(out / path, out / 'val2017')

    @pytest.mark.parametrize(
        'name, img',
        [
            ('gray', photo(40, 61, channels=1)),
            ('gray16', photo(40, 61, channels=1, dtype=np.uint16)),
            ('color16', photo(40, 61, dtype=np.uint16)),
            ('alpha', photo(40, 61, channels=4)),
        ],
    )
    @pytest.mark.parametrize('color_type', ['unchanged', 'color'])
    @pytest.mark.parametrize('fit', ['pad', 'resize'])
    def test_channels_and_bits(self, tmp_path, name, img, color_type, fit):
        write(tmp_path / 'src' / f'{name}.png', img)
        folder(tmp_path / 'src', tmp_path / 'out', preprocess=dict(color_type=color_type, fit=fit))
        expected = mmcv.imread(tmp_path / 'src' / f'{name}.png', color_type)
        if color_type == 'unchanged':
            np.testing.assert_array_equal(expected, img)
        expected, _ = fit_image(expected, 16, fit)
        path = f'{name}.png'
        drawn = Cipher('shuffle').draw(expected.shape, KEY.image_rng('d', path))
        out = read(tmp_path / 'out' / path)
        assert out.dtype == expected.dtype
        np.testing.assert_array_equal(out, Cipher('shuffle').apply(expected, drawn))
        entry = Manifest.load(tmp_path / 'out').entry(path)
        assert entry.channels == (1 if out.ndim == 2 else out.shape[2])

    def test_orientation_is_followed_and_gone(self, tmp_path):
        exif = Image.Exif()
        exif[0x0112], exif[0x010E] = 6, 'TAKEN AT HOME'
        (tmp_path / 'src').mkdir()
        path = tmp_path / 'src' / 'a.jpg'
        Image.fromarray(photo(48, 80)).save(path, exif=exif)
        for color_type, size in (('color', (80, 48)), ('color_ignore_orientation', (48, 80))):
            out = tmp_path / color_type
            folder(tmp_path / 'src', out, 'mix2', preprocess=dict(color_type=color_type))
            img = mmcv.imread(path, color_type)
            assert img.shape[:2] == size
            np.testing.assert_array_equal(read(out / 'a.png'), Cipher('mix2').apply(img, [None]))
            assert not found([b'TAKEN', b'Exif', b'eXIf'], tree(out).values())

    @pytest.mark.parametrize('compression', [None, 0, 9])
    def test_metadata_is_gone(self, tmp_path, compression):
        (tmp_path / 'src').mkdir()
        info = Image.Exif()
        info[0x010E] = 'HIDDEN'
        from PIL.PngImagePlugin import PngInfo

        text = PngInfo()
        text.add_text('Comment', 'HIDDEN')
        Image.fromarray(photo(32, 32)).save(
            tmp_path / 'src' / 'a.png', pnginfo=text, exif=info, dpi=(72, 72)
        )
        Image.fromarray(photo(32, 32)).save(
            tmp_path / 'src' / 'b.jpg', exif=info, comment=b'HIDDEN', icc_profile=b'HIDDEN' * 9
        )
        folder(tmp_path / 'src', tmp_path / 'out', compression=compression)
        contents = tree(tmp_path / 'out')
        for name in ('a.png', 'b.png'):
            assert set(png_chunks(contents[name])) == {'IHDR', 'IDAT', 'IEND'}
            assert not Image.open(io.BytesIO(contents[name])).info
        assert not found([b'HIDDEN'], contents.values())

    def test_webp(self, coco_src, tmp_path):
        coco(coco_src, tmp_path / 'png')
        coco(coco_src, tmp_path / 'webp', fmt='webp')
        # The file's name is part of the derivation, so the draws differ.
        cipher = Cipher('shuffle')
        for plain in (coco_src / 'val2017').iterdir():
            name = f'val2017/{plain.stem}.webp'
            assert (tmp_path / 'webp' / name).read_bytes()[12:16] == b'VP8L'
            img, _ = fit_image(mmcv.imread(plain), 16)
            drawn = cipher.draw(img.shape, KEY.image_rng('d', name))
            np.testing.assert_array_equal(read(tmp_path / 'webp' / name), cipher.apply(img, drawn))
        check_coco(
            tmp_path / 'webp/annotations/instances_val2017.json', tmp_path / 'webp' / 'val2017'
        )

    def test_compression(self, coco_src, tmp_path):
        sizes = []
        for level in (0, 9):
            coco(coco_src, tmp_path / str(level), compression=level)
            sizes.append(
                sum(len(d) for n, d in tree(tmp_path / str(level)).items() if n.endswith('.png'))
            )
        assert sizes[1] < sizes[0]
        for name in ('000001.png', '000004.png'):
            np.testing.assert_array_equal(
                read(tmp_path / '0' / 'val2017' / name), read(tmp_path / '9' / 'val2017' / name)
            )

    def test_patch_size(self, coco_src, tmp_path):
        coco(coco_src, tmp_path / 'out', patch_size=32)
        assert Manifest.load(tmp_path / 'out').cipher == Cipher('shuffle', 32)
        assert read(tmp_path / 'out/val2017/000002.png').shape == (64, 96, 3)

    def test_clipped_values_are_counted(self, coco_src, tmp_path):
        out = tmp_path / 'out'
        summary = coco(coco_src, out, 'noise60+shuffle', views=2)
        stats, cipher = {}, Cipher('noise60+shuffle')
        for plain in (coco_src / 'val2017').iterdir():
            img, _ = fit_image(mmcv.imread(plain), 16)
            for view in range(2):
                rng = KEY.image_rng('d', f'val2017/{plain.stem}_v{view}.png')
                cipher.apply(img, cipher.draw(img.shape, rng), stats)
        assert summary.clipped == stats and stats['noise60'][0] > 0
        assert Manifest.load(out).state['clipped'] == {'noise60': list(stats['noise60'])}


class TestEveryCipher:
    @settings(max_examples=25)
    @given(
        st.sampled_from(
            [
                'shuffle',
                'mix2+shuffle',
                'erode1+orient+shuffle',
                'permute_pixels+negate',
                'mix2+drop10',
            ]
        ),
        st.tuples(st.integers(8, 60), st.integers(8, 60)),
        st.sampled_from([1, 3, 4]),
        st.sampled_from(['resize', 'pad']),
        st.text(
            st.characters(blacklist_categories=('Cs', 'Cc'), blacklist_characters='/\\.'),
            min_size=1,
            max_size=12,
        ),
        st.integers(1, 3),
    )
    def test_written_and_undone(self, tmp_path_factory, cipher, size, channels, fit, name, views):
        tmp_path = tmp_path_factory.mktemp('any')
        img = photo(*size, channels=channels)
        write(tmp_path / 'src' / f'{name}.png', img)
        options = dict(color_type='unchanged', fit=fit)
        summary = folder(
            tmp_path / 'src',
            tmp_path / 'out',
            cipher,
            patch_size=8,
            preprocess=options,
            views=views if Cipher(cipher, 8).random else 1,
        )
        assert summary.complete
        manifest = Manifest.load(tmp_path / 'out')
        fitted, _ = fit_image(img, 8, fit)
        for entry in manifest.files.values():
            drawn = manifest.draw(entry, KEY)
            np.testing.assert_array_equal(
                read(tmp_path / 'out' / entry.path), Cipher(cipher, 8).apply(fitted, drawn)
            )
