# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What an audit found."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np

from hime_mm.evaluation.leakage import Risk, grade_risk
from hime_mm.evaluation.leakage.risk import METRICS

from .panel import STAGES
from .session import FAILED, Result, best_picture, read_as
from .subject import Subject

#: Rows of the contact sheet.
WORST = 10


class Worst(NamedTuple):
    """A picture of which much leaked."""

    number: int  #: Among those that were attacked.
    name: str
    attack: str  #: The one that got most.
    score: str  #: What it got, in words.
    #: Pictures of it by stage, original, encrypted and reconstructed: file and SHA-256 of each.
    files: dict[str, dict[str, str]]


@dataclass(frozen=True)
class Attacked:
    """What one attack got.

    Attributes:
        name (str): Its name.
        risks (dict[str, Risk]): By metric; empty where no truth is known.
        confidence (float, optional): Mean of its own.
        seconds (float): To learn.
        seconds_each (float, optional): Mean of guessing at a picture.
        failed (dict[str, str]): Pictures on which it failed, and why.
        said (dict[str, dict]): What else there is to say of pictures.
    """

    name: str
    risks: dict[str, Risk]
    confidence: float | None
    seconds: float
    seconds_each: float | None
    failed: dict[str, str]
    said: dict[str, dict]

    @property
    def grades(self) -> list[dict[str, Any]]:
        """list[dict]: What others would call it, as plain JSON."""
        grades = map(grade_risk, self.risks.values())
        return [asdict(grade) for grade in grades if grade is not None]


@dataclass(frozen=True)
class Read:
    """What one reader read.

    Attributes:
        name (str): Its name.
        title (str): What it reads.
        source (str): Whose model it is.
        stages (dict[str, dict[str, Risk]]): By stage and metric.
        failed (dict[str, dict[str, str]]): By stage, pictures on which it
            failed, and why.
    """

    name: str
    title: str
    source: str
    stages: dict[str, dict[str, Risk]]
    failed: dict[str, dict[str, str]]


@dataclass(frozen=True, eq=False)
class Measured:
    """What was found of one cipher.

    Attributes:
        cipher (str): Its steps.
        patch_size (int): Side of a patch in pixels.
        folder (str): Where its files are.
        attacks (list[Attacked]): In the order of the report.
        not_tried (dict[str, str]): Attacks that were not made, and why.
        pictures (int): Pictures of the source.
        sampled (int): Of these, those that were to be attacked.
        done (int): Those that were.
        failed (dict[str, str]): Those that could not be taken, and why.
        rehearsal (bool): Whether public pictures took their places.
        sizes (list[str]): Their sizes as they were encrypted.
        worst (list[Worst]): Those of which most leaked, most first.
        readers (list[Read]): What machines read.
        not_read (dict[str, str]): Readers that were not tried, and why.
    """

    cipher: str
    patch_size: int
    folder: str
    attacks: list[Attacked]
    not_tried: dict[str, str]
    pictures: int
    sampled: int
    done: int
    failed: dict[str, str]
    rehearsal: bool
    sizes: list[str]
    worst: list[Worst]
    readers: list[Read] = field(default_factory=list)
    not_read: dict[str, str] = field(default_factory=dict)

    def strongest(self, metric: str) -> tuple[float, str] | None:
        """The largest mean of a metric, and the attack or reader that got it.

        Of Nc and Lc those of the parts count, too, before these were filled up;
        of readers, what they read of encrypted pictures and reconstructions.
        """
        said = [(one.name, one.risks) for one in self.attacks]
        said += [(one.name, one.stages[stage]) for one in self.readers for stage in STAGES[1:]]
        found = [
            (risk.main.mean, by)
            for by, risks in said
            for name, risk in risks.items()
            if name in (metric, f'{metric}_component') and risk.main.mean is not None
        ]
        return max(found, default=None)


@dataclass
class AuditReport:
    """What an audit found.

    Attributes:
        head (dict): What was audited, and how.
        subjects (list[Measured]): One for each cipher.
    """

    head: dict[str, Any]
    subjects: list[Measured] = field(default_factory=list)

    @property
    def first_failure(self) -> str:
        """str: The first picture that could not be taken, and why."""
        for one in self.subjects:
            for name, reason in one.failed.items():
                return f'{name}: {reason}'
        return 'there are none'

    def above(self, limits: Mapping[str, float]) -> list[str]:
        """What leaked more than these limits of metrics, in words.

        A metric that nothing was measured of is above every limit: an audit
        that did not look has not passed.
        """
        found = []
        # Where nothing is known of what was delivered, the rehearsal speaks for it.
        rehearsed = any(one.rehearsal for one in self.subjects)
        for one in self.subjects:
            if one.rehearsal < rehearsed or not limits:
                continue
            if missing := one.sampled - one.done - len(one.failed):
                found.append(f'{one.cipher}: {missing} pictures were not reached')
            found += [
                f'{one.cipher}: {attack.name} failed on {len(attack.failed)} pictures'
                for attack in one.attacks
                if attack.failed
            ]
            found += [
                f'{one.cipher}: {reader.name} failed on {len(failed)} pictures, {stage}'
                for reader in one.readers
                for stage, failed in reader.failed.items()
                if failed
            ]
            found += [
                f'{one.cipher}: {name} was not made: {reason}'
                for name, reason in one.not_tried.items()
                if reason.startswith(FAILED)
            ]
            for metric, limit in limits.items():
                strongest = one.strongest(metric)
                if strongest is None:
                    found.append(f'{one.cipher}: {metric} was not measured')
                elif strongest[0] > limit:
                    mean, attack = strongest
                    found.append(
                        f'{one.cipher}: {metric} is {mean:.3g} by {attack}, above {limit:g}'
                    )
        return found


def measured(
    subject: Subject,
    about: Mapping[str, Any],
    results: Mapping[int, Mapping[str, Result]],
    folder: str,
) -> Measured:
    """Put together what attacks got of pictures.

    Args:
        subject (Subject): The pictures.
        about (Mapping): As :class:`~hime_mm.audit.work.Work` has it.
        results (Mapping): By number of the picture and name of the attack.
        folder (str): Where the files of this subject are.
    """
    names = {index: subject.cases[index].name for index in results}

    def of(what: str) -> dict[str, Result]:
        return {names[i]: row[what] for i, row in sorted(results.items()) if what in row}

    seed, attacks = subject.evidence.seed, []
    for attack, seconds in about['learnt'].items():
        ran, failed, risks = _risks(of(attack), seed)
        sure = [one.confidence for one in ran.values() if one.confidence is not None]
        attacks.append(
            Attacked(
                attack,
                risks,
                float(np.mean(sure)) if sure else None,
                seconds,
                float(np.mean([one.seconds for one in ran.values()])) if ran else None,
                failed,
                {name: one.said for name, one in ran.items() if one.said},
            )
        )
    readers = []
    for name, (title, source) in about['readers'].items():
        read = {stage: _risks(of(read_as(name, stage)), seed) for stage in STAGES}
        stages = {stage: risks for stage, (_, _, risks) in read.items()}
        wrong = {stage: failed for stage, (_, failed, _) in read.items()}
        readers.append(Read(name, title, source, stages, wrong))
    sizes = sorted({case.layout.grid for case in subject.cases})
    side = subject.cipher.patch_size
    return Measured(
        str(subject.cipher),
        side,
        folder,
        attacks,
        dict(about['not_tried']),
        subject.pictures,
        len(subject.cases) + len(subject.failed),
        len(results),
        subject.failed,
        subject.rehearsal,
        [f'{cols * side}x{rows * side}' for rows, cols in sizes],
        _worst(results, names),
        readers,
        dict(about['not_read']),
    )


def _risks(
    results: Mapping[str, Result], seed: int
) -> tuple[dict[str, Result], dict[str, str], dict[str, Risk]]:
    """Results where it ran, why it failed on the others, and what is measured of them."""
    ran = {name: one for name, one in results.items() if not one.failed}
    failed = {name: one.failed for name, one in results.items() if one.failed}
    risks = {}
    for metric in METRICS:
        values = {name: one.scores[metric] for name, one in ran.items() if metric in one.scores}
        if values:
            risks[metric] = Risk(metric, values, failed, seed)
    return ran, failed, risks


def _worst(results: Mapping[int, Mapping[str, Result]], names: Mapping[int, str]) -> list[Worst]:
    """The pictures whose reconstruction is most like the original, or else the surest."""
    found = []
    for index, row in results.items():
        if attack := best_picture(row):
            one = row[attack]
            like = 'ssim' in one.scores
            score = one.scores['ssim'].main if like else one.confidence or 0.0
            found.append((-score, index, attack, f'{"SSIM" if like else "confidence"} {score:.2f}'))
    return [
        Worst(index, names[index], attack, score, {})
        for _, index, attack, score in sorted(found)[:WORST]
    ]
