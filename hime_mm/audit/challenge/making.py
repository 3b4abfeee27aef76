# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""A challenge: ciphertexts for everybody to break, frozen together with the truth that judges."""

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from tqdm import tqdm

from hime_mm.ciphers import Key
from hime_mm.datasets.manifest import Manifest
from hime_mm.datasets.originals import Originals
from hime_mm.encryption.run import encrypt_folder
from hime_mm.errors import AuditError, UnreadableImage
from hime_mm.evaluation.leakage.extra import needed
from hime_mm.images import Recipe
from hime_mm.images.codec import encode_image, read_bytes
from hime_mm.images.files import file_sha256, read_json, write_atomic
from hime_mm.images.sizing import resize_image
from hime_mm.version import __version__
from hime_mm.visualization.scenes import load_cutouts, load_textures, make_scene, photo

from ..run import folder_name
from ..written import CHALLENGE, check_kept

FORMAT = dict(format='hime-challenge', format_version=1)
#: Folders of a challenge: to publish, and to keep.
PUBLIC, SECRET = 'public', 'secret'
#: What was published, written last; and what is kept.
TRUTH, KEY, ORIGINALS = 'truth.json', 'challenge.key', 'originals'
#: What is to be broken unless others are named.
CIPHERS = (
    'paper-rs',
    'paper-mi',
    'center+shuffle',
    'center+erode2+shuffle',
    'mix2+center+shuffle',
)
#: Pictures of two kinds: nobody has the originals of the first, everybody those of the second.
PAINTED, PHOTOS = 'painted', 'photos'
#: Pictures of scikit-image that are encrypted,
SHIPPED = (
    'astronaut',
    'camera',
    'clock_motion',
    'coins',
    'hubble_deep_field',
    'ihc',
    'moon',
    'retina',
)
#: and others to learn from.
OTHERS = (
    'brick',
    'chelsea',
    'coffee',
    'grass',
    'gravel',
    'motorcycle_left',
    'motorcycle_right',
    'rocket',
)
_SALT_BYTES = 32
#: SSIM looks at windows of so many pixels.
_SMALLEST = 7


def make_challenge(
    out: str,
    ciphers: Sequence[str] = CIPHERS,
    *,
    patch_size: int | None = None,
    num_scenes: int = 24,
    size: int = 224,
    progress: bool = True,
) -> str:
    """Make a challenge: a data set for each cipher, and the truth.

    ``out/public`` is to be published; ``out/secret`` holds the key and the
    originals, for their owner alone. Scenes are painted anew for each cipher,
    with a seed that nobody keeps.

    Args:
        out (str): Folder to write to: new or empty.
        ciphers (Sequence[str]): Ciphers or presets. Defaults to five of them.
        patch_size (int, optional): Side of a patch in pixels. None takes the
            preset's, or 16. Defaults to None.
        num_scenes (int): Painted scenes for each cipher, beside the pictures
            of scikit-image. Defaults to 24.
        size (int): Side of the pictures in pixels. Defaults to 224.
        progress (bool): Show a progress bar. Defaults to True.

    Returns:
        str: SHA-256 of ``public/challenge.json``, which names the challenge.

    Raises:
        AuditError: If the folder holds something or lies in an encrypted data
            set, a cipher is named twice or the size does not fit.
        HimeError: If a cipher makes no sense, or scikit-image is missing.
        OSError: If something cannot be written.
    """
    needed('skimage')
    recipes = {}
    for text in ciphers:
        recipe = Recipe.build(text, patch_size=patch_size, names='ids')
        side = recipe.cipher.patch_size
        if size % side or size < _SMALLEST:
            raise AuditError(
                f'`size={size}` does not go with patches of {side} pixels ({text}): choose a '
                f'multiple of {side}, {_SMALLEST} or more'
            )
        if folder_name(recipe.cipher) in recipes:
            raise AuditError(f'the cipher {text} is named twice: name each once')
        recipes[folder_name(recipe.cipher)] = recipe
    if not recipes or num_scenes < 1:
        raise AuditError('a challenge needs a cipher and a scene: name at least one of each')
    if os.path.exists(out) and (not os.path.isdir(out) or os.listdir(out)):
        raise AuditError(
            f'{out} holds something: choose a new folder, or empty it, since a challenge that was '
            'killed cannot be gone on with'
        )
    check_kept(out)
    public, secret = (os.path.join(out, name) for name in (PUBLIC, SECRET))
    os.makedirs(out, exist_ok=True)
    try:
        return _make(public, secret, recipes, num_scenes, size, progress)
    except BaseException:
        # Half a challenge is of no use, and holds a key and originals.
        for place in (public, secret):
            shutil.rmtree(place, ignore_errors=True)
        raise


def _make(
    public: str, secret: str, recipes: dict[str, Recipe], num_scenes: int, size: int, progress: bool
) -> str:
    os.mkdir(secret, 0o700)
    key, salt = Key.generate(), secrets.token_bytes(_SALT_BYTES)
    key.save(os.path.join(secret, KEY))
    bar = tqdm(recipes.items(), 'challenge', unit='cipher', disable=not progress)
    photos, told = [*_photos(size)], []
    os.mkdir(os.path.join(secret, ORIGINALS), 0o700)
    for folder, recipe in bar:
        place = os.path.join(secret, ORIGINALS, folder)
        os.mkdir(place, 0o700)
        # Each cipher has scenes of its own: one that is broken would tell those of others.
        for name, img in chain(_scenes(num_scenes, size), photos):
            data = encode_image(np.ascontiguousarray(img[..., ::-1]))
            write_atomic(os.path.join(place, f'{name}.png'), data, sync=False, private=True)
        told.append(_encrypt(place, public, folder, recipe, key))
    truth = _commitments(public, secret, [one['folder'] for one in told], key, salt)
    files = {path: file_sha256(os.path.join(public, path)) for path in _files(public)}
    state = dict(
        **FORMAT,
        tool_version=__version__,
        height=size,
        width=size,
        painted=num_scenes,
        photos=SHIPPED,
        learn_from=OTHERS,
        ciphers=told,
        commitments=truth,
        files=files,
    )
    text = json.dumps(state, indent=1) + '\n'
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    kept = dict(**FORMAT, challenge=sha256, salt=salt.hex())
    write_atomic(os.path.join(secret, TRUTH), json.dumps(kept, indent=1) + '\n', private=True)
    write_atomic(os.path.join(public, CHALLENGE), text)
    return sha256


def _encrypt(place: str, public: str, folder: str, recipe: Recipe, key: Key) -> dict[str, Any]:
    """Encrypt the originals of one cipher; what is said of it in public."""
    out = os.path.join(public, folder)
    summary = encrypt_folder(
        place, out, recipe.cipher, key=key, progress=False, strict=True, names='ids'
    )
    if not summary.complete:
        raise AuditError(f'{place}: {": ".join(summary.skipped[0])}')
    manifest = Manifest.load(out)
    layout = manifest.layout(next(iter(manifest.files.values())))
    return dict(
        folder=folder,
        cipher=str(recipe.cipher),
        patch_size=recipe.cipher.patch_size,
        pictures=len(manifest.files),
        grid=layout.grid,
        shuffles=recipe.cipher.shuffles,
    )


def _scenes(num: int, size: int) -> Iterator[tuple[str, np.ndarray]]:
    """Names, which begin with the kind, and pictures, RGB."""
    cutouts, textures = load_cutouts(), load_textures()
    for number in range(num):
        # 256 bits of the operating system, which are forgotten.
        rng = np.random.default_rng(int.from_bytes(secrets.token_bytes(32), 'big'))
        yield f'{PAINTED}-{number:04}', make_scene(cutouts, textures, size, rng)[0]


def _photos(size: int) -> Iterator[tuple[str, np.ndarray]]:
    """Likewise, of scikit-image: the square in the middle."""
    for name in SHIPPED:
        img = photo(name)
        side = min(img.shape[:2])
        y, x = ((length - side) // 2 for length in img.shape[:2])
        img = np.ascontiguousarray(img[y : y + side, x : x + side])
        yield f'{PHOTOS}-{name}', resize_image(img, (size, size), 'area')


def _commitments(
    public: str, secret: str, folders: Sequence[str], key: Key, salt: bytes
) -> dict[str, str]:
    """SHA-256 of the salt and of each part of the truth: of the key, and of the originals."""
    found = {'key': committed(salt, 'key', key.secret_bytes())}
    for folder in folders:
        manifest = Manifest.load(os.path.join(public, folder))
        originals = os.path.join(secret, ORIGINALS, folder)
        paths = originals_of(manifest, originals, key)
        for name in manifest.files:
            if name not in paths:
                raise AuditError(
                    f'the original of {folder}/{name} is not in {originals}: restore the folder '
                    'as it was made'
                )
            label = f'{folder}/{name}'
            found[label] = committed(salt, label, _read(os.path.join(originals, paths[name])))
    return found


def committed(salt: bytes, label: str, data: bytes) -> str:
    """SHA-256 of a salt of 32 bytes, a name in UTF-8, a zero byte and what it names."""
    return hashlib.sha256(salt + label.encode() + b'\0' + data).hexdigest()


def originals_of(manifest: Manifest, folder: str, key: Key) -> dict[str, str]:
    """The file name of each picture's original, by the name of the encrypted file."""
    originals = Originals(folder, manifest, key)
    found = {name: originals.path(name) for name in manifest.files}
    return {name: path for name, path in found.items() if path is not None}


def kind_of(original: str) -> str:
    """Whether an original was painted or comes with scikit-image."""
    return original.partition('-')[0]


@dataclass(frozen=True)
class Challenge:
    """A challenge with its truth, both as they were made.

    Attributes:
        public (str): The folder that was published.
        secret (str): The folder that was kept.
        sha256 (str): Of ``challenge.json``, which names the challenge.
        ciphers (list[dict]): What is said of each cipher in public.
        shape (tuple[int, int]): Height and width of the originals.
        key (Key): Of all data sets.
    """

    public: str
    secret: str
    sha256: str
    ciphers: list[dict[str, Any]]
    shape: tuple[int, int]
    key: Key

    @classmethod
    def load(cls, public: str, secret: str) -> 'Challenge':
        """Compare all that was published, and the truth, with what was frozen.

        Raises:
            AuditError: If a file was changed, is missing or is new, or the
                truth is another one.
            InvalidKey: If the key cannot be read.
        """
        place = os.path.join(public, CHALLENGE)
        data = _read(place, f'give the folder {PUBLIC!r} of a challenge')
        truth = os.path.join(secret, TRUTH)
        kept = read_json(truth, 'truth', AuditError)
        try:
            salt, same = bytes.fromhex(kept['salt']), {**kept, **FORMAT} == kept
        except (LookupError, TypeError, ValueError):
            same = False
        if not same:
            raise AuditError(f'{truth} is no truth of a challenge of this version: restore it')
        sha256 = hashlib.sha256(data).hexdigest()
        if kept.get('challenge') != sha256:
            raise AuditError(
                f'{place} is not the file that {secret} was made with: give the two folders of '
                'one challenge, as they were made'
            )
        state = json.loads(data)  # what we wrote, as its hash says
        _check_files(public, state['files'])
        key = Key.from_file(os.path.join(secret, KEY))
        folders = [one['folder'] for one in state['ciphers']]
        _check_truth(state['commitments'], _commitments(public, secret, folders, key, salt), secret)
        shape = (state['height'], state['width'])
        return cls(public, secret, sha256, state['ciphers'], shape, key)


def _check_files(public: str, files: dict[str, str]) -> None:
    there = {*_files(public)} - {CHALLENGE}
    for path in sorted(there | files.keys()):
        if path not in there:
            wrong = 'is missing'
        elif path not in files:
            wrong = 'was not published'
        elif file_sha256(os.path.join(public, path)) != files[path]:
            wrong = f'was changed: its SHA-256 is not the one in {CHALLENGE}'
        else:
            continue
        raise AuditError(f'{os.path.join(public, path)} {wrong}: restore what was published')


def _check_truth(frozen: dict[str, str], found: dict[str, str], secret: str) -> None:
    for label, told in frozen.items():
        if found.get(label) != told:
            what = 'the key' if label == 'key' else f'the original of {label}'
            raise AuditError(
                f'{what} in {secret} is not the one that the challenge was frozen with: restore '
                'the folder as it was made'
            )


def _files(folder: str) -> list[str]:
    """Paths of all files below a folder, relative to it."""
    return sorted(
        os.path.relpath(os.path.join(inside, name), folder).replace(os.sep, '/')
        for inside, _, names in os.walk(folder)
        for name in names
    )


def _read(path: str, remedy: str = 'restore the folder as it was made') -> bytes:
    try:
        return read_bytes(path)
    except UnreadableImage as error:
        raise AuditError(f'cannot read {path}: {error}: {remedy}') from None
