# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""The hosts' own tests of the classes that ours extend, with ours in their place

Their sources are not part of this project: docs/trials.md says where they come from.
Each test is run with the host's class, so that it is known to go with what is
installed, and with ours. Where ours differs by design, the statements that say so are
known (`DIFFERENCES`): with them the test has to fail, and without them to pass.
"""

import ast
import hashlib
import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from .state import ROOT, NotAtHand, State

CASES = 3
UNIT = 'test files'
#: Checkouts of the hosts, each in a folder of its own.
SOURCES = Path(os.environ.get('HIME_HOST_SOURCES', ROOT / 'work_dirs' / 'hosts'))


@dataclass(frozen=True)
class Suite:
    """The tests of one class of a host: its name, their file and class, and its stand-in."""

    name: str
    path: str
    tests: str
    stand_in: str


SUITES = (
    Suite(
        'VisionTransformer',
        'tests/test_models/test_backbones/test_vision_transformer.py',
        'TestVisionTransformer',
        "PEViT(pos_encoding='learned')",
    ),
    Suite(
        'ClsDataPreprocessor',
        'tests/test_models/test_utils/test_data_preprocessor.py',
        'TestClsDataPreprocessor',
        'EncryptClsDataPreprocessor(None)',
    ),
    # The head has no test file of its own since it takes hidden states.
    Suite('DETRHead', 'tests/test_models/test_detectors/test_detr.py', 'TestDETR', 'DetTokenHead'),
)

#: By class and test, what is not true of ours, and why that is meant.
DIFFERENCES: dict[tuple[str, str], dict[str, str]] = {
    ('VisionTransformer', 'test_init_weights'): {
        'self.assertTrue(torch.allclose(model.pos_embed, torch.tensor(0.0)))': (
            'PEViT draws learned positions when it is built, not in `init_weights`: a model '
            'that nobody initialised can be used'
        ),
    },
}


def find(suite: Suite) -> Path:
    for path in sorted(SOURCES.glob(f'*/{suite.path}')):
        return path
    raise NotAtHand(
        f'{SOURCES} holds no folder with {suite.path}: docs/trials.md says how to get the '
        "hosts' sources; HIME_HOST_SOURCES names another folder"
    )


def steps(state: State, folder: Path) -> Iterator[None]:
    files = [find(suite) for suite in SUITES]
    with_weights(folder)
    while not state.is_complete:
        suite, file = SUITES[state.done], files[state.done]
        digest = hashlib.sha256(file.read_bytes()).hexdigest()[:12]
        state.facts.setdefault('files', []).append(f'`{file.name}` {digest}')
        compare(state, suite, file, folder / suite.name)
        state.done += 1
        yield


def compare(state: State, suite: Suite, file: Path, folder: Path) -> None:
    """Run the tests of a class with it, with ours, and with ours but for what is known."""
    counts = state.facts.setdefault('counts', {})
    host = run_tests(suite, file, folder / 'host', ours=False)
    ours = run_tests(suite, file, folder / 'ours')
    rest = run_tests(suite, file, folder / 'rest', without=DIFFERENCES)
    known = {test for name, test in DIFFERENCES if name == suite.name}
    for test in sorted(known - set(host)):
        state.add_failure(state.done, f'{suite.name}.{test} is not there', '')
    for test in sorted(host):
        kind = judge(host[test], ours.get(test), rest.get(test), test in known)
        if kind.startswith('as'):
            counts[kind] = counts.get(kind, 0) + 1
        else:
            text = host[test] or rest.get(test) or ours.get(test) or ''
            state.add_failure(state.done, f'{suite.name}.{test} {kind}', text[-2000:])


def judge(host: str, ours: str | None, rest: str | None, known: bool) -> str:
    """What came of a test: of its three runs what was printed of a failure, '' where it passed."""
    if host:
        return 'fails with the class of the host'
    if ours is None or rest is None:
        return 'was not run'
    if known and not ours:
        return 'does not differ any more'
    if rest:
        return 'differs'
    return 'as with the host but for what is listed' if known else 'as with the host'


def run_tests(
    suite: Suite, file: Path, folder: Path, ours: bool = True, without: dict | None = None
) -> dict[str, str]:
    """Each test by its name, and what is printed of its failure, '' where it passed."""
    shutil.rmtree(folder, ignore_errors=True)
    # Only what it may import by a relative name, as a package.
    package = folder / file.parent.name
    shutil.copytree(file.parent, package, ignore=lambda _, names: _but_helpers(names, file.name))
    (package / '__init__.py').touch()
    if without is not None:
        text = strike_out(suite, file.read_text(encoding='utf-8'), without)
        (package / file.name).write_text(text, encoding='utf-8')
    report, built = folder / 'report.xml', folder / 'built.txt'
    command = [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', '-c', os.devnull]
    command += ['-p', 'trials.stand_ins', '--rootdir', folder, f'--junitxml={report}']
    done = subprocess.run(
        [*map(str, command), f'{package / file.name}::{suite.tests}'],
        cwd=folder,
        env=dict(
            os.environ,
            PYTHONPATH=os.pathsep.join(map(str, (ROOT, ROOT / 'tests'))),
            TORCH_HOME=str(folder.parents[1] / 'torch'),
            HIME_STAND_INS=str(built) if ours else '',
        ),
        capture_output=True,
        text=True,
    )
    if not report.exists():
        raise RuntimeError(f'{file} cannot be run: {(done.stdout + done.stderr)[-2000:]}')
    if ours and suite.name not in built.read_text().split():
        raise RuntimeError(f'{file} builds no {suite.name}')
    return {
        case.get('name', ''): '\n'.join(
            f'{child.get("message")}\n{child.text}'
            for child in case
            if child.tag in ('failure', 'error', 'skipped')
        )
        for case in ElementTree.parse(report).iter('testcase')
    }


def _but_helpers(names: list[str], test: str) -> list[str]:
    return [
        name
        for name in names
        if name != test and (name.startswith('test_') or not name.endswith('.py'))
    ]


def strike_out(suite: Suite, text: str, differences: dict) -> str:
    """The source of tests without the statements that are known to differ."""

    class Strike(ast.NodeTransformer):
        def visit_FunctionDef(self, node):
            known = differences.get((suite.name, node.name), {})
            for parent in ast.walk(node):
                body = getattr(parent, 'body', None)
                if isinstance(body, list):
                    parent.body = [x for x in body if ast.unparse(x) not in known] or [ast.Pass()]
            return node

    return ast.unparse(ast.fix_missing_locations(Strike().visit(ast.parse(text))))


def with_weights(folder: Path) -> None:
    """Put weights where torchvision's would be kept, which a test loads; no test looks at them."""
    import torch
    import torchvision
    from mmengine.runner.checkpoint import get_torchvision_models

    name = get_torchvision_models()['resnet50'].rpartition('/')[2]
    path = folder / 'torch' / 'hub' / 'checkpoints' / name
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(torchvision.models.resnet50().state_dict(), path)


def report(state: State) -> str:
    versions = [
        f'{name} {metadata.version(name)}'
        for name in ('onedl-mmpretrain', 'onedl-mmdetection', 'mmpretrain', 'mmdet')
        if _is_installed(name)
    ]
    return f'{", ".join(versions)}; {", ".join(state.facts.get("files", ()))}'


def _is_installed(name: str) -> bool:
    try:
        return bool(metadata.version(name))
    except metadata.PackageNotFoundError:
        return False
