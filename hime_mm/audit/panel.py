# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What machines still read: of originals, encrypted pictures and reconstructions, with controls."""

import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import singledispatchmethod
from typing import Any

import cv2
import numpy as np

from hime_mm.attacks.base import matched
from hime_mm.attacks.readers import READERS, Faces, Named, Objects, OnnxReader, Reader, Text
from hime_mm.attacks.readers.base import overlaps
from hime_mm.attacks.readers.faces import SAME
from hime_mm.ciphers import join_patches, split_patches
from hime_mm.errors import AuditError, HimeError
from hime_mm.evaluation.leakage import Judged, score_ranking
from hime_mm.images.codec import read_image

from .settings import AuditSettings
from .subject import Subject, pictures_in

#: What is read of each picture.
STAGES = ('original', 'encrypted', 'reconstructed')
#: Side in pixels of the squares that are mixed for the control.
_SQUARE = 8
#: From this overlap on, an object is where it was, as COCO has it.
_THERE = 0.5

Scores = dict[str, Judged]


@dataclass(frozen=True, eq=False)
class People:
    """Whose faces the adversary knows.

    Attributes:
        codes (np.ndarray): float64 of shape (m, 128).
        who (np.ndarray): int64 of shape (m, ), whose each is.
        names (dict[str, int]): Numbers of people by name, where they have one.
    """

    codes: np.ndarray
    who: np.ndarray
    names: dict[str, int] = field(default_factory=dict)

    def scores(self, code: np.ndarray) -> np.ndarray:
        """For each person how near the nearest of their faces is."""
        near = -np.linalg.norm(self.codes - code, axis=1)
        return np.array([near[self.who == one].max() for one in range(int(self.who.max()) + 1)])


def chosen_readers(settings: AuditSettings) -> list[Reader]:
    """Readers that an audit asks for, whether they are installed or not.

    Raises:
        AuditError: If a model of the user's cannot be read, or is called as
            another reader.
    """
    wanted = settings.attacks
    if settings.people is not None:
        _check_people(
            settings.people, {os.path.dirname(path) for path in _of_people(settings.people)}
        )
    kinds = [kind() for name, kind in READERS.items() if not wanted or name in wanted]
    if settings.onnx and (lacking := OnnxReader.missing()):
        raise AuditError(f"`onnx` needs {lacking}: pip install 'hime-mm[readers]'")
    for path in settings.onnx:
        if not os.path.isfile(path):
            raise AuditError(f'there is no model {path}: name an ONNX file as `onnx`')
        kinds.append(OnnxReader(path))
    names = [one.name for one in kinds]
    if len(set(names)) < len(names):
        raise AuditError(f'two readers have one name, of {", ".join(names)}: rename a model')
    return kinds


def _of_people(folder: str) -> list[str]:
    """Pictures of known people; of one beside their folders nobody says who is on it."""
    return [path for path in pictures_in(folder) if os.path.dirname(path)]


def _check_people(folder: str, names: Collection[str]) -> None:
    if len(names) < 2:
        raise AuditError(
            f'{folder} holds pictures of {len(names)} people: name a folder with a folder for each '
            'of several people as `people`'
        )


def known_people(reader: Reader, folder: str) -> People:
    """Read the faces of known people: pictures in a folder for each.

    Raises:
        AuditError: If there are not two.
    """
    names: dict[str, int] = {}
    codes, who = [], []
    for path in _of_people(folder):
        try:
            img = read_image(os.path.join(folder, path), 'color')
            # Where no face is found the picture as a whole is taken for one.
            found = reader.read(img, np.array([[0, 0, *img.shape[1::-1]]], float))
        except HimeError:
            continue
        codes.append([*found.codes, *found.known][0])
        who.append(names.setdefault(os.path.dirname(path), len(names)))
    _check_people(folder, names)
    return People(np.array(codes), np.array(who), names)


class Panel:
    """All readers on one subject.

    Args:
        subject (Subject): The pictures and their truth.
        readers (Sequence[Reader]): Those that are asked for.
        people (str, optional): Folder of people whom the adversary knows; None
            are the faces of the originals. Defaults to None.

    Attributes:
        readers (dict[str, Reader]): Those that read, by name.
        not_read (dict[str, str]): The others, and why.
    """

    def __init__(
        self, subject: Subject, readers: Sequence[Reader] = (), people: str | None = None
    ) -> None:
        self.subject, self._folder = subject, people
        self.readers: dict[str, Reader] = {}
        self.not_read: dict[str, str] = {}
        known = any(case.plain is not None for case in subject.cases)
        for one in readers:
            if lacking := one.missing():
                self.not_read[one.name] = f"no {lacking}: pip install 'hime-mm[readers]'"
            elif not known:
                self.not_read[one.name] = 'what the originals show is not known'
            else:
                self.readers[one.name] = one
        self._truth: dict[str, list[Any]] = {}
        self._failed: dict[tuple[str, int], str] = {}
        self._people: People | None = None

    def prepare(self) -> Iterator[str]:
        """Have the readers read the originals, one reader after the other; yields their names."""
        for name, one in [*self.readers.items()]:
            yield name
            try:
                _ = one.model
            except HimeError as error:  # it is installed, and does not work here
                self.not_read[name] = str(error)
                del self.readers[name]
                continue
            self._truth[name] = [self._original(one, i) for i in range(len(self.subject.cases))]
            if name == 'faces':
                self._people = known_people(one, self._folder) if self._folder else self._own(name)

    def _original(self, reader: Reader, index: int) -> Any:
        """What is read of an original; None where there is none, or the reader fails on it."""
        plain = self.subject.cases[index].plain
        try:
            return None if plain is None else reader.read(plain)
        except HimeError as error:
            self._failed[reader.name, index] = str(error)
            return None

    def _own(self, name: str) -> People | None:
        """The faces of the originals, which the adversary has a copy of."""
        found = {
            self.subject.places[i]: truth.codes[0]
            for i, truth in enumerate(self._truth[name])
            if truth is not None and len(truth.codes) and i in self.subject.places
        }
        if len(found) < 2:
            return None
        self._number = {place: number for number, place in enumerate(found)}
        return People(np.array([*found.values()]), np.arange(len(found)))

    def _person(self, index: int) -> int | None:
        """Who is on a picture, among the people who are known."""
        if self._people is None:
            return None
        if self._folder:
            return self._people.names.get(os.path.dirname(self.subject.cases[index].name))
        return self._number.get(self.subject.places.get(index, -1))

    def shown(self, index: int, made: np.ndarray | None) -> dict[str, np.ndarray]:
        """What there is to read of a picture, by stage, all of one size.

        Args:
            index (int): Which picture.
            made (np.ndarray, optional): What an attack made of it.
        """
        case = self.subject.cases[index]
        if case.plain is None:
            return {}
        found, size = {}, case.plain.shape[1::-1]
        for stage, img in zip(STAGES, (case.plain, case.encrypted, made), strict=True):
            if img is not None:
                if img.shape[1::-1] != size:
                    img = cv2.resize(img, size, interpolation=cv2.INTER_CUBIC)
                found[stage] = matched(img, case.plain.shape[2:])
        return found

    def read(self, name: str, stage: str, img: np.ndarray, index: int) -> Scores:
        """What a reader reads of a picture at a stage, judged.

        Raises:
            AuditError: If the reader failed on the original, so that nothing is known of it.
        """
        if reason := self._failed.get((name, index)):
            raise AuditError(f'of the original: {reason}')
        rng = np.random.default_rng((self.subject.evidence.seed, index))
        return self._judge(self._truth[name][index], self.readers[name], stage, img, index, rng)

    @singledispatchmethod
    def _judge(self, truth, reader, stage, img, index, rng):
        raise TypeError(f'no truth to judge a {type(truth).__name__} by')

    @_judge.register
    def _(self, truth: Faces, reader, stage, img, index, rng) -> Scores:
        seen = reader.read(img, truth.boxes)
        scores: Scores = {}
        if stage == 'original':
            scores['face_found'] = _any_found(seen, reader, img, rng)
        elif len(truth.boxes):
            scores['face_found'] = _found(truth, seen, SAME, reader, img, rng)
        person = self._person(index)
        if self._people is None or person is None or (stage == 'original' and not self._folder):
            return scores
        blank = np.zeros(int(self._people.who.max()) + 1)
        said = self._people.scores(seen.known[0]) if len(seen.known) else None
        other = self._person(self.subject.others[index])
        if other is None or other == person:
            other = (person + 1) % len(blank)
        # Where no face was found in the original either, nobody is recognised.
        right, wrong = (
            0.0 if said is None else score_ranking(said, one).rank_1 for one in (person, other)
        )
        scores['face_recognised'] = Judged(right, wrong, score_ranking(blank, person).rank_1)
        return scores

    @_judge.register
    def _(self, truth: Text, reader, stage, img, index, rng) -> Scores:
        mixed, noise = _blind(reader, img, rng)
        if stage == 'original':
            return {'text_read': Judged(*(float(bool(one.runs)) for one in (truth, mixed, noise)))}
        if not truth.runs:
            return {}
        seen = reader.read(img)
        other = self._truth[reader.name][self.subject.others[index]]
        apart = other is not None and other.runs and other.lines != truth.lines
        control = other.share(seen) if apart else truth.share(mixed)
        return {'text_read': Judged(truth.share(seen), control, truth.share(noise))}

    @_judge.register
    def _(self, truth: Objects, reader, stage, img, index, rng) -> Scores:
        if stage == 'original':
            return {'object_found': _any_found(truth, reader, img, rng)}
        if not len(truth.boxes):
            return {}
        return {'object_found': _found(truth, reader.read(img), _THERE, reader, img, rng)}

    @_judge.register
    def _(self, truth: Named, reader, stage, img, index, rng) -> Scores:
        tops = [int(one.scores.argmax()) for one in self._truth[reader.name] if one is not None]
        true, said = int(truth.scores.argmax()), int(reader.read(img).scores.argmax())
        other = self._truth[reader.name][self.subject.others[index]]
        if other is None:
            return {}
        wrong, usual = int(other.scores.argmax()), int(np.bincount(tops).argmax())
        named = Judged(float(said == true), float(said == wrong), float(usual == true))
        return {'class_named': named}


def _there(truth: Any, seen: Any, least: float) -> float:
    """The share of what is there that was found where it is, and as what it is."""
    if not len(seen.boxes):
        return 0.0
    near = overlaps(truth.boxes, seen.boxes) >= least
    if isinstance(truth, Objects):
        near &= truth.labels[:, None] == seen.labels
    return float(near.any(axis=1).mean())


def _found(
    truth: Any, seen: Any, least: float, reader: Reader, img: np.ndarray, rng: np.random.Generator
) -> Judged:
    mixed, noise = _blind(reader, img, rng)
    return Judged(*(_there(truth, one, least) for one in (seen, mixed, noise)))


def _any_found(seen: Any, reader: Reader, img: np.ndarray, rng: np.random.Generator) -> Judged:
    mixed, noise = _blind(reader, img, rng)
    return Judged(*(float(len(one.boxes) > 0) for one in (seen, mixed, noise)))


def _blind(reader: Reader, img: np.ndarray, rng: np.random.Generator) -> list[Any]:
    """What is read of the same squares mixed up, the control, and of noise, the baseline."""
    return [reader.read(one) for one in (scrambled(img, rng), noise_like(img, rng))]


def scrambled(img: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A picture whose squares of 8 pixels are mixed up: nothing is left to be read in it."""
    grid = (img.shape[0] // _SQUARE, img.shape[1] // _SQUARE)
    out = img.copy()
    if all(grid):
        inner = out[: grid[0] * _SQUARE, : grid[1] * _SQUARE]
        squares = split_patches(inner, _SQUARE)
        inner[:] = join_patches(squares[rng.permutation(len(squares))], grid)
    return out


def noise_like(img: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Noise of the mean and the standard deviation of a picture."""
    noise = rng.normal(img.mean(), img.std(), img.shape)
    return noise.clip(0, 255).astype(np.uint8)
