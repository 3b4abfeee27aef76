# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Summaries of audits that nobody made, with the picture files that they name."""

import hashlib
import json

import cv2
import numpy as np

from hime_mm.audit.written import checksum

CIPHERS = ('shuffle', 'mix2', 'center+erode2+shuffle', 'mix2+center+shuffle')
ATTACKS = {
    'jigsaw': ('nc', 'nc_component', 'lc', 'ssim', 'psnr'),
    'tv': ('ssim', 'psnr', 'gradient_ssim'),
    'histogram': ('rank_1', 'rank_5'),
    'known-plaintext': ('nc_component', 'ssim'),
    'probe': ('accuracy',),
}
STAGES = ('original', 'encrypted', 'reconstructed')


def risk(rng, pictures, counts=True):
    """A measure, with ends around its mean."""
    mean, control, chance = (float(value) for value in np.sort(rng.random(3))[::-1])

    def estimate(value):
        return dict(mean=value, low=value * 0.9, high=value * 1.1, median=value, max=value * 1.2)

    return dict(
        counts=counts,
        pictures=pictures,
        pictures_failed=0,
        main=estimate(mean),
        control=estimate(control),
        baseline=estimate(chance),
    )


def readers(rng, pictures):
    """What programs that find faces and texts would have found."""
    metrics = ('face_found', 'face_recognised', 'text_read')
    stages = {stage: {name: risk(rng, pictures) for name in metrics} for stage in STAGES}
    return dict(
        faces=dict(title='faces', source='somebody', stages=stages, failed=dict(encrypted=1))
    )


def sealed(state):
    """A summary with the checksum that it would have been written with."""
    return {**state, 'checksum': checksum(state)}


def rewrite(folder, change, seal=True):
    """Change the summary of an audit."""
    place = folder / 'audit.json'
    state = json.loads(place.read_text())
    state = change(state) or state
    place.write_text(json.dumps(sealed(state) if seal else state))


def make_audit(folder, ciphers=CIPHERS, pictures=40, worst=10, side=224, names=None, read=True):
    """Write a folder as `hime audit` does; names are those of the worst pictures."""
    rng = np.random.default_rng(0)
    grade = dict(grade='bad', share=1.0, low=0.9, high=1.0, sure=True, chance=0.01)
    rows = []
    for cipher in ciphers:
        place = f'{cipher[:40]}_p16'
        attacks = {
            name: dict(
                title=f'what {name} does',
                source='somebody',
                setting='known-plaintext' if name == 'known-plaintext' else 'ciphertext-only',
                confidence=0.5,
                seconds_to_learn=1.0,
                seconds_each=0.1,
                pictures_failed=0,
                grades=[grade] if name == 'histogram' else [],
                file=f'{place}/{name}.json',
                metrics={metric: risk(rng, pictures) for metric in metrics},
            )
            for name, metrics in ATTACKS.items()
        }
        found = []
        for number in range(worst):
            files = {}
            for stage in STAGES:
                file = f'{place}/worst/{number:04}_{stage}.png'
                small = rng.integers(0, 256, (side // 16, side // 16, 3), np.uint8)
                img = cv2.resize(small, (side, side), interpolation=cv2.INTER_NEAREST)
                img = cv2.add(img, rng.integers(0, 40, img.shape, np.uint8))
                data = cv2.imencode('.png', img)[1].tobytes()
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                (folder / file).write_bytes(data)
                files[stage] = dict(file=file, sha256=hashlib.sha256(data).hexdigest())
            name = names[number] if names else f'some/picture_{number}.jpg'
            found.append(
                dict(number=number, name=name, attack='jigsaw', score='SSIM 0.93', files=files)
            )
        row = dict(
            cipher=cipher,
            patch_size=16,
            folder=place,
            attacks=attacks,
            not_tried={'mosaic': 'nothing is left to undo', 'seams': 'nothing is left to undo'},
            pictures=pictures,
            sampled=pictures,
            done=pictures,
            failed={},
            rehearsal=False,
            sizes=['224x224'],
            worst=found,
        )
        if read:
            row.update(readers=readers(rng, pictures), not_read=dict(objects='no model was given'))
        rows.append(row)
    state = dict(
        format='hime-audit',
        format_version=1,
        tool_version='0',
        kind='plain pictures',
        recipes=[{} for _ in ciphers],
        digest='d' * 64,
        version='0',
        settings=dict(num_pictures=pictures, seed=3, public=None, num_public=80, attacks=[]),
        public=None,
        names=pictures,
        command='hime audit PICTURES -c shuffle --out AUDIT',
        versions=dict(hime_mm='0', python='3'),
        started='2026-01-02T03:04:05+00:00',
        lower_bounds='words',
        ciphers=rows,
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'audit.json').write_text(json.dumps(sealed(state)))
    return folder
