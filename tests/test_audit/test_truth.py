# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""No attack can reach the truth, and the judge knows it."""

import gc
import pickle
from dataclasses import fields, replace

import numpy as np
import pytest
from attack_parts import photo, public

from hime_mm.attacks.base import Arrangement, Attack, Evidence, Guess, Picture, Ranking
from hime_mm.attacks.registry import all_attacks
from hime_mm.audit.judge import cells_of, judge
from hime_mm.audit.session import Session
from hime_mm.audit.subject import Case, subject_of
from hime_mm.ciphers import Cipher
from hime_mm.errors import AttackError


def subject(cipher, *pictures, learn=(), gallery=True, patch_size=16):
    cipher, rng = Cipher(cipher, patch_size), np.random.default_rng(12345)
    cases = []
    for i, img in enumerate(pictures):
        encrypted, layout, drawn = cipher.encrypt(img, rng)
        cases.append(
            Case(f'{i}.png', encrypted, layout.public(), img, img, drawn, layout.permutation)
        )
    made = subject_of(cipher, cases, learn, 0)
    if not gallery:
        made = replace(made, evidence=replace(made.evidence, gallery=(), pairs=()))
    return made


def reached(start):
    """All arrays that can be reached from an object without going through code."""
    seen, todo, arrays = set(), [start], []
    while todo:
        one = todo.pop()
        if (
            id(one) in seen
            or isinstance(one, type)
            or type(one).__name__ in ('module', 'function', 'builtin_function_or_method', 'method')
        ):
            continue
        seen.add(id(one))
        if isinstance(one, np.ndarray):
            arrays.append(one)
            if one.base is not None:
                todo.append(one.base)
        else:
            todo += gc.get_referents(one)
    return arrays


@pytest.mark.parametrize('cipher', ['shuffle', 'mix2+shuffle', 'mix2', 'permute_pixels+shuffle'])
def test_no_attack_holds_an_original_or_a_permutation(cipher):
    pictures = [photo(name, 48, 48) for name in ('coffee', 'chelsea')]
    learn = [photo(name, 48, 48) for name in ('astronaut', 'rocket')]
    made = subject(cipher, *pictures, learn=learn, gallery=False, patch_size=8)
    session = Session(made)
    names = [*session.prepare()]
    assert names
    for name, attack in session.attacks.items():
        found = reached(attack)
        for case in made.cases:
            for array in found:
                same = array.shape == case.plain.shape and (array == case.plain).all()
                assert not same, f'{name} holds an original'
                if case.permutation is not None and array.shape == case.permutation.shape:
                    assert not (array == case.permutation).all(), f'{name} holds a permutation'


def test_reached_finds_what_is_hidden():
    secret = np.arange(5)
    assert any(array is secret for array in reached({'a': [(secret[1:],)]}))


def test_evidence_refuses_permutations():
    encrypted, layout, _ = Cipher('shuffle').encrypt(photo('coffee', 64, 64))
    with pytest.raises(AttackError, match='holds its permutation'):
        Evidence([encrypted], [layout], Cipher('shuffle'))
    with pytest.raises(AttackError, match='give one each'):
        Evidence([encrypted], [], Cipher('shuffle'))


def test_no_attack_takes_the_truth():
    for name, kind in all_attacks().items():
        assert issubclass(kind, Attack), name
        for attribute in ('name', 'title', 'source', 'setting', 'guesses', 'requires'):
            assert getattr(kind, attribute) is not None, (name, attribute)
        assert issubclass(kind.guesses, Guess)
        assert kind.setting in ('ciphertext-only', 'known-plaintext', 'chosen-plaintext')
        assert kind.guess.__code__.co_varnames[: kind.guess.__code__.co_argcount] == (
            'self',
            'index',
        )
    truths = {'original', 'plain', 'drawn', 'permutation', 'key', 'truth'}
    assert not truths & {field.name for field in fields(Evidence)}


def test_oracle_goes_to_no_worker():
    made = subject('shuffle', photo('coffee', 64, 64), learn=public('coffee'))
    evidence = replace(made.evidence, oracle=lambda plain: plain)
    there = pickle.loads(pickle.dumps(evidence))
    assert there.oracle is None
    assert len(there.public) == 0


@pytest.mark.parametrize('num', [2, 3, 7, 40])
def test_controls_are_other_pictures(num):
    made = subject('shuffle', *[photo('coffee', 32, 32)] * num)
    assert all(other != i for i, other in enumerate(made.others))
    rest = [i for i in range(num) if num == 2 or i not in made.given]
    # Each once, and none that a known-plaintext attack was told.
    assert sorted(made.others[i] for i in rest) == rest


@pytest.mark.slow
def test_chain_of_attacks():
    """Pixels are put in order, then patches in place, and only then are they sharpened."""
    pictures = [photo('coffee', 96, 96), photo('chelsea', 96, 96)]
    learn = [photo(name, 96, 96) for name in ('astronaut', 'rocket')]
    made = subject('mix2+permute_pixels+shuffle', *pictures, learn=learn)
    session = Session(made)
    assert [*session.prepare()]
    ciphers = {name: str(attack.evidence.cipher) for name, attack in session.attacks.items()}
    assert ciphers['pixel-permutation'] == ciphers['histogram'] == str(made.cipher)
    # Pairs are of the whole cipher.
    assert ciphers['known-plaintext'] == str(made.cipher)
    assert ciphers['jigsaw'] == 'mix2+shuffle'
    assert ciphers['lmmse'] == ciphers['tv'] == 'mix2'
    jigsaw, lmmse = (session.attacks[name] for name in ('jigsaw', 'lmmse'))
    for index in (1, 0):
        results = session.run(index)
        undone = jigsaw.undo(index, jigsaw.guess(index))
        assert (lmmse.evidence.images[index] == undone).all()
        assert (results['lmmse'].picture == lmmse.guess(index).img).all()
    # What was handed over stays as it is.
    for case, img in zip(made.cases, made.evidence.images, strict=True):
        assert (case.encrypted == img).all()
    assert all(attack.evidence.oracle is None for attack in session.attacks.values())


def test_layout_that_failed_is_not_built_on(monkeypatch):
    made = subject('mix2+shuffle', photo('coffee', 64, 64), photo('chelsea', 64, 64))
    session = Session(
        replace(made, evidence=replace(made.evidence, public=[photo('rocket', 64, 64)] * 2))
    )
    assert [*session.prepare()]

    def fail(index):
        raise MemoryError('too large')

    session.attacks['jigsaw'].guess = fail
    results = session.run(0)
    assert results['jigsaw'].failed == 'MemoryError: too large'
    assert results['lmmse'].failed == 'jigsaw failed before it'
    assert not results['histogram'].failed


def test_chance_has_as_many_tries_as_the_attack():
    img = photo('coffee', 64, 64)
    plain, turned = (
        subject(cipher, img, photo('chelsea', 64, 64))
        for cipher in ('shuffle', 'permute_pixels+shuffle')
    )
    cells = np.stack(np.divmod(np.arange(16), 4), axis=1)
    guess = Arrangement(1.0, cells, np.zeros(16, int), cells, np.ones((2, 16, 16)))
    base = [judge(guess, made, 0)[0]['nc'].baseline for made in (plain, turned)]
    assert base[1] > base[0]


def test_true_guesses_get_all():
    made = subject('shuffle', photo('coffee', 96, 96), photo('chelsea', 96, 96))
    case = made.cases[0]
    cells = cells_of(case.permutation, case.layout.grid)
    guess = Arrangement(1.0, cells, np.zeros(36, int), cells, np.ones((2, 36, 36)))
    scores, _ = judge(guess, made, 0)
    for name in ('dc', 'nc', 'lc', 'nc_component', 'lc_component'):
        assert scores[name].main == 1
        assert scores[name].control < 0.3
        assert scores[name].baseline < 0.3
    scores, _ = judge(Picture(1.0, case.plain), made, 0)
    assert scores['ssim'].main == 1
    assert scores['ssim'].control < 0.5
    right = np.zeros(2)
    right[made.places[0]] = 1
    scores, _ = judge(Ranking(1.0, right), made, 0)
    assert scores['rank_1'].main == 1
    assert scores['rank_1'].control == 0
    assert scores['rank_1'].baseline == 0.5


def test_unknown_truth_is_not_judged():
    made = subject('shuffle', photo('coffee', 96, 96), photo('chelsea', 96, 96))
    cases = [replace(case, permutation=None, plain=None) for case in made.cases]
    made = replace(made, cases=cases, places={})
    cells = np.stack(np.divmod(np.arange(36), 6), axis=1)
    guess = Arrangement(1.0, cells, np.zeros(36, int), cells, np.ones((2, 36, 36)))
    for one in (guess, Picture(1.0, photo('coffee', 96, 96)), Ranking(1.0, np.zeros(2))):
        assert judge(one, made, 0) == ({}, {})
