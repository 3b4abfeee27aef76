# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What ``docs/format.md`` says is what is computed, here and elsewhere."""

import ast
import hashlib
import io
import json
import re
import sys
from pathlib import Path

import independent_decoder
import loops
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from independent_decoder import chacha20, decrypt, hkdf, permutation, sub_key
from scripts import load_script

from hime_mm.ciphers import PRESETS, STEPS, Cipher, Key
from hime_mm.ciphers.randomness import draw_noise, draw_permutation

DOCUMENT = (Path(__file__).resolve().parents[2] / 'docs' / 'format.md').read_text('utf-8')
VECTORS = json.loads(re.search(r'\n## Test vectors\n.*?```json\n(.*?)```', DOCUMENT, re.S)[1])
SECRET = bytes.fromhex(VECTORS['key'].split(':')[1])
KEY = Key(SECRET)
NAMES = (VECTORS['dataset_id'], VECTORS['image_id'])
CASES = pytest.mark.parametrize(
    'case', VECTORS['ciphers'], ids=lambda x: f'{x["cipher"]}-{x["dtype"]}-{x["shape"]}'
)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def raw(img: np.ndarray) -> bytes:
    """The bytes of an image, whatever the machine's byte order."""
    return img.astype(img.dtype.newbyteorder('<')).tobytes()


def pattern(shape, dtype: str) -> bytes:
    """The image of the vectors, without any array."""
    h, w, depth = (*shape, 1)[:3]
    data = b''
    for y in range(h):
        for x in range(w):
            for c in range(depth):
                v = (7919 * y + 6151 * x + 20011 * c + 257 * x * y) % 65536
                data += v.to_bytes(2, 'little') if dtype == 'uint16' else bytes([v // 256])
    return data


def image(case: dict) -> np.ndarray:
    data = pattern(case['shape'], case['dtype'])
    dtype = np.dtype(case['dtype'])
    return np.frombuffer(data, dtype.newbyteorder('<')).astype(dtype).reshape(case['shape'])


def shown(name: str, value) -> object:
    """A draw in the form of the vectors."""
    if value is None:
        return None
    if name == 'drop':
        return np.flatnonzero(value).tolist()
    if name == 'noise':
        return np.ravel(value)[:12].tolist()
    return np.asarray(value).astype(int).tolist()


# The decoder itself.


def test_decoder_is_short_and_independent():
    text = Path(independent_decoder.__file__).read_text('utf-8')
    lines = [line for line in text.splitlines() if line.strip()]
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 100
    names = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition('.')[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            names.add(node.module.partition('.')[0])
    assert names and names <= set(sys.stdlib_module_names)
    assert not re.search('import_|eval|exec', text)


# RFC 8439, 2.3.2 and A.1: key, nonce, block and its 64 bytes.
@pytest.mark.parametrize(
    'key, nonce, block, expected',
    [
        (
            bytes(range(32)),
            '000000090000004a00000000',
            1,
            '10f1e7e4d13b5915500fdd1fa32071c4c7d1f4c733c068030422aa9ac3d46c4e'
            'd2826446079faa0914c2d705d98b02a2b5129cd1de164eb9cbd083e8a2503c4e',
        ),
        (
            bytes(32),
            '00' * 12,
            0,
            '76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7'
            'da41597c5157488d7724e03fb8d84a376a43b8f41518a11cc387b669b2ee6586',
        ),
        (
            bytes(32),
            '00' * 12,
            1,
            '9f07e7be5551387a98ba977c732d080dcb0f29a048e3656912c6533e32ee7aed'
            '29b721769ce64e43d57133b074d839d531ed1f28510afb45ace10a1f4b794d6f',
        ),
        (
            bytes(32),
            '00' * 11 + '02',
            0,
            'c2c64d378cd536374ae204b9ef933fcd1a8b2288b3dfa49672ab765b54ee27c7'
            '8a970e0e955c14f3a88e741b97c286f75f8fc299e8148362fa198a39531bed6d',
        ),
    ],
)
def test_rfc_8439(key, nonce, block, expected):
    number = int.from_bytes(bytes.fromhex(nonce), 'little')
    stream = chacha20(key, number, 64 * (block + 1))
    assert stream[64 * block :].hex() == expected
    # The beginning of a longer stream, and not whole blocks only.
    assert chacha20(key, number, 70)[:64] == stream[:64]
    assert chacha20(key, number, 13) == stream[:13]
    assert chacha20(key, number, 0) == b''


# RFC 5869, A.1 to A.3.
@pytest.mark.parametrize(
    'key, salt, info, length, expected',
    [
        (
            b'\x0b' * 22,
            bytes(range(13)),
            bytes(range(0xF0, 0xFA)),
            42,
            '3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865',
        ),
        (
            bytes(range(80)),
            bytes(range(0x60, 0xB0)),
            bytes(range(0xB0, 0x100)),
            82,
            'b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c'
            '59045a99cac7827271cb41c65e590e09da3275600c2f09b8367793a9aca3db71'
            'cc30c58179ec3e87c14c01d5c1f3434f1d87',
        ),
        (
            b'\x0b' * 22,
            b'',
            b'',
            42,
            '8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8',
        ),
    ],
)
def test_rfc_5869(key, salt, info, length, expected):
    assert hkdf(key, info, length, salt).hex() == expected
    if not salt:
        # Our case: no salt is 32 zero bytes.
        assert hkdf(key, info, length).hex() == expected


# The vectors, by the decoder and by hime_mm.


def test_key_of_the_vectors():
    assert VECTORS['key'] == 'hime-key-v1:' + bytes(range(32)).hex()
    assert sub_key(SECRET, 'key id', length=8).hex() == VECTORS['key_id']
    assert KEY.id == VECTORS['key_id']


@pytest.mark.parametrize('case', VECTORS['streams'])
def test_stream_vectors(case):
    dataset, name = NAMES
    names = [dataset, case['cipher']]
    if case['scope'] == 'image':
        names.append(name)
    info = bytes.fromhex(case['info'])
    assert hkdf(SECRET, info).hex() == case['sub_key']
    derived = sub_key(SECRET, case['scope'], *names)
    assert derived.hex() == case['sub_key']
    expected = bytes.fromhex(case['stream'])
    assert chacha20(derived, case['number'], len(expected)) == expected

    assert KEY.derive(case['scope'], *names) == derived
    rng = KEY.image_rng(*NAMES)
    stream = rng.stream(case['cipher'], case['number'], case['scope'])
    assert stream.read(len(expected)) == expected
    if case['number'] == 255:
        stream = rng.augmentation(case['cipher'])
        assert stream.read(len(expected)) == expected


def test_streams_of_the_vectors_differ():
    assert {case['scope'] for case in VECTORS['streams']} == {'image', 'dataset'}
    streams = [case['stream'] for case in VECTORS['streams']]
    assert len(set(streams)) == len(streams) >= 4


@pytest.mark.parametrize('case', VECTORS['permutations'])
def test_permutation_vectors(case):
    num, expected = case['num'], case['permutation']
    derived = sub_key(SECRET, 'image', NAMES[0], case['cipher'], NAMES[1])
    assert permutation(chacha20(derived, 0, 8 * num), num) == expected
    stream = KEY.image_rng(*NAMES).stream(case['cipher'], 0, 'image')
    assert draw_permutation(num, stream).tolist() == expected
    assert {6, 12} <= {one['num'] for one in VECTORS['permutations']}


@pytest.mark.parametrize('case', VECTORS['noise'])
def test_noise_vectors(case):
    std = case['std']

    def ours(words) -> np.ndarray:
        stream = io.BytesIO(np.array(words, '<u2').tobytes())
        return draw_noise((len(words),), std, stream)

    def theirs(words) -> np.ndarray:
        return np.array([loops.noise_of(word, std) for word in words], np.int16)

    for noise in (ours, theirs):
        assert noise(case['words']).tolist() == case['values']
        assert sha256(raw(noise(range(65536)))) == case['table_sha256']


@CASES
def test_cipher_vectors(case):
    img = image(case)
    assert sha256(raw(img)) == case['plain_sha256']
    text, patch_size = case['cipher'].split('/')
    cipher = Cipher(text, int(patch_size))
    assert cipher.canonical == case['cipher']
    encrypted, _, drawn = cipher.encrypt(img, KEY.image_rng(*NAMES))
    stats = {}
    cipher.apply(img, drawn, stats)
    names = [step.name for step in cipher.steps]
    assert list(map(shown, names, drawn)) == case['drawn']
    assert {step: clipped for step, (clipped, _) in stats.items()} == case.get('clipped', {})
    assert list(encrypted.shape) == case['encrypted_shape']
    assert sha256(raw(encrypted)) == case['encrypted_sha256']
    if 'encrypted' in case:
        assert raw(img).hex() == case['plain']
        assert raw(encrypted).hex() == case['encrypted']
    if cipher.invertible:
        np.testing.assert_array_equal(cipher.decrypt(encrypted, drawn), img)


@CASES
def test_cipher_vectors_by_the_loops(case):
    """Without a line of hime_mm."""
    img, stats = image(case), {}
    text, patch_size = case['cipher'].split('/')
    drawn = loops.draw(text, int(patch_size), img.shape, SECRET, *NAMES)
    encrypted = loops.apply(img, text, int(patch_size), drawn, stats)
    names = [name for name, _, _ in loops.parse(text)]
    assert list(map(shown, names, drawn)) == case['drawn']
    assert {step: clipped for step, (clipped, _) in stats.items()} == case.get('clipped', {})
    assert list(encrypted.shape) == case['encrypted_shape']
    assert sha256(raw(encrypted)) == case['encrypted_sha256']


@CASES
def test_script_of_the_vectors(case):
    made = load_script('.dev_scripts/make_vector.py').make_vector(
        case['cipher'], case['shape'], case['dtype']
    )
    assert made.items() <= case.items()


def test_decoder_undoes_the_vectors():
    found = 0
    for case in VECTORS['ciphers']:
        text, patch_size = case['cipher'].split('/')
        if text != 'shuffle':
            continue
        patch_size = int(patch_size)
        if 'encrypted' in case:
            # From the document alone.
            found += 1
            data = bytes.fromhex(case['encrypted'])
        else:
            data = raw(Cipher(text, patch_size).encrypt(image(case), KEY.image_rng(*NAMES))[0])
        assert sha256(data) == case['encrypted_sha256']
        height, width = case['shape'][:2]
        plain = decrypt(
            SECRET, *NAMES, data, width // patch_size, len(data) // (height * width), patch_size
        )
        assert plain == pattern(case['shape'], case['dtype'])
        assert plain != data
        assert sha256(plain) == case['plain_sha256']
    assert found >= 2


def test_every_step_has_a_vector():
    seen = {
        name
        for case in VECTORS['ciphers']
        for name, _, _ in loops.parse(case['cipher'].split('/')[0])
    }
    assert seen == set(STEPS)


@settings(max_examples=60)
@given(
    secret=st.binary(min_size=32, max_size=32),
    dataset=st.text(max_size=6),
    name=st.text(max_size=6),
    patch_size=st.integers(1, 5),
    grid=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    channels=st.sampled_from([(), (1,), (3,), (4,)]),
    dtype=st.sampled_from([np.uint8, np.uint16, np.float32]),
    seed=st.integers(0, 99),
)
def test_decoder_undoes_hime_mm(secret, dataset, name, patch_size, grid, channels, dtype, seed):
    img = (
        np.random.default_rng(seed)
        .integers(0, 256, (grid[0] * patch_size, grid[1] * patch_size, *channels))
        .astype(dtype)
    )
    cipher = Cipher('shuffle', patch_size)
    encrypted, _, drawn = cipher.encrypt(img, Key(secret).image_rng(dataset, name))
    derived = sub_key(secret, 'image', dataset, cipher.canonical, name)
    num = grid[0] * grid[1]
    assert permutation(chacha20(derived, 0, 8 * num), num) == drawn[0].tolist()
    pixel_bytes = img.nbytes // (img.shape[0] * img.shape[1])
    assert (
        decrypt(secret, dataset, name, encrypted.tobytes(), grid[1], pixel_bytes, patch_size)
        == img.tobytes()
    )


# What the document says in words.


def test_example_of_sub_keys():
    block = re.search(r'```\n(68696d655f6d6d2f312f.*)\n', DOCUMENT)[1]
    info = bytes.fromhex(block.replace(' ', ''))
    key = Key(SECRET)
    assert hkdf(SECRET, info) == key.derive('image', 'ab', 'shuffle/16', 'c')
    rng = key.image_rng('ab', 'c')
    assert chacha20(hkdf(SECRET, info), 3, 50) == rng.stream('shuffle/16', 3, 'image').read(50)


def test_written_forms_of_the_steps():
    """Every row of the table is a step as it is written, and none lacks."""
    rows = re.findall(r'^\| `(\w+)` \| (`\S.*?`) \| `({.*})` \|$', DOCUMENT, re.M)
    assert sorted(name for name, _, _ in rows) == sorted(STEPS)
    for name, forms, as_json in rows:
        forms = forms.strip('`').split('`, `')
        assert all(str(Cipher(form, 16)) == form for form in forms)
        step = Cipher(forms[0], 16).steps[0]
        assert step.name == name
        assert json.dumps(step.to_dict(), sort_keys=True, separators=(',', ':')) == as_json
        assert f'**`{name}`**' in DOCUMENT


def test_example_of_the_json_form():
    text = re.search(r'```\n({"patch_size".*})\n', DOCUMENT)[1]
    cipher = Cipher.build(json.loads(text))
    assert cipher.to_json() == text
    assert f'`{cipher.canonical}`' in DOCUMENT
    for name in PRESETS:
        assert f'`{name}`' in DOCUMENT
        assert f'`{Cipher(name).canonical}`' in DOCUMENT


def test_words():
    text = ' '.join(DOCUMENT.lower().split())
    assert 'perceptual obfuscation' in text
    for word in ('secure', 'safe', 'intractable', 'unbreakable'):
        assert not re.search(rf'\b{word}', text)
    assert '\n## The data set folder\n' in DOCUMENT
