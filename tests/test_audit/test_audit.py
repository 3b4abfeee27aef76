# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Audits of plain pictures and of what was delivered."""

import json
import math
import os
import shutil
import stat

import cv2
import numpy as np
import pytest
from attack_parts import PHOTOS, photo

from hime_mm.apis import (
    AuditSettings,
    Recipe,
    audit_dataset,
    audit_pictures,
    encrypt_coco,
    encrypt_folder,
)
from hime_mm.attacks.jigsaw import oriented
from hime_mm.audit import run as run_module
from hime_mm.audit import session as session_module
from hime_mm.audit.public import public_pictures
from hime_mm.audit.session import Session
from hime_mm.audit.subject import Oracle, delivered_cases, rehearsal, subject_of
from hime_mm.audit.table import table
from hime_mm.ciphers import Cipher, Key
from hime_mm.datasets.manifest import Manifest
from hime_mm.errors import AuditError, InvalidKey, ManifestError

QUICK = dict(attacks=('jigsaw',), progress=False)


def audit(src, out, *ciphers, **settings):
    recipes = [Recipe.build(cipher) for cipher in ciphers]
    return audit_pictures(str(src), str(out), recipes, AuditSettings(**{**QUICK, **settings}))


def of(report, attack='jigsaw', number=0):
    return next(one for one in report.subjects[number].attacks if one.name == attack)


def tree(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob('*'))
        if path.is_file()
    }


def numbers(value):
    """All of a JSON value but times, and what depends on them."""
    if isinstance(value, dict):
        times = ('seconds', 'started', 'checksum')
        return {k: numbers(v) for k, v in value.items() if not k.startswith(times)}
    return [*map(numbers, value)] if isinstance(value, list) else value


def test_plain_pictures(pictures, tmp_path):
    before, out = tree(pictures), tmp_path / 'audit'
    report = audit(pictures, out, 'shuffle', 'erode4+shuffle')
    assert tree(pictures) == before
    strong, weak = (of(report, number=i).risks['nc_component'] for i in (0, 1))
    assert strong.main.mean > 0.9 > 0.5 > weak.main.mean
    assert strong.counts
    assert strong.control.mean < 0.1
    assert of(report).risks['ssim'].main.mean > 0.8
    summary = json.loads((out / 'audit.json').read_text())
    assert summary['format'] == 'hime-audit'
    assert [one['cipher'] for one in summary['ciphers']] == ['shuffle', 'erode4+shuffle']
    for one in summary['ciphers']:
        for said in one['attacks'].values():
            full = json.loads((out / said['file']).read_text())
            assert full['lower_bound'] is True
            assert {risk['metric'] for risk in full['risks']} == set(said['metrics'])
            assert len(full['risks'][0]['values']) == 8
    assert (out / 'audit.txt').read_text().splitlines() == table(report)


def test_files_are_plain_json(pictures, tmp_path):
    audit(pictures, tmp_path / 'a', 'mix2+shuffle')

    def check(value):
        if isinstance(value, dict):
            for one in value.values():
                check(one)
        elif isinstance(value, list):
            for one in value:
                check(one)
        else:
            assert not isinstance(value, float) or math.isfinite(value)

    for path in (tmp_path / 'a').rglob('*.json'):
        check(json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(name)))


def test_pictures_are_for_their_owner_alone(pictures, tmp_path):
    audit(pictures, tmp_path / 'a', 'shuffle')
    found = [*(tmp_path / 'a').rglob('*.png')]
    # The sheet, and originals, encrypted pictures and reconstructions one by one.
    assert len(found) == 1 + 3 * 8
    for path in found:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    sheet = cv2.imread(str(tmp_path / 'a' / 'shuffle_p16' / 'worst.png'))
    # A row of original, encrypted picture and reconstruction for each.
    assert sheet.shape[0] > 8 * 224
    assert sheet.shape[1] > 3 * 224


def test_again_is_the_same_and_attacks_nothing(pictures, tmp_path, monkeypatch):
    out = tmp_path / 'a'
    audit(pictures, out, 'shuffle')
    before = tree(out)
    monkeypatch.setattr(Session, 'run', lambda *args: pytest.fail('attacked again'))
    audit(pictures, out, 'shuffle')
    assert tree(out) == before


@pytest.mark.parametrize('after', [pytest.param(0, marks=pytest.mark.slow), 3])
def test_interrupted_and_again(pictures, tmp_path, monkeypatch, after):
    whole = audit(pictures, tmp_path / 'whole', 'erode1+shuffle')
    run, seen = Session.run, []

    def interrupted(self, index):
        seen.append(index)
        if len(seen) > after:
            raise KeyboardInterrupt
        return run(self, index)

    monkeypatch.setattr(Session, 'run', interrupted)
    out = tmp_path / 'a'
    with pytest.raises(KeyboardInterrupt):
        audit(pictures, out, 'erode1+shuffle')
    assert not [path for path in out.rglob('*') if path.name.endswith('.part')]
    monkeypatch.setattr(Session, 'run', lambda self, index: seen.append(index) or run(self, index))
    again = audit(pictures, out, 'erode1+shuffle')
    assert len(seen) == 8 + 1
    assert again.subjects[0].done == 8
    for name in ('audit.json', 'erode1+shuffle_p16/jigsaw.json'):
        one, other = (json.loads((tmp_path / f / name).read_text()) for f in ('whole', 'a'))
        assert numbers(one) == numbers(other)
    assert of(whole).risks.keys() == of(again).risks.keys()


def test_budget_that_is_too_small_loses_nothing(pictures, tmp_path):
    out = tmp_path / 'a'
    with pytest.raises(AuditError, match='too little for one picture.*`budget`'):
        audit(pictures, out, 'shuffle', budget=1e-6)
    assert audit(pictures, out, 'shuffle').subjects[0].done == 8


def test_budget_ends_between_pictures(pictures, tmp_path, monkeypatch):
    clock = iter(range(10**6))
    monkeypatch.setattr('hime_mm.audit.run.time.monotonic', lambda: next(clock))
    report = audit(pictures, tmp_path / 'a', 'shuffle', budget=6)
    done = report.subjects[0].done
    assert 0 < done < 8
    assert f'not reached: {8 - done} pictures' in '\n'.join(table(report))


def test_sample_is_drawn_with_the_seed(pictures, tmp_path):
    names = []
    for i, seed in enumerate((0, 0, 1)):
        report = audit(pictures, tmp_path / str(i), 'shuffle', num_pictures=3, seed=seed)
        names.append(sorted(of(report).risks['nc'].values))
        assert report.subjects[0].pictures == 8
    assert names[0] == names[1] != names[2]
    assert len(names[0]) == 3


def test_delivered_with_key_and_originals(pictures, delivered, owner_key, tmp_path):
    before = tree(delivered)
    settings = AuditSettings(**QUICK)
    known = audit_dataset(str(delivered), str(tmp_path / 'a'), owner_key, str(pictures), settings)
    assert tree(delivered) == before
    assert {'nc', 'ssim'} <= of(known).risks.keys()
    # The same as on the plain pictures, up to the permutations.
    plain = audit(pictures, tmp_path / 'b', 'center+shuffle')
    found = [of(one).risks['nc_component'].main.mean for one in (known, plain)]
    assert found[0] == pytest.approx(found[1], abs=0.1)
    for path in (tmp_path / 'a').rglob('*'):
        assert owner_key.secret_bytes().hex() not in str(path)
        if path.is_file():
            data = path.read_bytes()
            assert owner_key.secret_bytes() not in data
            assert owner_key.secret_bytes().hex().encode() not in data


def test_delivered_with_key_only(delivered, owner_key, tmp_path):
    report = audit_dataset(
        str(delivered), str(tmp_path / 'a'), owner_key, None, AuditSettings(**QUICK)
    )
    assert 'nc' in of(report).risks
    assert 'ssim' not in of(report).risks


def test_delivered_alone_is_attacked_and_rehearsed(delivered, tmp_path):
    report = audit_dataset(str(delivered), str(tmp_path / 'a'), None, None, AuditSettings(**QUICK))
    real, rehearsed = report.subjects
    assert not of(report).risks
    assert of(report).confidence > 0.3
    assert real.done == 8
    assert len(real.worst) == 8
    assert rehearsed.rehearsal
    assert all(name.startswith('public/') for name in of(report, number=1).risks['nc'].values)
    lines = '\n'.join(table(report))
    assert 'public pictures in the place' in lines
    assert 'no truth' in lines
    # What was not measured on what was delivered is judged by the rehearsal.
    assert report.above({'nc': 1.0}) == []
    (line,) = report.above({'nc': 0.0})
    assert 'nc is' in line
    with pytest.raises(AuditError, match='another audit'):
        audit_dataset(str(delivered), str(tmp_path / 'a'), Key(bytes(range(32))))


def test_rehearsal_draws_as_an_owner_does(pictures, owner_key, tmp_path):
    """What a data set shares is shared, and the adversary draws something else."""
    folder = tmp_path / 'set'
    encrypt_folder(
        str(pictures),
        str(folder),
        'permute_pixels+shuffle',
        key=owner_key,
        patch_size=8,
        progress=False,
    )
    manifest = Manifest.load(str(folder))
    cases, _ = delivered_cases(manifest, [*manifest.files][:2], None, None, {})
    public = [photo(name, 64, 64) for name in PHOTOS]
    stand_ins, learn = rehearsal(cases, public, manifest.cipher, 0)
    assert len(stand_ins) == len(learn) == 2
    assert (stand_ins[0].drawn[0] == stand_ins[1].drawn[0]).all()
    made = subject_of(manifest.cipher, stand_ins, learn, 0)
    for case in stand_ins:
        for one in made.evidence.practice:
            same = case.permutation.shape == one.layout.permutation.shape
            assert not (same and (case.permutation == one.layout.permutation).all())


def test_delivered_with_wrong_key(delivered, tmp_path):
    with pytest.raises(InvalidKey, match='wrong key'):
        audit_dataset(str(delivered), str(tmp_path / 'a'), Key(bytes(32)))
    assert not (tmp_path / 'a').exists()


def test_delivered_with_other_originals(pictures, delivered, owner_key, tmp_path):
    others = tmp_path / 'others'
    shutil.copytree(pictures, others)
    changed = sorted(others.rglob('*.png'))
    cv2.imwrite(str(changed[0]), 255 - cv2.imread(str(changed[0])))
    changed[1].unlink()
    report = audit_dataset(
        str(delivered), str(tmp_path / 'a'), owner_key, str(others), AuditSettings(**QUICK)
    )
    reasons = [*report.subjects[0].failed.values()]
    assert sorted(reasons) == [
        f'no picture of that name is in {others}: give the folder that was encrypted',
        'the original of that name is not what was encrypted',
    ]
    assert report.subjects[0].done == 6


def test_delivered_with_other_and_missing_files(delivered, owner_key, tmp_path):
    folder = tmp_path / 'set'
    shutil.copytree(delivered, folder)
    (folder / 'notes.txt').write_text('no picture')
    gone = sorted(folder.rglob('*.png'))[0]
    gone.unlink()
    report = audit_dataset(
        str(folder), str(tmp_path / 'a'), owner_key, None, AuditSettings(**QUICK)
    )
    assert [*report.subjects[0].failed] == [gone.relative_to(folder).as_posix()]
    assert report.subjects[0].done == 7


def test_what_is_no_data_set(pictures, delivered, tmp_path):
    with pytest.raises(ManifestError):
        audit_dataset(str(pictures), str(tmp_path / 'a'))
    with pytest.raises(AuditError, match='encrypted data set'):
        audit(delivered, tmp_path / 'a', 'shuffle')
    (tmp_path / 'empty').mkdir()
    with pytest.raises(AuditError, match='no pictures in'):
        audit(tmp_path / 'empty', tmp_path / 'a', 'shuffle')


@pytest.mark.parametrize('inside', ['', 'audit', 'a/b/audit'])
def test_nothing_is_written_into_what_is_handed_over(delivered, pictures, tmp_path, inside):
    folder = tmp_path / 'set'
    shutil.copytree(delivered, folder)
    before = tree(folder)
    with pytest.raises(AuditError, match='lie in each other'):
        audit_dataset(str(folder), str(folder / inside))
    with pytest.raises(AuditError, match='lies in the encrypted|holds something else'):
        audit(pictures, folder / inside, 'shuffle')
    assert tree(folder) == before


def test_unfinished_data_sets_are_no_place(pictures, tmp_path):
    """Neither to write to, nor to take for plain pictures."""
    folder = tmp_path / 'set'
    shutil.copytree(pictures, folder)
    (folder / '.hime-work').mkdir()
    before = tree(folder)
    for inside in ('audit', 'a/audit', 'new/audit'):
        with pytest.raises(AuditError, match='lies in the encrypted data set'):
            audit(pictures, folder / inside, 'shuffle')
    with pytest.raises(AuditError, match='or an unfinished one'):
        audit(folder, tmp_path / 'a', 'shuffle')
    assert tree(folder) == before
    audit(pictures, tmp_path / 'b', 'shuffle')
    with pytest.raises(AuditError, match='is an audit'):
        audit(tmp_path / 'b', tmp_path / 'c', 'shuffle')


def test_names_and_links_that_lead_nowhere(pictures, tmp_path):
    src = tmp_path / 'src'
    shutil.copytree(pictures, src)
    (src / 'dead.jpg').symlink_to(tmp_path / 'nothing.jpg')
    with open(os.fsencode(src) + b'/b\xff\xfe.png', 'wb') as file:
        file.write((src / 'a' / 'astronaut.png').read_bytes())
    shutil.copy(src / 'a' / 'astronaut.png', src / 'line\n\x1b[2J.png')
    report = audit(src, tmp_path / 'a', 'shuffle')
    failed = report.subjects[0].failed
    assert set(failed) == {'dead.jpg', os.fsdecode(b'b\xff\xfe.png')}
    assert 'its name is not UTF-8: rename it' in failed.values()
    text = (tmp_path / 'a' / 'audit.txt').read_text()
    assert '\x1b' not in text
    json.loads((tmp_path / 'a' / 'audit.json').read_text())


def test_grey_and_coloured_pictures_together(pictures, tmp_path):
    src = tmp_path / 'src'
    shutil.copytree(pictures, src)
    for path in sorted(src.rglob('*_small.png')):
        cv2.imwrite(str(path), cv2.imread(str(path), cv2.IMREAD_GRAYSCALE))
    recipe = Recipe.build('shuffle', preprocess=dict(color_type='unchanged'))
    settings = AuditSettings(attacks=('jigsaw', 'histogram'), progress=False)
    report = audit_pictures(str(src), str(tmp_path / 'a'), [recipe], settings)
    for name, metric in (('jigsaw', 'ssim'), ('histogram', 'rank_1')):
        assert len(of(report, name).risks[metric].values) == 8
        assert not of(report, name).failed


def test_views_have_one_original(pictures, owner_key, tmp_path):
    folder = tmp_path / 'set'
    encrypt_folder(
        str(pictures), str(folder), 'shuffle', key=owner_key, patch_size=16, views=2, progress=False
    )
    settings = AuditSettings(attacks=('histogram',), progress=False)
    report = audit_dataset(str(folder), str(tmp_path / 'a'), owner_key, str(pictures), settings)
    assert report.subjects[0].done == 16
    found = of(report, 'histogram').risks['rank_1'].values
    # The small ones are scaled copies of the others, and tie.
    assert all(one.main == 1 for name, one in found.items() if 'small' not in name)


def test_table_begins_with_the_strongest(pictures, tmp_path):
    report = audit(pictures, tmp_path / 'a', 'shuffle', attacks=('jigsaw', 'paikin-tal'))
    lines = table(report)
    risks = {name: of(report, name).risks['nc_component'] for name in ('jigsaw', 'paikin-tal')}
    name = max(risks, key=lambda one: risks[one].main.mean)
    assert risks[name].counts
    assert lines[1].startswith(f'  strongest: nc_component {risks[name].main.mean:.3g} ({name})')
    assert any('  max  ' in line for line in lines) and any('bootstrap' in line for line in lines)
    nothing = audit(pictures, tmp_path / 'b', 'mix2', 'shuffle')
    assert 'nothing was measured' in table(nothing)[1]


@pytest.mark.slow
def test_what_is_filled_up_does_not_change_what_was_joined(pictures, tmp_path, monkeypatch):
    found = []
    for most in (0, oriented.MOST_FORMS):
        monkeypatch.setattr(oriented, 'MOST_FORMS', most)
        out = tmp_path / str(most)
        report = audit(
            pictures, out, 'orient+negate+shuffle', attacks=('oriented-jigsaw',), num_pictures=5
        )
        found.append({k: r.main.mean for k, r in of(report, 'oriented-jigsaw').risks.items()})
    without, filled = found
    assert filled['nc_component'] == without['nc_component'] > 0.5
    assert filled['lc_component'] == without['lc_component']
    assert filled['nc'] > without['nc']


@pytest.mark.parametrize(
    'cipher', ['orient+drop25+shuffle', 'drop90+negate+shuffle', 'drop25+orient']
)
def test_patches_that_were_dropped_and_changed(pictures, tmp_path, cipher):
    report = audit(pictures, tmp_path / 'a', cipher, attacks=('oriented-jigsaw',), num_pictures=2)
    assert not of(report, 'oriented-jigsaw').failed
    assert of(report, 'oriented-jigsaw').risks['ssim'].main.mean is not None


@pytest.mark.parametrize(
    'cipher', ['orient+shuffle', pytest.param('permute_pixels+shuffle', marks=pytest.mark.slow)]
)
@pytest.mark.slow
def test_a_picture_of_one_patch_among_others(pictures, tmp_path, cipher):
    folder = tmp_path / 'plain'
    shutil.copytree(pictures, folder)
    cv2.imwrite(str(folder / 'one.png'), photo('coffee', 16, 16))
    kinds = ('oriented-jigsaw', 'pixel-permutation', 'jigsaw')
    report = audit(folder, tmp_path / 'a', cipher, attacks=kinds)
    assert report.subjects[0].done == 9
    for attack in report.subjects[0].attacks:
        assert 'one.png' not in attack.failed
        if 'nc' in attack.risks:
            assert 'one.png' not in attack.risks['nc'].values


def test_names_that_were_replaced(pictures, owner_key, tmp_path):
    folder = tmp_path / 'set'
    encrypt_folder(
        str(pictures), str(folder), 'center+shuffle', key=owner_key, names='ids', progress=False
    )
    with pytest.raises(ManifestError, match='ids in the place of names.*give the key .*as `key`'):
        audit_dataset(str(folder), str(tmp_path / 'a'), None, str(pictures))
    assert not (tmp_path / 'a').exists()
    settings = AuditSettings(attacks=('jigsaw',), progress=False)
    report = audit_dataset(str(folder), str(tmp_path / 'a'), owner_key, str(pictures), settings)
    assert report.subjects[0].done == 8 and not report.subjects[0].failed
    assert {'nc', 'ssim'} <= of(report).risks.keys()


@pytest.mark.slow
def test_names_that_are_ids_of_annotations(coco_like, owner_key, tmp_path):
    folder = tmp_path / 'set'
    encrypt_coco(str(coco_like), str(folder), 'shuffle', key=owner_key, names='ids', progress=False)
    settings = AuditSettings(**{**QUICK, 'num_pictures': 3})
    report = audit_dataset(str(folder), str(tmp_path / 'a'), owner_key, str(coco_like), settings)
    (one,) = report.subjects
    # With the key each original is encrypted again: it is the right one.
    assert (one.done, one.failed) == (3, {})
    assert one.attacks[0].risks['ssim'].baseline.mean < 0.9


def test_originals_without_key_are_said_to_be_unchecked(pictures, delivered, owner_key, tmp_path):
    settings = AuditSettings(attacks=('histogram',), progress=False)
    for name, key in (('a', None), ('b', owner_key)):
        report = audit_dataset(str(delivered), str(tmp_path / name), key, str(pictures), settings)
        assert ('not checked' in '\n'.join(table(report))) == (key is None)


def test_a_cipher_that_draws_nothing_is_checked_without_a_key(pictures, tmp_path):
    folder, others = tmp_path / 'set', tmp_path / 'others'
    encrypt_folder(str(pictures), str(folder), 'mix2', progress=False)
    settings = AuditSettings(attacks=('mosaic',), progress=False)
    report = audit_dataset(str(folder), str(tmp_path / 'a'), None, str(pictures), settings)
    assert report.subjects[0].done == 8 and 'not checked' not in '\n'.join(table(report))
    shutil.copytree(pictures, others)
    name = next(others.rglob('*.png'))
    cv2.imwrite(str(name), 255 - cv2.imread(str(name)))
    report = audit_dataset(str(folder), str(tmp_path / 'b'), None, str(others), settings)
    (reason,) = report.subjects[0].failed.values()
    assert 'is not what was encrypted' in reason


def test_names_that_nobody_can_match(pictures, tmp_path):
    folder = tmp_path / 'set'
    encrypt_folder(str(pictures), str(folder), 'shuffle', one_way=True, names='ids', progress=False)
    with pytest.raises(ManifestError, match='without a key nothing was kept that tells them'):
        audit_dataset(str(folder), str(tmp_path / 'a'), None, str(pictures))
    assert not (tmp_path / 'a').exists()


@pytest.mark.slow
def test_an_order_of_pixels_that_was_found_is_told(pictures, tmp_path):
    kinds = ('known-plaintext-pixels', 'chosen-plaintext-pixels')
    report = audit(pictures, tmp_path / 'a', 'permute_pixels', attacks=kinds, num_pictures=8)
    for name, number in zip(kinds, (7, 8), strict=True):
        risk = of(report, name).risks['pixel_order']
        assert len(risk.values) == number
        assert risk.main.mean > 0.9 and risk.counts and risk.control.mean < 0.2
    assert 'strongest: pixel_order' in '\n'.join(table(report))


def test_oracle_draws_anew(owner_key):
    img = photo('coffee', 64, 64)
    oracle = Oracle(Cipher('noise25'), owner_key, 'set')
    assert (oracle(img) != oracle(img)).any()
    again = Oracle(Cipher('noise25'), owner_key, 'set')
    assert (again(img) != again(img)).any() and again.asked == 2
    first = Oracle(Cipher('noise25'), owner_key, 'set')(img)
    assert (first == Oracle(Cipher('noise25'), owner_key, 'set')(img)).all()


def test_lost_reconstructions_are_made_again(pictures, tmp_path):
    out = tmp_path / 'a'
    audit(pictures, out, 'shuffle')
    before = tree(out)
    gone = sorted(out.rglob('reconstructions/jigsaw/*.png'))[3]
    gone.unlink()
    audit(pictures, out, 'shuffle')
    after = tree(out)
    assert after.keys() == before.keys()
    name = str(gone.relative_to(out))
    assert after[name] == before[name]


def test_attacks_that_failed_are_above_every_limit(pictures, tmp_path, monkeypatch):
    from hime_mm.attacks.jigsaw import Jigsaw

    def fail(self, evidence):
        raise FloatingPointError('overflow')

    monkeypatch.setattr(Jigsaw, 'prepare', fail)
    report = audit(pictures, tmp_path / 'a', 'shuffle', attacks=('jigsaw', 'paikin-tal'))
    (line,) = report.above({'nc': 1.0})
    assert line == 'shuffle: jigsaw was not made: it failed to learn: overflow'


def test_pictures_that_changed_under_the_same_names(pictures, tmp_path):
    src = tmp_path / 'src'
    shutil.copytree(pictures, src)
    audit(src, tmp_path / 'a', 'shuffle')
    some = sorted(src.rglob('*.png'))[0]
    cv2.imwrite(str(some), 255 - cv2.imread(str(some)))
    with pytest.raises(AuditError, match='another audit'):
        audit(src, tmp_path / 'a', 'shuffle')


@pytest.mark.parametrize('module', ['scipy', 'skimage'])
def test_missing_packages_show_at_the_door(pictures, tmp_path, monkeypatch, module):
    found = run_module.find_spec
    monkeypatch.setattr(
        run_module, 'find_spec', lambda name: None if name == module else found(name)
    )
    with pytest.raises(AuditError, match=f'needs {module}: install it with'):
        audit(pictures, tmp_path / 'a', 'shuffle')
    assert not (tmp_path / 'a').exists()


def test_faults_of_judging_are_no_failures_of_attacks(pictures, tmp_path, monkeypatch):
    def broken(*args):
        raise ValueError('a bug')

    monkeypatch.setattr(session_module, 'judge', broken)
    with pytest.raises(ValueError, match='a bug'):
        audit(pictures, tmp_path / 'a', 'shuffle')


def test_output_of_something_else(pictures, tmp_path):
    (tmp_path / 'a').mkdir()
    (tmp_path / 'a' / 'thesis.txt').write_text('years of work')
    with pytest.raises(AuditError, match='holds something else'):
        audit(pictures, tmp_path / 'a', 'shuffle')
    assert tree(tmp_path / 'a') == {'thesis.txt': b'years of work'}
    audit(pictures, tmp_path / 'b', 'shuffle', num_pictures=2)
    before = tree(tmp_path / 'b')
    for changed in (dict(seed=1), dict(num_pictures=3), dict(attacks=('paikin-tal',))):
        with pytest.raises(AuditError, match='another audit'):
            audit(pictures, tmp_path / 'b', 'shuffle', **{'num_pictures': 2, **changed})
    with pytest.raises(AuditError, match='another audit'):
        audit(pictures, tmp_path / 'b', 'mix2+shuffle', num_pictures=2)
    assert tree(tmp_path / 'b') == before
    with pytest.raises(AuditError, match='no cipher was named'):
        audit(pictures, tmp_path / 'c')
    with pytest.raises(AuditError, match='twice'):
        audit(pictures, tmp_path / 'c', 'shuffle', 'shuffle')


def test_pictures_that_cannot_be_taken(tmp_path):
    src = tmp_path / 'src'
    src.mkdir()
    img = photo('coffee', 96, 96)
    cv2.imwrite(str(src / 'fine.png'), img)
    cv2.imwrite(str(src / 'grey.png'), img[..., 0])
    cv2.imwrite(str(src / 'deep.png'), img.astype(np.uint16) * 257)
    cv2.imwrite(str(src / 'odd.png'), img[:83, :71])
    cv2.imwrite(str(src / 'tiny.png'), img[:9, :9])
    cv2.imwrite(str(src / 'one.png'), img[:1, :1])
    (src / 'cut.png').write_bytes((src / 'fine.png').read_bytes()[:500])
    (src / 'not.jpg').write_text('a text')
    report = audit(src, tmp_path / 'a', 'shuffle')
    (subject,) = report.subjects
    assert {'cut.png', 'not.jpg'} <= set(subject.failed)
    assert set(of(report).risks['ssim'].values) >= {'fine.png', 'grey.png', 'deep.png', 'odd.png'}
    lines = '\n'.join(table(report))
    assert 'not taken: cut.png' in lines
    assert subject.done + len(subject.failed) == 8


def test_none_that_can_be_taken(tmp_path):
    src = tmp_path / 'src'
    src.mkdir()
    (src / 'not.jpg').write_text('a text')
    with pytest.raises(AuditError, match='no picture could be taken: not.jpg'):
        audit(src, tmp_path / 'a', 'shuffle')


def test_attacks_without_what_they_need(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(
        session_module, 'missing', lambda kind: 'torch' if kind.name == 'jigsaw' else ''
    )
    report = audit(pictures, tmp_path / 'a', 'shuffle', attacks=('jigsaw', 'paikin-tal'))
    assert report.subjects[0].not_tried == {'jigsaw': 'no torch'}
    assert 'not tried: jigsaw: no torch' in '\n'.join(table(report))


def test_an_attack_that_fails_is_named(pictures, tmp_path, monkeypatch):
    from hime_mm.attacks.jigsaw import PaikinTal

    guess = PaikinTal.guess

    def fail(self, index):
        if index == 2:
            raise FloatingPointError('overflow')
        return guess(self, index)

    monkeypatch.setattr(PaikinTal, 'guess', fail)
    report = audit(pictures, tmp_path / 'a', 'shuffle', attacks=('jigsaw', 'paikin-tal'))
    failed = of(report, 'paikin-tal')
    assert [*failed.failed.values()] == ['FloatingPointError: overflow']
    assert len(failed.risks['nc'].values) == 7
    assert failed.risks['nc'].to_dict()['pictures_failed'] == 1
    assert len(of(report).risks['nc'].values) == 8


def test_unknown_attack(pictures, tmp_path):
    with pytest.raises(AuditError, match='no attack is called magic: choose from jigsaw'):
        audit(pictures, tmp_path / 'a', 'shuffle', attacks=('magic',))


def test_public_pictures(pictures, tmp_path):
    for place in (pictures, pictures / 'a', pictures.parent):
        with pytest.raises(AuditError, match='lie in each other.*`public`'):
            audit(pictures, tmp_path / 'x' / 'a', 'shuffle', public=str(place))
    assert not (tmp_path / 'x').exists()
    public = tmp_path / 'public'
    public.mkdir()
    (public / 'broken.jpg').write_text('a text')
    with pytest.raises(AuditError, match='can be read'):
        audit(pictures, tmp_path / 'b', 'shuffle', public=str(public))
    cv2.imwrite(str(public / 'one.png'), photo('coffee', 96, 96))
    audit(pictures, tmp_path / 'c', 'shuffle', public=str(public))


def test_control_is_not_what_was_told(pictures, tmp_path):
    report = audit(pictures, tmp_path / 'a', 'shuffle', attacks=('known-plaintext',))
    risk = of(report, 'known-plaintext').risks['nc']
    assert len(risk.values) == 7
    assert risk.control.mean < 0.2


def test_classes_of_delivered_pictures(pictures, delivered, owner_key, tmp_path):
    public = tmp_path / 'public'
    for folder, name in (('a', 'astronaut'), ('b', 'rocket')):
        (public / folder).mkdir(parents=True)
        cv2.imwrite(str(public / folder / 'one.png'), photo(name, 160, 160))
    settings = AuditSettings(progress=False, public=str(public))
    manifest = Manifest.load(str(delivered))
    found = public_pictures(settings, str(delivered), 'color')
    assert found.classes == {'a': 0, 'b': 1}
    assert found.labels == [0, 1]
    cases, _ = delivered_cases(manifest, [*manifest.files], owner_key, None, found.classes)
    assert {case.name[0]: case.label for case in cases} == {'a': 0, 'b': 1}


def test_limits(pictures, tmp_path):
    report = audit(pictures, tmp_path / 'a', 'shuffle')
    assert not report.above({'nc': 1.0})
    (line,) = report.above({'nc': 0.5})
    assert line.startswith('shuffle: nc is ') and line.endswith('by jigsaw, above 0.5')
    assert report.above({'rank_1': 1.0}) == ['shuffle: rank_1 was not measured']


def test_full_disk_leaves_no_half_file(pictures, tmp_path, monkeypatch):
    out = tmp_path / 'a'
    replace, done = os.replace, []

    def full(source, target):
        if str(target).endswith('.png') and len(done) > 2:
            raise OSError(28, 'No space left on device')
        done.append(target)
        replace(source, target)

    monkeypatch.setattr(os, 'replace', full)
    with pytest.raises(OSError, match='No space left'):
        audit(pictures, out, 'shuffle')
    assert not [path for path in out.rglob('*') if path.name.endswith('.part')]
    monkeypatch.setattr(os, 'replace', replace)
    assert audit(pictures, out, 'shuffle').subjects[0].done == 8


@pytest.mark.slow
def test_workers_change_nothing(pictures, tmp_path):
    for name, workers in (('one', 0), ('two', 2)):
        audit(
            pictures, tmp_path / name, 'erode1+shuffle', workers=workers, attacks=(), num_pictures=2
        )
    one, two = (json.loads((tmp_path / name / 'audit.json').read_text()) for name in ('one', 'two'))
    assert numbers(one) == numbers(two)
