# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""The challenge: what is published, what is kept, and what a submission gets."""

import hashlib
import json
import os
import re
import secrets
import shutil
import stat
from pathlib import Path

import cv2
import numpy as np
import pytest

from hime_mm.audit.challenge import making as challenge_module
from hime_mm.audit.challenge.making import SHIPPED, Challenge, make_challenge
from hime_mm.audit.challenge.scoring import score_lines, score_submission
from hime_mm.ciphers import Key
from hime_mm.datasets.manifest import Manifest
from hime_mm.datasets.originals import name_secret
from hime_mm.encryption.job import Item
from hime_mm.encryption.names import renamed
from hime_mm.errors import AuditError, HimeError, ManifestError

ROOT = Path(__file__).resolve().parents[2]
SHUFFLED, ERODED, MIXED = 'shuffle_p16', 'erode2+shuffle_p16', 'mix2_p16'
CIPHERS = ('paper-rs', 'erode2+shuffle', 'mix2')
SCENES, SIZE = 6, 64


def make(out, ciphers=CIPHERS, **settings):
    settings = dict(dict(num_scenes=SCENES, size=SIZE, progress=False), **settings)
    return make_challenge(str(out), ciphers, **settings)


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    """Read only, and always the same: what an attack gets of so few pictures is chance in part."""
    out, rng = tmp_path_factory.mktemp('challenge') / 'made', np.random.default_rng(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(secrets, 'token_bytes', rng.bytes)
        patch.setattr(challenge_module.Key, 'generate', lambda: Key(bytes(range(32))))
        make(out)
    return out


@pytest.fixture(scope='module')
def truth(made):
    """By data set and name: the original, which patch each slot holds, and its file's name."""
    key, found = Key.from_file(str(made / 'secret' / 'challenge.key')), {}
    for folder in sorted(path for path in (made / 'public').iterdir() if path.is_dir()):
        manifest = Manifest.load(str(folder))
        originals = made / 'secret' / 'originals' / folder.name
        secret = name_secret(key, manifest.dataset_id)
        items = renamed([Item(path.name, '') for path in originals.iterdir()], secret)
        found[folder.name] = {
            f'{item.target}.png': (
                cv2.imread(str(originals / item.path)),
                manifest.secret_layout(manifest.files[f'{item.target}.png'], key).permutation,
                item.path,
            )
            for item in items
        }
    return found


def score(made, submission):
    return score_submission(str(submission), str(made / 'public'), str(made / 'secret'))


def hand_in(root, pictures=None, orders=None, method=None):
    """Write a submission: by data set and name pictures, and lists of slots."""
    root.mkdir()
    for folder, images in (pictures or {}).items():
        (root / folder).mkdir(exist_ok=True)
        for name, img in images.items():
            assert cv2.imwrite(str(root / folder / name), img)
    for folder, state in (orders or {}).items():
        (root / folder).mkdir(exist_ok=True)
        (root / folder / 'arrangements.json').write_text(json.dumps(state))
    if method is not None:
        (root / 'method.txt').write_bytes(method)
    return root


def of(state, folder, kind='painted'):
    return next(one for one in state['ciphers'] if one['folder'] == folder)['tracks'][kind]


def means(state, which='main'):
    """By data set, track and measure."""
    return {
        (one['folder'], kind, name): metric[which]['mean']
        for one in state['ciphers']
        for kind, track in one['tracks'].items()
        for name, metric in track['metrics'].items()
    }


def files(folder):
    return {str(p.relative_to(folder)): p for p in folder.rglob('*') if p.is_file()}


# What is made


def test_what_is_published(made):
    state = json.loads((made / 'public' / 'challenge.json').read_text())
    assert (state['format'], state['format_version']) == ('hime-challenge', 1)
    assert [one['folder'] for one in state['ciphers']] == [SHUFFLED, ERODED, MIXED]
    assert [one['shuffles'] for one in state['ciphers']] == [True, True, False]
    for one in state['ciphers']:
        manifest = Manifest.load(str(made / 'public' / one['folder']))
        assert one['pictures'] == len(manifest.files) == SCENES + len(SHIPPED)
        assert str(manifest.cipher) == one['cipher']
        assert one['grid'] == [4, 4]
        # Names are digits, whose order tells nothing: what was painted is not together.
        assert all(re.fullmatch('[0-9a-f]{16}.png', name) for name in manifest.files)
    there = files(made / 'public')
    assert state['files'] == {
        name: hashlib.sha256(path.read_bytes()).hexdigest()
        for name, path in there.items()
        if name != 'challenge.json'
    }
    assert state['photos'] == [*SHIPPED]
    assert not set(state['photos']) & set(state['learn_from'])


def test_commitments_can_be_checked_by_hand(made, truth):
    """As docs/challenge.md says, once the truth is shown."""
    state = json.loads((made / 'public' / 'challenge.json').read_text())
    kept = json.loads((made / 'secret' / 'truth.json').read_text())
    salt = bytes.fromhex(kept['salt'])
    key = Key.from_file(str(made / 'secret' / 'challenge.key'))
    told = {'key': hashlib.sha256(salt + b'key\0' + key.secret_bytes()).hexdigest()}
    for folder, pictures in truth.items():
        for name, (_, _, original) in pictures.items():
            data = (made / 'secret' / 'originals' / folder / original).read_bytes()
            label = f'{folder}/{name}\0'.encode()
            told[f'{folder}/{name}'] = hashlib.sha256(salt + label + data).hexdigest()
    assert state['commitments'] == told
    data = (made / 'public' / 'challenge.json').read_bytes()
    assert kept['challenge'] == hashlib.sha256(data).hexdigest()


def test_nothing_plain_goes_into_what_was_published(made, tmp_path):
    inside = made / 'public' / 'center+shuffle_p16' / 'again'
    for place in (made / 'public' / 'again', inside):
        with pytest.raises(
            AuditError, match='lies in the (published challenge|encrypted data set)'
        ):
            make_challenge(str(place), ('shuffle',), num_scenes=1, size=32, progress=False)
        assert not place.exists()


def test_nothing_secret_is_published(tmp_path, monkeypatch):
    """Neither key nor salt nor seeds, in bytes or digits, nor names or bytes of originals."""
    drawn, token_bytes, urandom = [], secrets.token_bytes, os.urandom

    def noted(call):
        def draw(num):
            drawn.append(call(num))
            return drawn[-1]

        return draw

    monkeypatch.setattr(secrets, 'token_bytes', noted(token_bytes))
    monkeypatch.setattr('hime_mm.ciphers.keys.os.urandom', noted(urandom))
    out = tmp_path / 'made'
    make(out, ('shuffle', 'mix2'), num_scenes=2)
    drawn = {one for one in drawn if len(one) == 32}
    # The key, the salt, and a seed for each scene.
    assert len(drawn) >= 2 + 2 * 2
    originals = [*(out / 'secret' / 'originals').rglob('*.png')]
    assert len(originals) == 2 * (2 + len(SHIPPED))
    hidden = [*drawn, *(one.hex().encode() for one in drawn)]
    hidden += [str(int.from_bytes(one, 'big')).encode() for one in drawn]
    hidden += [b'painted-', b'photos-', str(tmp_path).encode()]
    hidden += [path.read_bytes() for path in originals]
    for name, path in files(out / 'public').items():
        data = path.read_bytes()
        assert not [one for one in hidden if one in data or one in name.encode()], name
    # Of the seeds, not even the secret part has any.
    kept = b''.join(path.read_bytes() for path in files(out / 'secret').values())
    assert sum(one in kept or one.hex().encode() in kept for one in drawn) == 2


def test_each_scene_is_painted_once(made, truth):
    """Of a scene under two ciphers, the weaker one would tell what is under the other."""
    scenes = [
        img.tobytes()
        for pictures in truth.values()
        for img, _, original in pictures.values()
        if original.startswith('painted')
    ]
    assert len(set(scenes)) == len(scenes) == len(CIPHERS) * SCENES


@pytest.mark.slow
def test_two_challenges_have_nothing_in_common(tmp_path):
    assert make(tmp_path / 'a') != make(tmp_path / 'b')

    def parts(out):
        state = json.loads((out / 'public' / 'challenge.json').read_text())
        # No key counts where patches are only mixed: copies of photos are alike.
        hashes = [told for name, told in state['files'].items() if MIXED not in name]
        kept = json.loads((out / 'secret' / 'truth.json').read_text())
        return {*hashes, *state['commitments'].values(), kept['salt']}

    assert not parts(tmp_path / 'a') & parts(tmp_path / 'b')


def test_secret_is_for_its_owner_alone(tmp_path):
    mask = os.umask(0)
    try:
        make(tmp_path / 'made', ('shuffle',), num_scenes=1)
    finally:
        os.umask(mask)
    secret = tmp_path / 'made' / 'secret'
    for path in (secret, *secret.rglob('*')):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


@pytest.mark.parametrize(
    'settings, words',
    [
        (dict(ciphers=('shuffle', 'paper-rs')), 'paper-rs is named twice'),
        (dict(ciphers=()), 'needs a cipher'),
        (dict(num_scenes=0), 'and a scene'),
        (dict(size=72), 'multiple of 16'),
        (dict(size=6, patch_size=2), '7 or more'),
        (dict(ciphers=('scramble',)), 'scramble'),
    ],
)
def test_what_makes_no_challenge(tmp_path, settings, words):
    with pytest.raises(HimeError, match=words):
        make(tmp_path / 'made', **settings)
    assert not (tmp_path / 'made').exists()


def test_nothing_is_written_over(tmp_path):
    (tmp_path / 'notes.txt').write_text('mine')
    for place in (tmp_path, tmp_path / 'notes.txt'):
        with pytest.raises(AuditError, match='holds something'):
            make(place)
    assert [*files(tmp_path)] == ['notes.txt']
    (tmp_path / 'empty').mkdir()
    make(tmp_path / 'empty', ('shuffle',), num_scenes=1)


def test_challenge_is_not_handed_over(made, tmp_path):
    shutil.copytree(made / 'public' / MIXED, tmp_path / 'set')
    for inside in ('made', 'a/made'):
        with pytest.raises(AuditError, match='lies in the encrypted data set'):
            make(tmp_path / 'set' / inside)
    assert files(tmp_path / 'set').keys() == files(made / 'public' / MIXED).keys()


@pytest.mark.parametrize(
    'where, file',
    [
        ('encrypt_folder', ''),
        ('file_sha256', ''),
        ('write_atomic', 'truth.json'),
        ('write_atomic', 'challenge.json'),
    ],
)
def test_killed_it_looks_unfinished(tmp_path, monkeypatch, where, file):
    """And is not gone on with."""
    out, real = tmp_path / 'made', getattr(challenge_module, where)

    def killed(*args, **kwargs):
        if args[0].endswith(file):
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(challenge_module, where, killed)
    # Stopped it leaves nothing, and can be begun again.
    with pytest.raises(KeyboardInterrupt):
        make(out, ('shuffle',), num_scenes=1)
    assert [*out.iterdir()] == []
    # Killed it cleans nothing up.
    monkeypatch.setattr(challenge_module.shutil, 'rmtree', lambda *args, **kwargs: None)
    with pytest.raises(KeyboardInterrupt):
        make(out, ('shuffle',), num_scenes=1)
    monkeypatch.undo()
    assert not (out / 'public' / 'challenge.json').exists()
    (tmp_path / 'empty').mkdir()
    with pytest.raises(AuditError, match=r'challenge\.json'):
        score(out, tmp_path / 'empty')
    with pytest.raises(AuditError, match='holds something'):
        make(out, ('shuffle',), num_scenes=1)


# What it gets


def test_truth_gets_all(made, truth, tmp_path):
    pictures = {f: {n: img for n, (img, *_) in rows.items()} for f, rows in truth.items()}
    orders = {
        f: {n: order.tolist() for n, (_, order, _) in rows.items()}
        for f, rows in truth.items()
        if f != MIXED
    }
    state = score(made, hand_in(tmp_path / 'a', pictures, orders, b'I have the key'))
    for (_, _, name), mean in means(state).items():
        assert mean == pytest.approx({'psnr': 58.92}.get(name, 1), abs=0.01)
    for one in state['ciphers']:
        for kind, track in one['tracks'].items():
            assert (
                track['pictures_given'] == track['pictures'] == dict(painted=SCENES, photos=8)[kind]
            )
            assert all(metric['counts'] for metric in track['metrics'].values())
            assert {'nc', 'lc'} & track['metrics'].keys() == (
                {'nc', 'lc'} if one['shuffles'] else set()
            )
    assert state['method'] == 'I have the key'
    lines = score_lines(state)
    assert 'method: I have the key' in lines
    assert sum(line.endswith(' yes') for line in lines) == len(means(state))


def test_direction_of_an_arrangement(made, truth, tmp_path):
    """The list says where the patch in a slot goes, not which patch goes into a slot."""
    orders = {n: np.argsort(order).tolist() for n, (_, order, _) in truth[SHUFFLED].items()}
    state = score(made, hand_in(tmp_path / 'a', orders={SHUFFLED: orders}))
    assert of(state, SHUFFLED)['metrics']['nc']['main']['mean'] < 0.3
    # By hand: moved there, it is the original.
    name, (img, order, _) = next(iter(truth[SHUFFLED].items()))
    encrypted, back = cv2.imread(str(made / 'public' / SHUFFLED / name)), np.zeros_like(img)
    for slot, goes in enumerate(order):
        (y, x), (v, u) = divmod(slot, 4), divmod(int(goes), 4)
        patch = encrypted[16 * y : 16 * y + 16, 16 * x : 16 * x + 16]
        back[16 * v : 16 * v + 16, 16 * u : 16 * u + 16] = patch
    assert (back == img).all()


def test_nothing_gets_nothing(made, truth, tmp_path):
    state = score(made, hand_in(tmp_path / 'a'))
    base = means(state, 'baseline')
    for (folder, kind, name), mean in means(state).items():
        if name in ('ssim', 'psnr'):
            assert mean == base[folder, kind, name]
        else:
            # As delivered: about a random arrangement of sixteen patches.
            assert abs(mean - base[folder, kind, name]) < 0.12
        assert of(state, folder, kind)['metrics'][name]['counts'] is False
    assert state['method'] is None
    # A grey picture, by hand.
    errors = [
        10 * np.log10(255**2 / np.mean((img.astype(float) - 128) ** 2))
        for img, _, original in truth[MIXED].values()
        if original.startswith('painted')
    ]
    assert means(state)[MIXED, 'painted', 'psnr'] == pytest.approx(np.mean(errors))


def test_random_arrangements_are_at_chance(made, truth, tmp_path):
    rng = np.random.default_rng(0)
    orders = {
        folder: {name: rng.permutation(16).tolist() for name in truth[folder]}
        for folder in (SHUFFLED, ERODED)
    }
    state = score(made, hand_in(tmp_path / 'a', orders=orders))
    for folder in orders:
        track = of(state, folder)
        assert track['arrangements_given'] == SCENES
        nc = track['metrics']['nc']
        # Of 24 borders each, so many are put right by chance: 12 of 16 * 15 places, twice.
        assert nc['baseline']['mean'] == pytest.approx(12 / 240)
        assert nc['main']['mean'] < 0.15
        assert nc['counts'] is False


def test_what_is_missing_counts(made, truth, tmp_path):
    """Half of the pictures, right, and the others as grey ones: no mean over the first alone."""
    rows = {n: row for n, row in truth[SHUFFLED].items() if row[2].startswith('painted')}
    half = [*rows][: SCENES // 2]
    pictures = {SHUFFLED: {n: rows[n][0] for n in half}}
    orders = {SHUFFLED: {n: rows[n][1].tolist() for n in half}}
    empty = score(made, hand_in(tmp_path / 'empty'))
    state = score(made, hand_in(tmp_path / 'a', pictures, orders))
    track = of(state, SHUFFLED)
    assert track['pictures'] == SCENES
    assert track['pictures_given'] == track['arrangements_given'] == SCENES // 2
    assert of(state, SHUFFLED, 'photos')['pictures_given'] == 0
    values = []
    for name, (img, *_) in rows.items():
        error = np.mean((img.astype(float) - (img if name in half else 128)) ** 2)
        values.append(10 * np.log10(255**2 / max(error, 1 / 12)))
    assert track['metrics']['psnr']['main']['mean'] == pytest.approx(np.mean(values))
    assert 0.5 <= track['metrics']['nc']['main']['mean'] < 0.7
    rest = [key for key in means(state) if key[:2] != (SHUFFLED, 'painted')]
    assert rest
    assert all(means(state)[key] == means(empty)[key] for key in rest)


def test_worse_than_a_grey_picture_counts_for_nothing(made, truth, tmp_path):
    """Though it is more like its own original than like others."""
    rng = np.random.default_rng(0)
    pictures = {
        MIXED: {
            name: np.clip(img + rng.normal(0, 90, img.shape), 0, 255).astype(np.uint8)
            for name, (img, *_) in truth[MIXED].items()
        }
    }
    psnr = of(score(made, hand_in(tmp_path / 'a', pictures)), MIXED)['metrics']['psnr']
    assert psnr['baseline']['mean'] > psnr['main']['mean'] > psnr['control']['mean'] + 1
    assert psnr['counts'] is False


def test_copies_of_photos_show_in_their_track(made, truth, tmp_path):
    """Whoever has only the copies that everybody has is told apart."""
    copies = {
        folder: {n: img for n, (img, _, original) in rows.items() if original.startswith('photos')}
        for folder, rows in truth.items()
    }
    state = score(made, hand_in(tmp_path / 'a', copies))
    for folder in truth:
        assert of(state, folder, 'photos')['metrics']['ssim']['main']['mean'] == 1
        painted = of(state, folder)
        assert painted['pictures_given'] == 0
        assert painted['metrics']['ssim']['counts'] is False


def test_scores_tell_no_single_picture(made, truth, tmp_path):
    """Otherwise a picture could be climbed to, by one submission after the other."""
    text = json.dumps(score(made, hand_in(tmp_path / 'a')))
    assert not [name for rows in truth.values() for name in rows if name[:16] in text]


# What is refused of the challenge


def copy(made, tmp_path):
    out = tmp_path / 'copy'
    shutil.copytree(made, out)
    (tmp_path / 'empty').mkdir()
    return out, tmp_path / 'empty'


def some(out, *parts):
    return sorted(out.joinpath(*parts).glob('*.png'))[0]


def test_published_files_are_those_that_were_frozen(made, tmp_path):
    out, empty = copy(made, tmp_path)
    public = out / 'public'
    place = some(public, ERODED)
    before = place.read_bytes()
    for data in (before[:-1] + b'\0', None):
        place.unlink()
        if data is not None:
            place.write_bytes(data)
        with pytest.raises(AuditError, match=f'{place.name} (was changed|is missing)'):
            score(out, empty)
    place.write_bytes(before)
    (public / MIXED / 'more.png').write_bytes(before)
    with pytest.raises(AuditError, match=r'more\.png was not published'):
        score(out, empty)
    (public / MIXED / 'more.png').unlink()
    score(out, empty)


def rehash(out):
    """What a forger does who can write to both folders, but has not the key."""
    place = out / 'public' / 'challenge.json'
    state = json.loads(place.read_text())
    for name in state['files']:
        state['files'][name] = hashlib.sha256((out / 'public' / name).read_bytes()).hexdigest()
    place.write_text(json.dumps(state))
    kept = out / 'secret' / 'truth.json'
    told = dict(
        json.loads(kept.read_text()), challenge=hashlib.sha256(place.read_bytes()).hexdigest()
    )
    kept.write_text(json.dumps(told))


def test_hashes_that_were_made_anew(made, tmp_path):
    out, empty = copy(made, tmp_path)
    place = out / 'public' / 'challenge.json'
    place.write_text(place.read_text().replace('"painted": 6', '"painted": 7'))
    with pytest.raises(AuditError, match=r'challenge\.json is not the file'):
        score(out, empty)
    shutil.copy(made / 'public' / 'challenge.json', place)
    # A picture, with all hashes that need no key.
    picture = some(out, 'public', SHUFFLED)
    picture.write_bytes(some(out, 'public', MIXED).read_bytes())
    rehash(out)
    with pytest.raises((AuditError, ManifestError)):
        score(out, empty)


def test_truth_is_that_which_was_frozen(made, tmp_path):
    out, empty = copy(made, tmp_path)
    original = some(out, 'secret', 'originals', MIXED)
    before = original.read_bytes()
    cv2.imwrite(str(original), 255 - cv2.imread(str(original)))
    with pytest.raises(AuditError, match=f'original of {re.escape(MIXED)}/.* frozen'):
        score(out, empty)
    original.unlink()
    with pytest.raises(AuditError, match='is not in'):
        score(out, empty)
    original.write_bytes(before)
    key = out / 'secret' / 'challenge.key'
    key.unlink()
    Key(bytes(32)).save(str(key))
    with pytest.raises(AuditError, match='is not in|is not the one'):
        score(out, empty)


def test_key_alone_is_committed_to(made, monkeypatch, tmp_path):
    """Also where names fit: those of the originals depend on the key, so they never do."""
    out, empty = copy(made, tmp_path)
    place = out / 'secret' / 'challenge.key'
    right = Key.from_file(str(place))
    place.unlink()
    Key(bytes(32)).save(str(place))
    originals_of = challenge_module.originals_of
    monkeypatch.setattr(
        challenge_module, 'originals_of', lambda m, folder, key: originals_of(m, folder, right)
    )
    with pytest.raises(AuditError, match='the key in .* frozen'):
        Challenge.load(str(out / 'public'), str(out / 'secret'))


def test_secret_of_another_challenge(made, tmp_path):
    make(tmp_path / 'b', ('shuffle',), num_scenes=1)
    (tmp_path / 'empty').mkdir()
    with pytest.raises(AuditError, match='one challenge'):
        score_submission(
            str(tmp_path / 'empty'), str(made / 'public'), str(tmp_path / 'b' / 'secret')
        )


@pytest.mark.parametrize('text', ['[]', '{}', '{"salt": 3}', '{"salt": "x"}', '{', '"a"'])
def test_truth_that_is_none(made, tmp_path, text):
    out, empty = copy(made, tmp_path)
    (out / 'secret' / 'truth.json').write_text(text)
    with pytest.raises(AuditError, match=r'truth\.json'):
        score(out, empty)


# What is refused of a submission


@pytest.mark.parametrize(
    'order, words',
    [
        ([*range(15)], '15 numbers for 16'),
        ([*range(17)], '17 numbers for 16'),
        ([0, *range(15)], 'has 0 twice'),
        ([*range(1, 17)], 'has 16, which is no slot'),
        ([-1, *range(1, 16)], 'has -1'),
        ([False, *range(1, 16)], 'has False'),
        ([0.0, *range(1, 16)], 'has 0.0'),
        ([10**400, *range(1, 16)], 'no slot'),
        ([[0], *range(1, 16)], r'has \[0\]'),
        ({}, 'no list'),
        (None, 'no list'),
    ],
)
def test_arrangements_that_are_none(made, truth, tmp_path, order, words):
    name = next(iter(truth[SHUFFLED]))
    root = hand_in(tmp_path / 'a', orders={SHUFFLED: {name: order}})
    with pytest.raises(AuditError, match=words) as error:
        score(made, root)
    assert name in str(error.value)
    assert len(str(error.value)) < 600


@pytest.mark.parametrize(
    'text, words',
    [
        ('[]', 'no object'),
        ('3', 'no object'),
        ('{"a.png": []}', "no picture of .* 'a.png'"),
        ('{', 'damaged'),
        ('[' * 100_000, 'damaged'),
        ('{"a": 1, "a": 2}', 'twice'),
    ],
)
def test_lists_of_arrangements_that_are_none(made, tmp_path, text, words):
    root = hand_in(tmp_path / 'a', orders={SHUFFLED: {}})
    (root / SHUFFLED / 'arrangements.json').write_text(text)
    with pytest.raises(AuditError, match=words):
        score(made, root)


def test_arrangements_where_nothing_moves(made, truth, tmp_path):
    orders = {MIXED: {next(iter(truth[MIXED])): [*range(16)]}}
    with pytest.raises(AuditError, match='moves no patches: leave out'):
        score(made, hand_in(tmp_path / 'a', orders=orders))


def png(height, width):
    """The beginning of a file that says to be so large, and its end."""
    _, data = cv2.imencode('.png', np.zeros((8, 8), np.uint8))
    data = bytearray(data.tobytes())
    data[16:20], data[20:24] = width.to_bytes(4, 'big'), height.to_bytes(4, 'big')
    return bytes(data)


@pytest.mark.parametrize(
    'data, words',
    [
        (cv2.imencode('.png', np.zeros((64, 48, 3), np.uint8))[1].tobytes(), '64x48 .* not 64x64'),
        (png(60_000, 60_000), '60000x60000 .* not 64x64'),
        (png(64, 64), 'cannot be read'),
        (cv2.imencode('.jpg', np.zeros((64, 64, 3), np.uint8))[1].tobytes(), 'no PNG file'),
        (b'', 'no PNG file'),
        (bytes(1 << 20), 'bytes, and so few pixels need'),
    ],
)
def test_pictures_that_are_none(made, truth, tmp_path, data, words):
    name = next(iter(truth[MIXED]))
    root = hand_in(tmp_path / 'a', {MIXED: {}})
    (root / MIXED / name).write_bytes(data)
    with pytest.raises(AuditError, match=words) as error:
        score(made, root)
    assert f'{MIXED}/{name}' in str(error.value)


@pytest.mark.slow
def test_pictures_of_other_types(made, truth, tmp_path):
    """Grey ones, with alpha or 16 bits are read as colours of 8 bits."""
    name, (img, *_) = next(iter(truth[MIXED].items()))
    kind = 'photos' if truth[MIXED][name][2].startswith('photos') else 'painted'
    told = []
    for i, other in enumerate(
        (img, cv2.cvtColor(img, cv2.COLOR_BGR2BGRA), img.astype(np.uint16) * 257, img[..., 0])
    ):
        state = score(made, hand_in(tmp_path / str(i), {MIXED: {name: other}}))
        told.append(means(state)[MIXED, kind, 'psnr'])
    assert told[0] == told[1] == told[2]


@pytest.mark.parametrize(
    'place', ['more.txt', 'other/0.png', f'{MIXED}/0.png', f'{MIXED}/a/b', f'{MIXED}/hime.json']
)
def test_files_that_have_no_place(made, tmp_path, place):
    root = hand_in(tmp_path / 'a')
    (root / place).parent.mkdir(parents=True, exist_ok=True)
    (root / place).write_text('')
    with pytest.raises(AuditError, match='has no place in a submission'):
        score(made, root)


def test_links_are_not_followed(made, truth, tmp_path):
    """Not even from a place that is known, to the originals."""
    name, (_, _, original) = next(iter(truth[MIXED].items()))
    root = hand_in(tmp_path / 'a', {MIXED: {}})
    originals = made / 'secret' / 'originals' / MIXED
    (root / MIXED / name).symlink_to(originals / original)
    with pytest.raises(AuditError, match='is a link'):
        score(made, root)
    shutil.rmtree(root / MIXED)
    (root / MIXED).symlink_to(originals)
    with pytest.raises(AuditError, match='is a link'):
        score(made, root)
    (root / MIXED).unlink()
    (root / 'method.txt').symlink_to(made / 'secret' / 'challenge.key')
    with pytest.raises(AuditError, match='is a link'):
        score(made, root)


def test_pipes_are_not_waited_for(made, truth, tmp_path):
    root = hand_in(tmp_path / 'a', {MIXED: {}, SHUFFLED: {}})
    places = [root / MIXED / next(iter(truth[MIXED])), root / SHUFFLED / 'arrangements.json']
    for place in (*places, root / 'method.txt'):
        os.mkfifo(place)
        with pytest.raises((AuditError, OSError), match='not a regular file'):
            score(made, root)
        place.unlink()


def test_method_is_printed_as_text(made, tmp_path):
    state = score(made, hand_in(tmp_path / 'a', method=b'\x1b[2J\xff' + b'a' * 20_000 + b'\nb'))
    assert len(state['method']) <= 10_000
    (line,) = [line for line in score_lines(state) if line.startswith('method')]
    assert '\x1b' not in line
    assert len(line) < 300


# What a participant does


@pytest.mark.slow
def test_example_of_the_docs(made, tmp_path, monkeypatch):
    """It needs what is published, and nothing else."""
    text = (ROOT / 'docs' / 'challenge.md').read_text()
    (code,) = re.findall(r'^```python\n(.*?)^```', text, re.M | re.S)
    shutil.copytree(made / 'public', tmp_path / 'challenge' / 'public')
    monkeypatch.chdir(tmp_path)
    exec(compile(code, 'example', 'exec'), {})
    state = score(made, tmp_path / 'submission')
    shuffled, eroded, mixed = (of(state, folder) for folder in (SHUFFLED, ERODED, MIXED))
    assert shuffled['pictures_given'] == shuffled['arrangements_given'] == SCENES
    assert shuffled['metrics']['nc']['main']['mean'] > 0.6
    assert shuffled['metrics']['nc']['counts']
    assert shuffled['metrics']['nc']['main']['mean'] > eroded['metrics']['nc']['main']['mean']
    assert mixed['pictures_given'] == SCENES
    psnr = mixed['metrics']['psnr']
    assert psnr['main']['mean'] > psnr['baseline']['mean'] + 2
    assert psnr['counts']
