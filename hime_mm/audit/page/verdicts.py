# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What an audit found, adversary by adversary, in plain words.

Nothing is called good here: a verdict says what these attacks got, and by which
threshold that is much, some or nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from hime_mm.attacks.base import Labels, Ranking
from hime_mm.attacks.registry import all_attacks
from hime_mm.evaluation.leakage.grades import SOURCE as GRADES
from hime_mm.evaluation.leakage.risk import METRICS

from .summary import Part

#: Half of what could be got; nobody has published a threshold for these.
MUCH = 0.5
THRESHOLDS = (
    'A leak counts where a guess fits its own picture better than another one, the control, with '
    'the whole 95 % interval of the difference, and better than chance. "Much" is half or more of '
    'what could be got, which is our own convention: nobody has published a threshold. Only for '
    f'pictures found again there are published grades: {GRADES}; bad is called "much" here.'
)
#: A level as a symbol and a word, strongest first.
LEVELS = {
    'much': ('▲', 'Much leaked'),
    'some': ('◆', 'Some leaked'),
    'few': ('?', 'Too few pictures'),
    'unknown': ('?', 'Not known'),
    'look': ('◇', 'Look yourself'),
    'none': ('○', 'Nothing found'),
    'untried': ('–', 'Not tried'),
}
_NOTHING = 'Nothing is known of this adversary here.'
NO_PROOF = 'nothing was found by these attacks, which is no proof that nothing can be'


@dataclass(frozen=True)
class Adversary:
    """Somebody of docs/threat_model.md."""

    name: str
    title: str
    has: str


ADVERSARIES = tuple(
    Adversary(*row)
    for row in (
        ('annotator', 'Curious annotator', 'looks at the encrypted pictures'),
        ('ciphertext-only', 'Ciphertext-only', 'the encrypted folder, and pictures of others'),
        ('engineer', 'Engineer with public data', 'the same, labels, and trains on the folder'),
        ('copy', 'Who has a copy', 'originals, or pictures that may be originals'),
        ('known-plaintext', 'Known-plaintext', 'an encrypted picture with its original'),
        ('chosen-plaintext', 'Chosen-plaintext', 'a way to have pictures encrypted with the key'),
        ('readers', 'Readers', 'programs that find faces, texts, objects'),
    )
)
#: What readers measure, by the names in a summary.
READ = {
    'face_found': 'faces found',
    'face_recognised': 'faces recognised',
    'text_read': 'text read',
    'object_found': 'objects found',
    'class_named': 'classes named',
}
#: Of these a picture shows several, of which a share is read.
_SHARES = ('face_found', 'text_read', 'object_found')
STAGES = {
    'original': 'originals',
    'encrypted': 'encrypted pictures',
    'reconstructed': 'reconstructions',
}


@dataclass(frozen=True)
class Row:
    """One measure of one attack, or of one reader at one stage."""

    attack: str
    adversary: str
    metric: str
    title: str
    pictures: int | None
    mean: float | None
    low: float | None
    high: float | None
    max: float | None
    control: float | None
    chance: float | None
    counts: bool | None

    @property
    def leaks(self) -> bool:
        """bool: Whether more was got than of another picture, and than by chance."""
        known = self.mean is not None and self.chance is not None
        return known and self.counts is True and self.mean > self.chance  # type: ignore[operator]


@dataclass(frozen=True)
class Verdict:
    """What is to be said of one adversary."""

    adversary: Adversary
    level: str
    said: list[str] = field(default_factory=list)
    grade: str = ''

    @property
    def symbol(self) -> str:
        """str: Of the level."""
        return LEVELS[self.level][0]

    @property
    def word(self) -> str:
        """str: The level."""
        return LEVELS[self.level][1]


def adversary_of(name: str, setting: str) -> str:
    """Who makes an attack."""
    kind = all_attacks().get(name)
    if kind and issubclass(kind.guesses, Ranking):
        return 'copy'
    if kind and issubclass(kind.guesses, Labels):
        return 'engineer'
    return kind.setting if kind else setting


def row_of(attack: str, adversary: str, metric: str, risk: Part) -> Row:
    """A risk as a row."""
    main, control, chance = (risk.part(name) for name in ('main', 'control', 'baseline'))
    return Row(
        attack=attack,
        adversary=adversary,
        metric=metric,
        title=METRICS.get(metric, metric),
        pictures=risk.count('pictures'),
        mean=main.number('mean'),
        low=main.number('low'),
        high=main.number('high'),
        max=main.number('max'),
        control=control.number('mean'),
        chance=chance.number('mean'),
        counts=risk.flag('counts'),
    )


def strongest(rows: Sequence[Row], metric: str, adversary: str = '') -> Row | None:
    """Of one measure the row that says most: what leaks first, then the largest mean."""
    found = [
        row
        for row in rows
        if row.metric == metric and row.mean is not None and adversary in ('', row.adversary)
    ]
    return max(found, key=lambda row: (row.leaks, row.mean), default=None)


def verdict_of(
    who: Adversary,
    rows: Sequence[Row],
    grades: dict[str, Part],
    tried: bool,
    why_not: Mapping[str, Sequence[str]],
) -> Verdict:
    """What attacks of one adversary got.

    Args:
        who (Adversary): The adversary.
        rows (Sequence[Row]): All of a cipher.
        grades (dict[str, Part]): Published ones, by attack.
        tried (bool): Whether an attack of this adversary was made.
        why_not (Mapping[str, Sequence[str]]): Attacks that were not, by the reason.
    """
    best = [strongest(rows, metric, who.name) for metric in _SENTENCES]
    said = [row for row in best if row is not None]
    # Neighbours of the parts say what was surely joined; those of the whole only where it lacks.
    if any(row.metric == 'nc_component' for row in said):
        said = [row for row in said if row.metric != 'nc']
    if not said:
        if not tried:
            mine = {
                reason: [name for name in names if adversary_of(name, '') == who.name]
                for reason, names in why_not.items()
            }
            why = [f'{", ".join(names)}: {reason}.' for reason, names in mine.items() if names]
            return Verdict(who, 'untried', [_NOTHING, *why])
        return Verdict(who, 'unknown', ['Attacks were made, and not judged: no truth was there.'])
    levels, grades_said = [], ''
    for row in said:
        grade = grades.get(row.attack) if row.metric == 'rank_1' else None
        levels.append(_level(row, grade))
        if grade is not None:
            sure = '' if grade.flag('sure') else ', though not surely'
            grades_said = f'Graded {grade.text("grade")}{sure}, by the {GRADES}.'
    level = min(levels, key=[*LEVELS].index)
    sentences = [_sentence(row) for row in said]
    if level == 'none':
        sentences.append(f'So {NO_PROOF}.')
    return Verdict(who, level, sentences, grades_said)


def _level(row: Row, grade: Part | None) -> str:
    if row.counts is None:
        return 'few'
    if row.mean is None or row.chance is None:
        return 'unknown'
    if not row.leaks:
        return 'none'
    if grade is not None:
        return 'much' if grade.text('grade') == 'bad' else 'some'
    return 'much' if row.mean >= MUCH else 'some'


def percent(share: float | None) -> str:
    """A share as people write it."""
    if share is None:
        return 'not known'
    text = f'{100 * share:.0f}' if share in (0, 1) else f'{100 * share:.1f}'
    return f'{text}\u00a0%'


def plain(value: float | None) -> str:
    """A figure with three digits."""
    return 'not known' if value is None else f'{value:.3g}'


def of_pictures(row: Row) -> str:
    """A share of pictures as a number of these."""
    if row.mean is None or row.pictures is None:
        return percent(row.mean)
    return f'{round(row.mean * row.pictures)} of {row.pictures} pictures'


def of_reading(row: Row) -> str:
    """What a reader got: of pictures, or the share of what each of them shows."""
    if row.metric in _SHARES and row.adversary != 'original':
        of = 'an unknown number of' if row.pictures is None else row.pictures
        return f'{percent(row.mean)} in {of} pictures'
    return of_pictures(row)


_SENTENCES = {
    'nc_component': lambda row: (
        f'{percent(row.mean)} of the neighbouring patches were put back by {row.attack} (a random '
        f'guess: {percent(row.chance)}; of another picture: {percent(row.control)})'
    ),
    'pixel_order': lambda row: (
        f'{percent(row.mean)} of the pixels of a patch were put in order by {row.attack} (a random '
        f'guess: {percent(row.chance)})'
    ),
    'ssim': lambda row: (
        f'what {row.attack} made of the pictures is like the originals to {plain(row.mean)} (SSIM, '
        f'1 is equal; with another picture: {plain(row.control)}; a grey picture: '
        f'{plain(row.chance)})'
    ),
    'rank_1': lambda row: (
        f'{of_pictures(row)} were found again by {row.attack} (a random guess: '
        f'{percent(row.chance)})'
    ),
    'accuracy': lambda row: (
        f'of {of_pictures(row)} the class was told by {row.attack} (the most frequent class: '
        f'{percent(row.chance)})'
    ),
}
_SENTENCES['nc'] = _SENTENCES['nc_component']


def _sentence(row: Row) -> str:
    text = _SENTENCES[row.metric](row)
    if row.counts is None:
        text += '; fewer than six pictures cannot tell whether that is more than nothing'
    elif row.counts is False:
        text += ': no more than of another picture'
    elif not row.leaks:
        text += ': no more than by chance'
    return f'{text[0].upper()}{text[1:]}.'


def annotator(moves: bool | None, pictures: bool) -> Verdict:
    """Of whoever only looks: no attack stands in for that."""
    said = {
        True: 'Patches are moved, and each still shows what the steps leave of it.',
        False: 'Every patch is where it was.',
        None: 'The cipher is not in the summary, or none of this version.',
    }[moves]
    where = 'the pictures below' if pictures else 'worst.png of the audit, which this page lacks'
    return Verdict(
        ADVERSARIES[0],
        'look',
        [said, f'Nothing measures what a person sees: look at {where}.'],
    )


def of_readers(rows: Sequence[Row], tried: bool) -> Verdict:
    """What programs read: of encrypted pictures and reconstructions beside the originals."""
    who = ADVERSARIES[-1]
    if not rows:
        said = (
            ['Readers were used, and not judged.'] if tried else [_NOTHING, 'No reader was used.']
        )
        return Verdict(who, 'unknown' if tried else 'untried', said)
    said, levels = [], []
    for reader, metric in dict.fromkeys((row.attack, row.metric) for row in rows):
        stages = [row for row in rows if (row.attack, row.metric) == (reader, metric)]
        said.append(
            f'{reader}, {READ.get(metric, metric)}: '
            + '; '.join(
                f'{of_reading(row)} on {STAGES[row.adversary]} (control: {percent(row.control)})'
                for row in stages
            )
            + '.'
        )
        levels += [_level(row, None) for row in stages if row.adversary != 'original']
    level = min(levels, key=[*LEVELS].index, default='unknown')
    if level == 'none':
        said.append('So nothing was read by these programs, which is no proof that none can.')
    return Verdict(who, level, said)
