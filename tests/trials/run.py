# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Run trials, which take hours, and write what came of them to docs/trials.md.

Killed and started again, they go on where they were, as long as the code is
the same; else they start anew. The exit status is 1 if a case failed, or
a trial that was named needs what is not at hand; without names it is left out.
"""

import argparse
import datetime
import importlib
import shutil
import sys
import time
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / 'tests')]

from hypothesis import settings  # noqa: E402
from tqdm import tqdm  # noqa: E402

from trials import TRIALS  # noqa: E402
from trials.record import PAGE, commit, outcome, read_rows, what, write_row  # noqa: E402
from trials.state import NotAtHand, State  # noqa: E402


def parse_args(args: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('names', nargs='*', metavar='NAME', help='trials (default: all)')
    parser.add_argument('--list', action='store_true', help='say what there is, and its last row')
    parser.add_argument('--cases', type=int, metavar='N', help='so many in place of all')
    parser.add_argument('--repeat', type=int, metavar='CASE', help='one case alone')
    parser.add_argument('--any-code', action='store_true', help='go on after a change of the code')
    parser.add_argument('--work-dir', type=Path, default=ROOT / 'work_dirs' / 'trials')
    parser.add_argument(
        '--page', type=Path, default=PAGE, help='to write to (default: docs/trials.md)'
    )
    parsed = parser.parse_args(args)
    unknown = set(parsed.names) - set(TRIALS)
    if unknown:
        parser.error(f'no trials are named {", ".join(sorted(unknown))}: choose from {TRIALS}')
    if parsed.repeat is not None and len(parsed.names) != 1:
        parser.error('name the one trial whose case is to be repeated')
    return parsed


def load() -> dict[str, ModuleType]:
    return {name: importlib.import_module(f'trials.{name}') for name in TRIALS}


def run(name: str, trial: ModuleType, folder: Path, cases: int, any_code: bool = False) -> State:
    """Run a trial to its end, or on from where it was."""
    path = folder / 'state.json'
    state = begin(path, cases, any_code, any_number=hasattr(trial, 'check'))
    if state.is_complete:
        print(f'{name}: was complete')
        return state
    last = time.monotonic()
    with tqdm(total=cases, initial=state.done, desc=name, unit=f' {trial.UNIT}') as bar:
        for _ in trial.steps(state, folder):
            now = time.monotonic()
            state.seconds, last = state.seconds + now - last, now
            if state.is_complete:
                state.ended = datetime.date.today().isoformat()
            state.save(path)
            bar.set_postfix(failures=state.num_failures, refresh=False)
            bar.update(state.done - bar.n)
    return state


def begin(path: Path, cases: int, any_code: bool = False, any_number: bool = False) -> State:
    """What was reached with this code, or nothing.

    Cases that are nothing to each other may become more or fewer.
    """
    name, code = commit()
    old = State.load(path)
    if old is not None and (old.cases == cases or any_number) and (old.code == code or any_code):
        if old.code != code:
            old.commit, old.code = f'{old.commit}, then {name}', code
        old.cases = max(cases, old.done)
        old.ended = old.ended or datetime.date.today().isoformat()
        old.save(path)
        return old
    shutil.rmtree(path.parent, ignore_errors=True)
    path.parent.mkdir(parents=True)
    return State(name, code, cases)


def tell(trial: ModuleType, name: str, state: State, path: Path) -> None:
    print(f'{name}: {outcome(trial, state)}')
    for kind in state.failures:
        for case in state.failures[kind]['first']:
            print(f'  {kind}: python tests/trials/run.py {name} --repeat {case["case"]}')
    if state.failures:
        print(f'  {path} says more')


def repeat(trial: ModuleType, folder: Path, case: int) -> None:
    """Do one case in this process: what it raises, or dies of, is seen."""
    folder = folder / f'case_{case}'
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    print(f'Its files are in {folder}')
    print(f'case {case}: {trial.check(case, folder)}')


def main() -> int:
    args = parse_args()
    # Processes are forked here: no thread but this one.
    tqdm.monitor_interval = 0
    settings.register_profile('trials', database=None, deadline=None)
    settings.load_profile('trials')
    trials = load()
    if args.list:
        rows = read_rows(args.page)
        for name, trial in trials.items():
            print(rows.get(name) or f'{name}: {what(trial)}')
        return 0
    failed = False
    for name in args.names or TRIALS:
        trial, folder = trials[name], args.work_dir / name
        if args.repeat is not None:
            if not hasattr(trial, 'check'):
                sys.exit(f'{name} has no single cases')
            repeat(trial, folder.with_name(f'{name}_repeated'), args.repeat)
            continue
        try:
            state = run(name, trial, folder, args.cases or trial.CASES, args.any_code)
        except NotAtHand as error:
            print(f'{name}: not run: {error}')
            failed |= bool(args.names)
            continue
        write_row(args.page, trials, name, state)
        tell(trial, name, state, folder / 'state.json')
        failed |= bool(state.failures)
    return int(failed)


if __name__ == '__main__':
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print('\nStart it again to go on.', file=sys.stderr)
        sys.exit(130)
