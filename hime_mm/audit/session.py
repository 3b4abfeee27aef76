# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""The attacks on one subject: which there are, what each starts from, one picture at a time."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import cv2
import numpy as np

from hime_mm.attacks.base import Arrangement, Attack, Evidence, Picture, PixelOrder
from hime_mm.attacks.readers import READERS
from hime_mm.attacks.registry import all_attacks, missing
from hime_mm.errors import AuditError, HimeError
from hime_mm.evaluation.leakage import Judged

from .judge import judge
from .panel import Panel
from .subject import Subject, cipher_shape

#: How the reason begins why an attack that failed to learn was not made.
FAILED = 'it failed to learn'
#: What an attack may run into: its picture then counts as one on which it failed.
FAILURES = (ValueError, ArithmeticError, np.linalg.LinAlgError, MemoryError, cv2.error)


@dataclass
class Result:
    """What one attack got of one picture.

    Attributes:
        scores (dict[str, Judged]): By metric, where the truth is known.
        confidence (float, optional): The attack's own.
        seconds (float): Of guessing, without learning.
        said (dict): What else there is to say.
        failed (str): Why it failed to run; empty if it ran.
        picture (np.ndarray, optional): What it makes of the picture.
        pictured (bool): Whether there is one.
    """

    scores: dict[str, Judged] = field(default_factory=dict)
    confidence: float | None = None
    seconds: float = 0.0
    said: dict[str, Any] = field(default_factory=dict)
    failed: str = ''
    picture: np.ndarray | None = None
    pictured: bool = False

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON, without the picture."""
        scores = {name: list(map(float, one)) for name, one in self.scores.items()}
        pictured = self.picture is not None
        return {**vars(self), 'scores': scores, 'picture': None, 'pictured': pictured}

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> 'Result':
        """The inverse of :meth:`to_dict`."""
        scores = {name: Judged(*one) for name, one in state['scores'].items()}
        return cls(**{**state, 'scores': scores})


def read_as(reader: str, stage: str) -> str:
    """What the result of a reader is filed as, beside those of attacks."""
    return f'{reader}@{stage}'


def best_picture(results: Mapping[str, Result]) -> str | None:
    """The attack whose picture is most like the original, or else the surest; None without one."""
    made = [
        (one.scores['ssim'].main if 'ssim' in one.scores else one.confidence or 0.0, name)
        for name, one in results.items()
        if one.picture is not None or one.pictured
    ]
    return max(made)[1] if made else None


def check_attacks(names: Sequence[str]) -> None:
    """Refuse names of attacks and readers that there are none of.

    Raises:
        AuditError: If there is one.
    """
    kinds = {**all_attacks(), **READERS}
    if unknown := set(names) - kinds.keys():
        raise AuditError(
            f'no attack is called {", ".join(sorted(unknown))}: choose from {", ".join(kinds)}'
        )


class Session:
    """All attacks on one subject.

    Attacks on pixels start from what attacks on the layout left, and these
    from what attacks on the order of the pixels left.

    Args:
        subject (Subject): The pictures and their truth.
        wanted (Sequence[str]): Names of attacks; empty takes all.
        panel (Panel, optional): Readers, too. Defaults to None.

    Attributes:
        attacks (dict[str, Attack]): Those that go on, by name.
        not_tried (dict[str, str]): The others, and why.
        learnt (dict[str, float]): Seconds that each took to learn.
    """

    def __init__(
        self, subject: Subject, wanted: Sequence[str] = (), panel: Panel | None = None
    ) -> None:
        self.subject = subject
        self.panel = panel or Panel(subject)
        self.attacks: dict[str, Attack] = {}
        self.not_tried: dict[str, str] = {}
        self.learnt: dict[str, float] = {}
        self._wanted = wanted

    def prepare(self) -> Iterator[str]:
        """Have the attacks learn, one after the other; yields the name of each."""
        kinds = all_attacks()
        # Copies: what is undone is put in their places, picture by picture.
        start = replace(self.subject.evidence, images=[*self.subject.evidence.images])
        self._stage: dict[str, Evidence | None] = {'start': start, 'ordered': start}
        nothing = 'nothing is left to undo, once pixels and patches are put back'
        self._why = {Arrangement: nothing, Picture: nothing}
        yield from self._begin(kinds, PixelOrder, 'start')
        if first := self._first(PixelOrder):
            scattered = [step for step in start.cipher.steps if step.scatters]
            images = [first.undo(i, first.guess(i)) for i in range(len(start.images))]
            self._stage['ordered'] = start.left(images, *scattered)
        yield from self._begin(kinds, Arrangement, 'ordered')
        self._stage['placed'] = self._after_layout()
        yield from self._begin(kinds, Picture, 'placed')
        for name, kind in kinds.items():
            if name not in self.attacks and name not in self.not_tried:
                yield from self._try(name, kind, 'start')
        yield from self.panel.prepare()

    def _after_layout(self) -> Evidence | None:
        ordered = self._stage['ordered']
        if ordered is None:
            return None
        channels = ordered.images[0].shape[2:]
        undone = [
            step for step in ordered.cipher.steps if step.moves_patches or step.choices(channels)
        ]
        if undone and not self._first(Arrangement):
            self._why[Picture] = 'no attack that was made put the patches back first'
            return None
        return ordered.left([*ordered.images], *undone) if undone else ordered

    def _first(self, guesses: type) -> Any:
        """The attack that others of a later stage build on: the first that needs pictures only."""
        return next(
            (
                attack
                for attack in self.attacks.values()
                if issubclass(attack.guesses, guesses)
                and hasattr(attack, 'undo')
                and attack.setting == 'ciphertext-only'
            ),
            None,
        )

    def _begin(self, kinds: dict, guesses: type, stage: str) -> Iterator[str]:
        for name, kind in kinds.items():
            if issubclass(kind.guesses, guesses):
                # Pairs and oracles are of the whole cipher.
                told = kind.setting != 'ciphertext-only'
                yield from self._try(name, kind, 'start' if told else stage)

    def _try(self, name: str, kind: type[Attack], stage: str) -> Iterator[str]:
        evidence = self._stage[stage]
        if self._wanted and name not in self._wanted:
            return
        if evidence is None:
            self.not_tried[name] = self._why[kind.guesses]
        elif lacking := missing(kind):
            self.not_tried[name] = f'no {lacking}'
        elif reason := kind.why_not(evidence):
            self.not_tried[name] = reason
        else:
            yield name
            attack, begun = kind(), time.perf_counter()
            try:
                attack.prepare(evidence)
            except FAILURES as error:
                self.not_tried[name] = f'{FAILED}: {error}'
                return
            self.learnt[name] = time.perf_counter() - begun
            # The oracle holds the owner's key, and has been asked.
            attack.evidence = replace(attack.evidence, oracle=None)
            self.attacks[name] = attack

    def run(self, index: int) -> dict[str, Result]:
        """All attacks on one picture."""
        placed, layout = self._stage['placed'], self._first(Arrangement)
        # What attacks on pixels go on from, if an attack on the layout comes first.
        ready = None if placed is self._stage['ordered'] else placed
        results: dict[str, Result] = {}
        for name, attack in self.attacks.items():
            if attack.setting == 'known-plaintext' and index in self.subject.given:
                continue  # it has been told
            if ready and issubclass(attack.guesses, Picture) and results[layout.name].failed:
                results[name] = Result(failed=f'{layout.name} failed before it')
                continue
            results[name], undone = self._attack(attack, index)
            if ready and attack is layout and undone is not None:
                ready.images[index] = undone
        return results | self._read(index, results)

    def _read(self, index: int, results: dict[str, Result]) -> dict[str, Result]:
        """All readers on one picture, and on the best that attacks made of it."""
        best, found = best_picture(results), {}
        shown = self.panel.shown(index, results[best].picture if best else None)
        for stage, img in shown.items():
            for name in self.panel.readers:
                try:
                    result = Result(scores=self.panel.read(name, stage, img, index))
                except FAILURES as error:
                    what = '' if isinstance(error, HimeError) else f'{type(error).__name__}: '
                    result = Result(failed=f'{what}{error}')
                found[read_as(name, stage)] = result
        return found

    def _attack(self, attack: Attack, index: int) -> tuple[Result, np.ndarray | None]:
        """What one attack got, and the picture with the steps undone that it undoes."""
        case, undone = self.subject.cases[index], None
        begun = time.perf_counter()
        try:
            guess = attack.guess(index)
            result = Result(confidence=float(guess.confidence))
            result.seconds = time.perf_counter() - begun
            # The order of pixels alone shows nothing where patches are elsewhere.
            moved = isinstance(guess, PixelOrder) and self.subject.cipher.shuffles
            if hasattr(attack, 'undo') and not moved:
                undone = attack.undo(index, guess)
        except FAILURES as error:
            return Result(failed=f'{type(error).__name__}: {error}'), None
        result.scores, result.said = judge(guess, self.subject, index)
        if isinstance(guess, Picture):
            result.picture = guess.img
        elif undone is not None:
            size = cipher_shape(self.subject.cipher, case.layout)[::-1]
            result.picture = cv2.resize(undone, size, interpolation=cv2.INTER_CUBIC)
            seen, _ = judge(Picture(guess.confidence, result.picture), self.subject, index)
            result.scores |= seen
        return result, undone
