# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What a submission to a challenge got, by the same measures as an audit."""

import os
from typing import Any

import numpy as np

from hime_mm.attacks.base import Arrangement, Picture
from hime_mm.ciphers.grid import cells_of
from hime_mm.datasets.manifest import Manifest
from hime_mm.encryption.walk import lies_in
from hime_mm.errors import AuditError, printable
from hime_mm.evaluation.leakage import Judged, Risk, estimate
from hime_mm.version import __version__

from ..judge import judge
from ..subject import Case, Subject, delivered_cases, subject_of
from ..table import BOUND
from ..written import BRIEF
from .making import ORIGINALS, PAINTED, PHOTOS, Challenge, kind_of, originals_of
from .submission import ARRANGEMENTS, Submission

FORMAT = dict(format='hime-challenge-score', format_version=1)
#: What is measured of arrangements, and of pictures.
OF_ARRANGEMENTS, OF_PICTURES = ('nc', 'lc'), ('ssim', 'psnr')
#: What the columns mean.
LEGEND = (
    'mean: over the pictures, with its 95 % bootstrap interval; max: of the picture of which most '
    'leaked.',
    'control: the same, judged against another picture. chance: a random arrangement, a grey '
    'picture.',
    'counts: whether the mean beats both (95 % intervals of the differences), which fewer than six '
    'pictures are too few to tell.',
    'What was not handed in counts as a grey picture, or as nothing put back.',
)
#: Of each kind of picture, who has the originals.
TRACKS = {
    PAINTED: 'painted scenes, nobody has the originals',
    PHOTOS: "scikit-image's pictures, everybody has a copy",
}


def check_place(place: str, *folders: str) -> None:
    """Refuse a file among what was frozen or handed in.

    Raises:
        AuditError: If it lies in one of the folders.
    """
    for folder in folders:
        if lies_in(os.path.realpath(place), os.path.realpath(folder)):
            raise AuditError(f'{place} lies in {folder}: name a file elsewhere as `out`')


def score_submission(submission: str, public: str, secret: str) -> dict[str, Any]:
    """Judge what was handed in to a challenge.

    What is missing is not left out: a picture counts as a grey one, an
    arrangement as the picture as it was published, with nothing put back.

    Args:
        submission (str): The folder that was handed in.
        public (str): Folder ``public`` of the challenge.
        secret (str): Its folder ``secret``.

    Returns:
        dict: As plain JSON; docs/challenge.md describes it.

    Raises:
        AuditError: If the challenge is not as it was frozen, or something that
            was handed in is not what it has to be.
        InvalidKey: If the key is missing, or another one.
        ManifestError: If a manifest was changed.
    """
    challenge = Challenge.load(public, secret)
    manifests = {
        one['folder']: Manifest.load(os.path.join(public, one['folder']))
        for one in challenge.ciphers
    }
    handed = Submission(submission, {folder: one.files for folder, one in manifests.items()})
    ciphers = [
        dict(one, tracks=_score(challenge, handed, one['folder'], manifests[one['folder']]))
        for one in challenge.ciphers
    ]
    return dict(
        **FORMAT,
        tool_version=__version__,
        challenge=challenge.sha256,
        method=handed.method,
        lower_bounds=BOUND,
        ciphers=ciphers,
    )


def _score(
    challenge: Challenge, handed: Submission, folder: str, manifest: Manifest
) -> dict[str, dict]:
    """Of one data set, by kind of picture."""
    manifest.check_key(challenge.key)
    place = os.path.join(challenge.secret, ORIGINALS, folder)
    cases, failed = delivered_cases(manifest, [*manifest.files], challenge.key, place, {})
    for name, reason in failed.items():
        raise AuditError(f'{folder}/{name}: {reason}: restore the challenge as it was made')
    slots = {case.name: case.layout.num_patches for case in cases}
    orders = handed.arrangements(folder, slots)
    if orders and not manifest.cipher.shuffles:
        raise AuditError(
            f'{folder} moves no patches: leave out {os.path.join(folder, ARRANGEMENTS)}'
        )
    pictures = {case.name: handed.picture(folder, case.name, challenge.shape) for case in cases}
    paths = originals_of(manifest, place, challenge.key)
    tracks = {}
    for kind in TRACKS:
        chosen = [case for case in cases if kind_of(paths[case.name]) == kind]
        subject = subject_of(manifest.cipher, chosen, (), 0)
        given = dict(
            pictures=len(chosen),
            pictures_given=sum(pictures[case.name] is not None for case in chosen),
            arrangements_given=sum(case.name in orders for case in chosen),
        )
        values = _judged(subject, orders, pictures)
        metrics = {name: _summary(name, judged) for name, judged in values.items()}
        tracks[kind] = dict(given, metrics=metrics)
    return tracks


def _judged(
    subject: Subject, orders: dict[str, np.ndarray], pictures: dict[str, np.ndarray | None]
) -> dict[str, dict[str, Judged]]:
    """By metric and picture."""
    found: dict[str, dict[str, Judged]] = {}
    for index, case in enumerate(subject.cases):
        img = pictures[case.name]
        if img is None:
            img = np.full((*case.plain.shape[:2], 3), 128, np.uint8)  # type: ignore[union-attr]
        scores, _ = judge(Picture(0.0, img), subject, index)
        wanted = {name: scores[name] for name in OF_PICTURES}
        if subject.cipher.shuffles:
            scores, _ = judge(_arrangement(case, orders.get(case.name)), subject, index)
            wanted |= {name: scores[name] for name in OF_ARRANGEMENTS if name in scores}
        for name, judged in wanted.items():
            found.setdefault(name, {})[case.name] = judged
    return {name: found[name] for name in OF_ARRANGEMENTS + OF_PICTURES if name in found}


def _arrangement(case: Case, order: np.ndarray | None) -> Arrangement:
    """As an attack's guess: all patches are in one part, and no costs are known."""
    n = case.layout.num_patches
    cells = cells_of(np.arange(n) if order is None else order, case.layout.grid)
    costs = np.broadcast_to(np.zeros(1), (2, n, n))
    return Arrangement(0.0, cells, np.zeros(n, np.int64), cells, costs)


def _summary(metric: str, values: dict[str, Judged]) -> dict[str, Any]:
    """Without single pictures: whoever sees their scores can climb by them."""
    risk = Risk(metric, values)
    state = {name: value for name, value in risk.to_dict().items() if name in BRIEF}
    del state['pictures_failed']
    order = sorted(values)
    (excess,) = estimate(np.array([[values[k].main - values[k].baseline] for k in order]))
    above = None if excess.low is None else excess.low > 0
    # Where there is one, there is the other.
    state['counts'] = risk.counts and above
    return state


def score_lines(state: dict[str, Any]) -> list[str]:
    """A score in lines for people to read."""
    lines = [f'challenge {state["challenge"]}']
    if method := (state['method'] or '').strip():
        lines.append(f'method: {method.splitlines()[0]:.200}')
    header = ('measure', 'handed in', 'mean', '95 %', 'max', 'control', 'chance', 'counts')
    for one in state['ciphers']:
        for kind, track in one['tracks'].items():
            lines += ['', f'{one["cipher"]}, patches of {one["patch_size"]} pixels: {TRACKS[kind]}']
            rows = [header, *(_row(name, track) for name in track['metrics'])]
            widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
            lines += ['  ' + '  '.join(map(str.ljust, row, widths)).rstrip() for row in rows]
    return [printable(line) for line in (*lines, '', *LEGEND, BOUND)]


def _row(name: str, track: dict[str, Any]) -> tuple[str, ...]:
    state = track['metrics'][name]
    given = track['arrangements_given' if name in OF_ARRANGEMENTS else 'pictures_given']
    main = state['main']
    between = '' if main['low'] is None else f'{main["low"]:.3g} to {main["high"]:.3g}'
    numbers = (main['max'], state['control']['mean'], state['baseline']['mean'])
    counts = {True: 'yes', False: 'no', None: 'too few'}[state['counts']]
    handed = f'{given} of {track["pictures"]}'
    said = (f'{value:.3g}' for value in numbers)
    return (name, handed, f'{main["mean"]:.3g}', between, *said, counts)
