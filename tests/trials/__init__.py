# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What takes hours, by hand: `run.py` runs it and writes docs/trials.md.

A trial is a module of this folder that is named in `TRIALS` and has

- a docstring whose first line says what is tried, for the table;
- ``CASES``, how many of ``UNIT`` all of it is;
- ``steps(state, folder)``, a generator. It does a part of the work, tells
  ``state`` what came of it (:class:`~trials.state.State`: ``done``, ``facts``,
  ``add_failure``), yields, and so on until ``state.done`` is ``state.cases``.
  At each yield the state is saved: killed, the trial goes on from there, with
  the same ``folder``.

Where a case is one call of a function, ``check(case, folder)``, `fuzzing.fuzz`
is all of ``steps``: batches in processes of their own, so that a crash or a
hang is one more failure. A case is made of its number alone.

In tests/test_trials.py each trial has a twin with a small number of cases.
"""

TRIALS = ('ciphers', 'pictures', 'texts', 'million', 'shards', 'demo', 'hosts', 'rest')
