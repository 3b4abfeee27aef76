# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What is audited: encrypted pictures, and what the owner knows of each."""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import cycle
from typing import Any

import numpy as np

from hime_mm.attacks.base import Evidence, matched, sized
from hime_mm.ciphers import Cipher, Key, PatchLayout
from hime_mm.datasets.manifest import Manifest
from hime_mm.datasets.originals import Originals, is_picture
from hime_mm.encryption.verify import read_entry
from hime_mm.encryption.walk import Tree
from hime_mm.errors import AuditError, HimeError, PictureError
from hime_mm.images import Recipe
from hime_mm.images.codec import read_bytes
from hime_mm.images.reading import read_picture
from hime_mm.images.seal import seal

#: What randomness is derived for where nothing is handed over.
AUDIT_ID = 'audit'
#: Known plaintext: so many of the pictures are handed to the adversary with their originals.
PAIRS = 1


@dataclass(frozen=True, eq=False, repr=False)
class Case:
    """One encrypted picture, and what is known of it; what is not is None.

    Attributes:
        name (str): Its path in the source.
        encrypted (np.ndarray): uint8 of shape (H, W) or (H, W, C).
        layout (PatchLayout): As handed over.
        original (np.ndarray, optional): As its owner has it, uint8.
        plain (np.ndarray, optional): What was encrypted, sized before.
        drawn (list, optional): What was drawn for it.
        permutation (np.ndarray, optional): Slot k holds patch
            ``permutation[k]``.
        label (int, optional): Its class.
    """

    name: str
    encrypted: np.ndarray
    layout: PatchLayout
    original: np.ndarray | None = None
    plain: np.ndarray | None = None
    drawn: list[Any] | None = None
    permutation: np.ndarray | None = None
    label: int | None = None


@dataclass(frozen=True, eq=False, repr=False)
class Subject:
    """Pictures under one cipher, with all that an adversary has.

    Attributes:
        cipher (Cipher): The cipher.
        cases (list[Case]): The pictures that are attacked.
        evidence (Evidence): What the attacks get.
        places (dict[int, int]): Where the original of a case is in the gallery.
        failed (dict[str, str]): Pictures that could not be taken, and why.
        pictures (int): How many there are, of which these are a sample.
        rehearsal (bool): Whether the pictures are public ones, since the
            truth of those that were delivered is not known.
    """

    cipher: Cipher
    cases: list[Case]
    evidence: Evidence
    places: dict[int, int]
    failed: dict[str, str] = field(default_factory=dict)
    pictures: int = 0
    rehearsal: bool = False

    @cached_property
    def others(self) -> list[int]:
        """list[int]: Of each picture another one, whose truth is the control.

        They are drawn: neighbours in a data set are alike.
        """
        # What a known-plaintext attack was given is no control of what it says.
        told = [i for i in self.given if len(self.cases) > len(self.given) + 1]
        rest = [i for i in range(len(self.cases)) if i not in told]
        order = np.random.default_rng(derived(self.evidence.seed, 'control')).permutation(rest)
        out = np.full(len(self.cases), order[0] if len(order) else 0)
        out[order] = np.roll(order, 1)
        return out.tolist()

    @property
    def given(self) -> range:
        """range: Pictures whose originals a known-plaintext attack gets."""
        return range(len(self.evidence.pairs))

    @property
    def mirrored(self) -> bool:
        """bool: Whether attacks get a picture back up to one of eight symmetries only."""
        return any(step.scatters for step in self.cipher.steps)

    @property
    def turned(self) -> bool:
        """bool: The same of what a reconstruction looks like, where patches are turned, too."""
        channels = self.evidence.images[0].shape[2:]
        return self.mirrored or any(
            step.moves_pixels and step.choices(channels) for step in self.cipher.steps
        )


class Oracle:
    """Encrypts, with the owner's key, what an adversary chooses, each time anew."""

    def __init__(self, cipher: Cipher, key: Key, dataset_id: str) -> None:
        self._cipher, self._key, self._dataset_id = cipher, key, dataset_id
        self.asked = 0

    def __call__(self, plain: np.ndarray) -> np.ndarray:
        self.asked += 1
        rng = self._key.image_rng(self._dataset_id, f'chosen by the adversary, {self.asked}')
        return self._cipher.encrypt(plain, rng)[0]


def derived(seed: int, purpose: str) -> int:
    """A seed for one purpose, which tells nothing of those for others."""
    return int.from_bytes(
        hashlib.sha256(f'hime audit {seed} {purpose}'.encode()).digest()[:8], 'big'
    )


def audit_key(seed: int) -> Key:
    """The key of an audit: nothing is handed over, and the same makes it repeatable."""
    return Key(hashlib.sha256(f'hime audit {seed} key'.encode()).digest())


def sample(names: Sequence[str], most: int, seed: int) -> list[str]:
    """At most so many names, drawn with a seed, in their order."""
    if len(names) <= most:
        return [*names]
    chosen = np.random.default_rng(seed).choice(len(names), most, replace=False)
    return [names[i] for i in np.sort(chosen)]


def pictures_in(folder: str) -> list[str]:
    """Paths of the pictures in a folder and its folders, relative to it.

    Raises:
        AuditError: If there are none.
    """
    names = [path for path in Tree(folder).files if is_picture(path)]
    if not names:
        raise AuditError(f'no pictures in {folder}: name a folder that holds some')
    return names


def eight_bits(img: np.ndarray) -> np.ndarray:
    """The picture as uint8, grey or BGR, as attacks look at it.

    Raises:
        PictureError: If it has another number of channels.
    """
    if img.dtype == np.uint16:
        img = (img >> 8).astype(np.uint8)
    if img.ndim == 3 and img.shape[2] == 1:
        img = img[..., 0]
    if img.dtype != np.uint8 or img.ndim == 3 and img.shape[2] != 3:
        raise PictureError(f'attacks look at grey and colour pictures, this one is {img.shape}')
    return img


def encrypt_cases(
    src: str, names: Sequence[str], recipe: Recipe, key: Key, classes: Mapping[str, int]
) -> tuple[list[Case], dict[str, str]]:
    """Encrypt plain pictures; and those that cannot be, with the reason.

    ``classes`` has a number for folders that are classes.
    """
    cases, failed = [], {}
    for name in names:
        try:
            name.encode()
            picture = read_picture(read_bytes(os.path.join(src, name)), recipe.preprocess)
            img = eight_bits(picture.img)
            sealed = seal(img, recipe, key.image_rng(AUDIT_ID, name))
        except UnicodeEncodeError:
            failed[name] = 'its name is not UTF-8: rename it'
            continue
        except HimeError as error:
            failed[name] = str(error)
            continue
        cases.append(
            Case(
                name,
                sealed.img,
                sealed.layout.public(),
                img,
                sealed.plain,
                sealed.drawn,
                sealed.layout.permutation,
                classes.get(os.path.dirname(name)),
            )
        )
    return cases, failed


def delivered_cases(
    manifest: Manifest,
    names: Sequence[str],
    key: Key | None,
    originals: str | None,
    classes: Mapping[str, int],
) -> tuple[list[Case], dict[str, str]]:
    """Read encrypted pictures, and what key and originals say of them."""
    found = None if originals is None else Originals(originals, manifest, key)
    cases, failed = [], {}
    for name in names:
        try:
            case = _delivered(manifest, name, key, found)
        except HimeError as error:
            failed[name] = str(error)
        else:
            cases.append(replace(case, label=classes.get(os.path.dirname(name))))
    return cases, failed


def _delivered(manifest: Manifest, name: str, key: Key | None, originals: Originals | None) -> Case:
    entry, cipher = manifest.files[name], manifest.cipher
    encrypted = read_entry(manifest, entry)
    drawn: list[Any] | None = None if cipher.random else [None] * len(cipher.steps)
    if key is not None:
        drawn = manifest.draw(entry, key)
    original = plain = permutation = None
    if key is not None:
        permutation = manifest.secret_layout(entry, key).permutation
    if originals is not None:
        original = originals.read(name)
        plain = _prepared(original, manifest, name, key)
        original = eight_bits(original)
        if plain.shape[:2] != cipher_shape(cipher, manifest.layout(entry)):
            raise PictureError('the original of that name has another size than was encrypted')
        if drawn is not None and not np.array_equal(cipher.apply(plain, drawn), encrypted):
            raise PictureError('the original of that name is not what was encrypted')
    elif drawn is not None and cipher.invertible:
        plain = cipher.decrypt(encrypted, drawn)
    return Case(
        name,
        eight_bits(encrypted),
        manifest.layout(entry),
        eight_bits(plain) if original is None and plain is not None else original,
        None if plain is None else eight_bits(plain),
        drawn,
        permutation,
    )


def cipher_shape(cipher: Cipher, layout: PatchLayout) -> tuple[int, int]:
    """Height and width of what was encrypted."""
    rows, cols = layout.grid
    return rows * cipher.patch_size, cols * cipher.patch_size


def _prepared(img: np.ndarray, manifest: Manifest, name: str, key: Key | None) -> np.ndarray:
    preprocess = manifest.recipe.preprocess
    rng: Any = None
    if preprocess.random:
        if key is None:
            raise AuditError('pictures were augmented before they were encrypted: give `key`')
        image_rng = key.image_rng(manifest.dataset_id, name)
        rng = image_rng.augmentation(manifest.cipher.canonical)
    return preprocess.prepare(img, manifest.cipher.patch_size, None, rng).img


def rehearsal(
    cases: Sequence[Case], public: Sequence[np.ndarray], cipher: Cipher, seed: int
) -> tuple[list[Case], list[np.ndarray]]:
    """Public pictures in the place of those whose truth is not known.

    Returns:
        tuple[list[Case], list[np.ndarray]]: Every other one, sized like these
        and encrypted as a data set is, and the others, to learn from.
    """
    key, channels, new = audit_key(seed), cases[0].encrypted.shape[2:], []
    for i, (picture, like) in enumerate(zip(public[::2], cycle(cases), strict=False)):
        plain = matched(sized(picture, like.layout.grid, cipher.patch_size), channels)
        encrypted, layout, drawn = cipher.encrypt(plain, key.image_rng(AUDIT_ID, str(i)))
        name = f'public/{2 * i}'
        new.append(Case(name, encrypted, layout.public(), plain, plain, drawn, layout.permutation))
    return new, [*public[1::2]]


def subject_of(
    cipher: Cipher,
    cases: list[Case],
    public: Sequence[np.ndarray],
    seed: int,
    oracle: Callable[[np.ndarray], np.ndarray] | None = None,
    labels: Sequence[int] = (),
    **said: Any,
) -> Subject:
    """Put together what an adversary gets.

    Its gallery holds the originals in another order, and the public pictures.
    """
    if len({case.encrypted.ndim for case in cases}) > 1:
        cases = [_coloured(case) for case in cases]
    # Views of one picture have one original.
    originals: dict[bytes, np.ndarray] = {}
    mine: dict[int, bytes] = {}
    for i, case in enumerate(cases):
        if case.original is not None:
            mine[i] = hashlib.sha256(case.original.tobytes()).digest()
            originals[mine[i]] = case.original
    order = np.random.default_rng(derived(seed, 'gallery')).permutation(len(originals))
    gallery = [[*originals][k] for k in order]
    places = {i: gallery.index(told) for i, told in mine.items()}
    if all(case.label is None for case in cases):
        labels = ()
    told = [(case.plain, case.encrypted) for case in cases[:PAIRS]]
    pairs = [(plain, encrypted) for plain, encrypted in told if plain is not None]
    evidence = Evidence(
        [case.encrypted for case in cases],
        [case.layout for case in cases],
        cipher,
        public,
        labels,
        [*(originals[told] for told in gallery), *public],
        pairs,
        oracle,
        # What the owner draws is drawn from something else.
        derived(seed, 'adversary'),
    )
    return Subject(cipher, cases, evidence, places, **said)


def _coloured(case: Case) -> Case:
    """A picture with three channels, where others of the data set have them."""

    def coloured(img: np.ndarray | None) -> np.ndarray | None:
        return None if img is None else matched(img, (3,))

    return replace(
        case,
        encrypted=matched(case.encrypted, (3,)),
        original=coloured(case.original),
        plain=coloured(case.plain),
    )
