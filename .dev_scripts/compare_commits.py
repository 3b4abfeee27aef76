# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Whether two commits encrypt to the same bytes and train with the same losses.

    python .dev_scripts/compare_commits.py HEAD~1 HEAD
    python .dev_scripts/compare_commits.py v0.1 . --benchmarks --pictures data/coco/val2017

BEFORE and AFTER are commits, or folders with a checkout.  Both encrypt one source, made for the
purpose, with one key and data set id: COCO with crowds and an image folder with a list; grayscale,
16-bit, odd and broken pictures; every step and every way of sizing.  All files have to be the same:
images, annotations, manifests (apart from the version of the tool, and the checksum and code that
cover it), what is decrypted and mapped back, and what `hime info` says.  Where torch is installed,
the first losses of the demo's config have to be the same, too, to 1e-6.  The exit status is 1 if
something differs, 2 if a commit cannot do it.

With --benchmarks the speed of both is compared, in turns; the ratio decides nothing.
"""

import argparse
import importlib.util
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from comparison_cases import make_source

HERE = Path(__file__).resolve().parent
CASES = HERE / 'comparison_cases.py'
TOLERANCE = 1e-6
#: What covers the version of the tool in a manifest.
VERSIONED = ('tool_version', 'checksum', 'mac')


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('before', help='commit, or folder')
    parser.add_argument('after', help='commit, or folder')
    parser.add_argument(
        '--losses',
        action=argparse.BooleanOptionalAction,
        default=importlib.util.find_spec('torch') is not None,
        help='compare the first losses of the demo (default: if torch is there)',
    )
    parser.add_argument('--iterations', type=int, default=6, help='of the demo')
    parser.add_argument('--benchmarks', action='store_true', help='compare the speed, too')
    parser.add_argument('--rounds', type=int, default=3, help='of the benchmarks, in turns')
    parser.add_argument('--pictures', help='folder of photos, for the benchmark of `hime encrypt`')
    parser.add_argument('--keep', help='new folder for all that is made, to look at afterwards')
    return parser.parse_args()


def check_out(commit, folder):
    """Return the folder with the files of a commit, or the folder that was named."""
    if os.path.isdir(commit):
        return Path(commit).resolve()
    archive = folder.with_suffix('.tar')
    subprocess.run(['git', 'archive', '-o', archive, commit], cwd=HERE.parent, check=True)
    with tarfile.open(archive) as file:
        file.extractall(folder, filter='data')
    archive.unlink()
    return folder


def python(tree, folder, *args, **kwargs):
    """Run a script with one commit's package."""
    env = {k: v for k, v in os.environ.items() if k != 'HIME_KEY'}
    env.update(PYTHONPATH=str(tree), OMP_NUM_THREADS='1')
    done = subprocess.run(
        [sys.executable, *map(str, args)], cwd=folder, env=env, text=True, **kwargs
    )
    if done.returncode:
        print(f'{args[0]} failed with the package of {tree}', file=sys.stderr)
        sys.exit(2)
    return done


def files_of(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob('*'))
        if path.is_file()
    }


def comparable(name, pair):
    """Two files, as far as two versions of the tool have to write the same."""
    if name.endswith('hime.json'):
        states = [json.loads(data) for data in pair]
        if len({state['tool_version'] for state in states}) > 1:
            for state in states:
                for key in VERSIONED:
                    state.pop(key, None)
        return [json.dumps(state) for state in states]
    if name.endswith(('/journal', '/info.txt')):
        # Two workers finish in any order.
        return [
            sorted(re.sub(rb'(tool_version": "|by hime_mm )[^"\n]*', rb'\1', data).splitlines())
            for data in pair
        ]
    return pair


def compare_files(before, after):
    """Return a line for every file that differs."""
    one, other = files_of(before), files_of(after)
    lines = [
        f'only {side}: {name}'
        for side, mine, theirs in (('before', one, other), ('after', other, one))
        for name in mine
        if name not in theirs
    ]
    for name in one.keys() & other.keys():
        mine, theirs = comparable(name, (one[name], other[name]))
        if mine != theirs:
            lines.append(f'differs: {name}')
    print(f'{len(one)} files before, {len(other)} after: {len(lines)} differences')
    return sorted(lines)


def compare_losses(trees, folders, root, iterations):
    """Return a line for every loss that differs."""
    scripts = [
        tree / place
        for tree in reversed(trees)
        for place in ('tools/demo_scenes.py', 'hime_mm/datasets/demo_coco.py')
    ]
    script = next(path for path in scripts if path.is_file())
    paint = (
        f'import sys; sys.path.insert(0, {str(script.parent)!r}); '
        f'from {script.stem} import make_demo_coco; make_demo_coco("scenes", 40, 4)'
    )
    python(trees[1], root, '-c', paint, stderr=subprocess.DEVNULL)
    losses = []
    for tree, folder in zip(trees, folders, strict=True):
        with open(folder / 'train.log', 'w') as log:
            python(
                tree,
                folder,
                CASES,
                'train',
                '--tree',
                tree,
                '--data',
                root / 'scenes',
                '--iterations',
                iterations,
                stdout=log,
                stderr=log,
            )
        losses.append(json.loads((folder / 'losses.json').read_text()))
    lines, largest = [], 0.0
    for n, (one, other) in enumerate(zip(*losses, strict=True)):
        for name in one.keys() | other.keys():
            gap = abs(one.get(name, float('inf')) - other.get(name, float('inf')))
            if not gap <= TOLERANCE:
                lines.append(
                    f'differs: {name} of iteration {n}: {one.get(name)} before, '
                    f'{other.get(name)} after'
                )
            else:
                largest = max(largest, gap)
    print(
        f'{len(losses[0])} iterations of the demo, loss {losses[0][0]["loss"]:.4f} to '
        f'{losses[0][-1]["loss"]:.4f}: {len(lines)} differences, otherwise at most {largest:.1g}'
    )
    return lines


def time_rows(tree, folder, name, args):
    """Return what a benchmark's table gives as milliseconds, by the name of its row."""
    script = next(
        path
        for path in (tree / 'tools' / 'benchmarks' / name, tree / 'tools' / name)
        if path.is_file()
    )
    table = python(
        tree, folder, script, *args, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ).stdout
    rows = re.findall(r'^((?:\S+ )*\S+) {2,}(\d+\.\d+) ', table, re.M)
    return {row: float(value) for row, value in rows}


def compare_speed(trees, folders, rounds, name, *args):
    """Print the best of each row for both commits, and their ratio."""
    best = [{}, {}]
    for n in range(2 * rounds):
        side = (n + n // 2) % 2  # before, after, after, before, ...
        for row, value in time_rows(trees[side], folders[side], name, args).items():
            best[side][row] = min(value, best[side].get(row, value))
    print(f'\n{name}, best of {rounds}: {"ms before":>10} {"ms after":>10} {"ratio":>6}')
    for row, value in best[0].items():
        if row in best[1]:
            print(f'  {row:40} {value:10.3f} {best[1][row]:10.3f} {best[1][row] / value:6.2f}')


def main():
    args = parse_args()
    if args.keep:
        os.makedirs(args.keep)
        return compare(args, Path(args.keep).resolve())
    with tempfile.TemporaryDirectory() as root:
        return compare(args, Path(root).resolve())


def compare(args, root):
    (root / 'source').mkdir()
    make_source(root / 'source')
    trees, folders = [], []
    for side, commit in (('before', args.before), ('after', args.after)):
        folders.append(root / side)
        folders[-1].mkdir()
        trees.append(check_out(commit, folders[-1] / 'tree'))
        (folders[-1] / 'source').symlink_to(root / 'source')
        python(trees[-1], folders[-1], CASES, 'encrypt', '--tree', trees[-1])
    differences = compare_files(folders[0] / 'out', folders[1] / 'out')
    if args.losses:
        differences += compare_losses(trees, folders, root, args.iterations)
    if args.benchmarks:
        compare_speed(trees, folders, args.rounds, 'benchmark_ciphers.py')
        if args.pictures:
            compare_speed(
                trees, folders, args.rounds, 'benchmark_encrypt.py', os.path.abspath(args.pictures)
            )
    for line in differences:
        print(line)
    print('different' if differences else 'equal')
    return bool(differences)


if __name__ == '__main__':
    sys.exit(main())
