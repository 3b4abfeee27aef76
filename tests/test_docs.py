# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What README and docs name is there: commands, options, configs, types, names, links.

Commands of `hime` that need no more than a small data set are run as they are written.
"""

import ast
import doctest
import functools
import importlib
import importlib.util
import inspect
import json
import os
import re
import shlex
import sys
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner
from owner_data import make_coco, photo, write
from scripts import load_script

from hime_mm.cli import main
from hime_mm.tools import find_config, find_tools

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    'README.md',
    'CONTRIBUTING.md',
    'SECURITY.md',
    'configs/README.md',
    *sorted(f'docs/{path.name}' for path in ROOT.glob('docs/*.md')),
]
#: Looks like a path of the checkout.
PATH = re.compile(r'(?:\.dev_scripts|configs|docs|hime_mm|requirements|tests|tools)/[\w./-]*')
#: Not in the checkout: what an editable install and `make docs` add, and a prefix of the key
#: derivation.
NO_PATHS = ('hime_mm/.mim/configs', 'docs/_build/html', 'hime_mm/1/')


class Wrong(Exception):
    """Something that a page names and that is not there."""


# What is on the pages


def blocks(page, language='python'):
    """Yield the fenced blocks of a language."""
    text = (ROOT / page).read_text()
    for found in re.finditer(rf'^```{language}\n(.*?)^```', text, re.M | re.S):
        yield found[1]


def prose(page):
    """Return the text of a page without its blocks."""
    return re.sub(r'^```.*?^```', '', (ROOT / page).read_text(), flags=re.M | re.S)


def spans(page):
    """Return all inline code of a page."""
    return sorted(set(re.findall(r'`([^`\n]+)`', prose(page))))


def links(page):
    """Return where the links and pictures of a page lead, whichever way they are written."""
    text = re.sub(r'`[^`\n]+`', '``', prose(page))
    inline = re.findall(r'\]\(<?([^)>\s]+)>?(?:\s+"[^"]*")?\)', text)
    named = re.findall(r'^\[[^]^]+\]:\s+<?([^>\s]+)', text, re.M)
    tags = re.findall(r'<\w[^>]*?\b(?:href|src|srcset)="([^"\s]+)', text)
    return inline + named + tags


def anchors(page):
    """Return the fragments that a forge gives to the headings of a page."""
    found = []
    for title in re.findall(r'^#+ (.*)', prose(page), re.M):
        title = re.sub(r'\[([^]]*)\]\([^)]*\)', r'\1', title)
        name = re.sub(r'[^\w -]', '', title.strip().lower()).replace(' ', '-')
        again = sum(re.fullmatch(rf'{name}(-\d+)?', one) is not None for one in found)
        found.append(f'{name}-{again}' if again else name)
    return found


def split_lines(block):
    """Return the command lines of a block as lists of words, without comments."""
    lines = [shlex.split(line, comments=True) for line in block.replace('\\\n', ' ').splitlines()]
    return [words for words in lines if words]


def commands(page):
    """Return the command lines of a page, those of its blocks and those in its text."""
    lines = []
    for block in blocks(page, 'bash'):
        for words in split_lines(block):
            if words[0] == '...':  # the command before, with other options
                words = [*lines[-1][:4], *words[1:]]
            lines.append(words)
    for span in spans(page):
        if re.match(r'(python|torchrun|hime|make|mim|pip) [\w.-]|tools/\w+\.sh ', span):
            lines.append(shlex.split(span))
    return lines


def everywhere(find):
    """Make a test for each thing that is found on a page."""
    return pytest.mark.parametrize(
        'found',
        [
            pytest.param(found, id=f'{page}:{number}')
            for page in PAGES
            for number, found in enumerate(find(page), 1)
        ],
    )


# Whether it is there


def check_path(path):
    if path not in NO_PATHS and not (ROOT / path).exists():
        raise Wrong(f'there is no {path}')


@functools.lru_cache(None)
def script(path):
    check_path(path)
    return load_script(path)


def check_script(path, words, monkeypatch, capsys):
    """Have a tool parse its arguments, and a config take its options."""
    monkeypatch.setattr(sys, 'argv', [path, *words])
    monkeypatch.setenv('LOCAL_RANK', '0')
    try:
        args = script(path).parse_args()
    except SystemExit:
        raise Wrong(f'{path} refuses {words}: {capsys.readouterr().err}') from None
    config, options = getattr(args, 'config', None), getattr(args, 'cfg_options', None)
    if options and config and (ROOT / config).is_file():
        from mmengine.config import Config

        for name in options:
            node = Config.fromfile(str(ROOT / config))
            for key in name.split('.'):
                if not key.isdigit() and key not in node:
                    parameters = inspect.signature(check_type(node['type'])).parameters
                    if key not in parameters:
                        raise Wrong(f'{config} has no {name}')
                    break
                node = node[int(key) if key.isdigit() else key]


def check_module(words, monkeypatch, capsys):
    """Find the script and the config that `python -m hime_mm.tools` would, and call it."""
    if not words:
        return
    if words[0] not in find_tools():
        raise Wrong(f'hime_mm.tools has no {words[0]}')
    for word in words[1:2]:
        if not os.path.isfile(find_config(word)):
            raise Wrong(f'there is no config {word}')
    path = find_tools()[words[0]].relative_to(ROOT).as_posix()
    check_script(path, words[1:], monkeypatch, capsys)


def click_context(command):
    """Return a context of a command; with the settings of `hime`, as click keeps its options."""
    return click.Context(command, **main.context_settings)


def check_hime(words):
    """Find a subcommand of `hime` and all options of it that are given."""
    command, context = main, click_context(main)
    while words and isinstance(command, click.Group) and not words[0].startswith('-'):
        try:
            _, found, words = command.resolve_command(context, [*words])
        except click.UsageError:
            raise Wrong(f'{command.name} has no command {words[0]!r}') from None
        command = found
    known = {
        option
        for param in command.get_params(click_context(command))
        for option in (*param.opts, *param.secondary_opts)
    }
    for word in words:
        if re.match(r'-{1,2}[a-zA-Z]', word) and word.split('=')[0] not in known:
            raise Wrong(f'hime {command.name} has no option {word}')


def check_command(words, monkeypatch, capsys):
    """Raise Wrong where a command line names something that is not there."""
    while re.match(r'\w+=', words[0]):  # variables
        words = words[1:]
    for word in words[1:]:
        if PATH.fullmatch(word) and not word.startswith('docs/images/'):
            check_path(word)
    if 'hime_mm.tools' in words[:6]:
        check_module(words[words.index('hime_mm.tools') + 1 :], monkeypatch, capsys)
    elif words[0] == 'python' and words[1] != '-m':
        check_script(words[1], words[2:], monkeypatch, capsys)
    elif words[0].startswith('tools/slurm_'):
        check_path(words[0])
        tool = words[0].replace('slurm_', '').replace('.sh', '.py')
        check_script(tool, [words[3], *words[4 + tool.endswith('train.py') :]], monkeypatch, capsys)
    elif words[0].endswith('.sh'):
        check_path(words[0])
        tool = words[0].replace('dist_', '').replace('.sh', '.py')
        number = 2 if tool.endswith('train.py') else 3
        if not words[number].isdigit():
            raise Wrong(f'{words[number]!r} is no number of GPUs')
        check_script(tool, words[1:number] + words[number + 1 :], monkeypatch, capsys)
    elif words[0] == 'hime':
        check_hime(words[1:])
    elif words[0] == 'make':
        if not re.search(rf'^{words[1]}:', (ROOT / 'Makefile').read_text(), re.M):
            raise Wrong(f'the Makefile has no target {words[1]}')
    elif words[0] in ('mim', 'pip'):
        for extra in re.findall(r'^\.\[(\w+)\]$', '\n'.join(words), re.M):
            if f"'{extra}': requirements(" not in (ROOT / 'setup.py').read_text():
                raise Wrong(f'setup.py has no extra {extra}')
        if words[2:3] == ['hime_mm']:
            check_module([words[1], *words[3:]], monkeypatch, capsys)
    elif words[0] not in ('source', 'python'):
        raise Wrong(f'do not know what {words[0]} is')


def check_type(name):
    """Return a type of a config, such as ``hime_mm.PEViT``."""
    from hime_mm.registry import own_types

    scope, _, short = name.rpartition('.')
    if scope != 'hime_mm' or short not in own_types():
        raise Wrong(f'no registry knows {name}')
    return own_types()[short]


def check_block(block):
    """Find what a block of Python imports from the package, the attributes and the types."""
    tree, names = ast.parse(block), {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module.startswith('hime_mm'):
            module = importlib.import_module(node.module)
            for alias in node.names:
                if not hasattr(module, alias.name):
                    raise Wrong(f'{node.module} has no {alias.name}')
                names[alias.asname or alias.name] = getattr(module, alias.name)
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id in names
            and not hasattr(names[node.value.id], node.attr)
        ):
            raise Wrong(f'{node.value.id} has no {node.attr}')
        named = isinstance(node, ast.Constant) and str(node.value).startswith('hime_mm.')
        if named and importlib.util.find_spec(node.value) is None:  # no module to import
            check_type(node.value)
    return names


@functools.lru_cache(None)
def known_options():
    """Return all long options of `hime` and of the scripts."""
    found, groups = set(), [main]
    for group in groups:
        context = click_context(group)
        children = [group.get_command(context, name) for name in group.list_commands(context)]
        groups += [child for child in children if isinstance(child, click.Group)]
        for child in children:
            for param in child.get_params(click_context(child)):
                found.update(param.opts + param.secondary_opts)
    shared = ROOT / 'hime_mm/config/options.py'
    for path in [shared, *ROOT.glob('tools/**/*.py'), *ROOT.glob('.dev_scripts/*.py')]:
        found.update(re.findall(r"'(--[\w-]+)'", path.read_text()))
    return found


def check_span(span):
    """Find a path, the options or a type that inline code names."""
    if re.match('--[a-z]', span):
        gone = set(re.findall(r'(?<!\S)--[\w-]+', span)) - known_options()
        if gone:
            raise Wrong(f'nothing has the options {gone}')
    elif PATH.match(span):
        # Of a test, the file; test_architecture.py looks for its name.
        check_path(span.split()[0].partition('::')[0])
    elif re.fullmatch(r'hime_mm\.[A-Z]\w+', span):
        check_type(span)


def check_link(page, link):
    """Find the file that a relative link leads to, and the heading in it."""
    if re.match('https?:', link):
        return
    path, _, anchor = link.partition('#')
    target = ((ROOT / page).parent / path).resolve() if path else ROOT / page
    if ROOT not in target.parents or not target.exists():
        raise Wrong(f'there is no {path}')
    if anchor and anchor not in anchors(target):
        raise Wrong(f'{target} has no heading {anchor}')


# The tests


@everywhere(commands)
def test_commands(found, monkeypatch, capsys):
    check_command(found, monkeypatch, capsys)


@everywhere(blocks)
def test_python_blocks(found):
    names = check_block(found)
    if {value.__module__.rpartition('.')[0] for value in names.values()} == {'hime_mm.ciphers'}:
        exec(found, dict(image=np.zeros((64, 80, 3), np.uint8), boxes=np.ones((2, 4))))


@pytest.mark.parametrize('page', PAGES)
def test_inline_code(page):
    wrong = {}
    for found in spans(page):
        try:
            check_span(found)
        except Wrong as error:
            wrong[found] = str(error)
    assert not wrong


@pytest.mark.parametrize('page', [*PAGES, 'CHANGELOG.md'])
def test_links(page):
    for link in links(page):
        check_link(page, link)


@pytest.mark.parametrize('page', [*PAGES, 'CHANGELOG.md'])
def test_words(page):
    """Nothing is promised: these words are never used of a cipher, nor of anything else."""
    assert not re.findall(
        r'\b(?:secure|intractable|unbreakable)\b', (ROOT / page).read_text(), re.I
    )


@pytest.mark.parametrize(
    'place, shared',
    [
        ('docs/datasets.md', True),
        ('docs/training.md', True),
        ('docs/format.md', True),
        ('hime_mm/transforms/encrypt.py', False),
    ],
)
def test_every_step_is_named(place, shared):
    """Where a page, or the docstring of the transform, lists the steps."""
    from hime_mm.ciphers import STEPS

    text = (ROOT / place).read_text()
    if place == 'docs/format.md':
        # What is drawn, the written forms, and what is computed.
        parts = [text.split(title)[1].split('\n## ')[0] for title in ('| draws', '### Canonical')]
        parts.append(text.split('\n### Steps\n')[1].split('\n### ')[0])
    else:
        parts = [text]
    for part in parts:
        named = set(re.findall(r'`(\w+?)\d*`', part))
        missing = {name for name, step in STEPS.items() if shared or step.scope == 'image'} - named
        assert not missing, missing


#: Where measurements are written down, with what they were made of.
MEASURED = ('docs/leakage.md', 'docs/results.md', 'docs/benchmarks.md')


def figures(text):
    """Return the percentages, decibels and average precisions in a text, as numbers."""
    text = re.sub(r'^```.*?^```', '', text, flags=re.M | re.S).replace('\n# ', ' ')
    found = re.findall(r'([\d.]*\d)\s(?:%|dB)|AP(?:50)?\s(0\.\d+)', text)
    for row in re.findall(r'((?:[\d.]+ / )+[\d.]+) %', text):
        found += [(number, '') for number in row.split(' / ')]
    return {first or second for first, second in found}


def test_figures_are_those_that_were_measured():
    """A figure of a page, a step or a config stands on some page of measurements."""
    from hime_mm.ciphers import STEPS

    pages = ['README.md', 'docs/datasets.md', 'docs/protection.md', 'docs/threat_model.md']
    texts = {name: (ROOT / name).read_text() for name in pages}
    texts |= {str(path): path.read_text() for path in (ROOT / 'configs').rglob('*.py')}
    texts |= {name: step.leaves for name, step in STEPS.items()}
    measured = ' '.join((ROOT / page).read_text() for page in MEASURED)
    known = figures(measured) | set(re.findall(r'\| ([\d.]+) ±', measured))
    known |= set(re.findall(r'\d+\.\d+', (ROOT / 'docs/results.md').read_text()))
    assert sum(len(figures(text)) for text in texts.values()) >= 15
    for name, text in texts.items():
        assert figures(text) <= known, (name, figures(text) - known)


def test_moves():
    """What the changelog says to have moved is where it says."""
    rows = re.findall(
        r'^\| `(tools/[\w./]+)` \| `(tools/|hime )([\w./]+)`',
        (ROOT / 'CHANGELOG.md').read_text(),
        re.M,
    )
    assert len(rows) >= 6
    for before, kind, now in rows:
        assert not (ROOT / before).exists()
        assert (
            (ROOT / kind / now).is_file() if kind == 'tools/' else now in main.list_commands(None)
        )


def test_there_is_something_to_test():
    assert sum(len(commands(page)) for page in PAGES) > 50
    assert sum(len(list(blocks(page, 'python'))) for page in PAGES) > 10
    assert sum(len(spans(page)) for page in PAGES) > 200


@pytest.mark.parametrize('module', ['hime_mm.apis', 'hime_mm.ciphers'])
def test_public_names(module):
    module = importlib.import_module(module)
    assert len(module.__all__) > 10
    for name in module.__all__:
        assert getattr(module, name).__doc__ or name.isupper(), name
        assert name in dir(module)


def owner_commands(page):
    """The commands of `hime` in a page's blocks, but audits, which take long, and buckets."""
    shell = [words for block in blocks(page, 'bash') for words in split_lines(block)]
    return [
        words[1:]
        for words in shell
        if words[0] == 'hime' and words[1] != 'audit' and not any('://' in one for one in words)
    ]


@pytest.mark.parametrize('page', [page for page in PAGES if owner_commands(page)])
def test_hime_as_written(page, tmp_path, monkeypatch):
    """The commands of the owner, one after the other in one folder."""
    monkeypatch.chdir(tmp_path)
    make_coco('data/coco')
    for split in ('train', 'val'):
        names = [f'{group}/{n}.jpg' for group in ('cats', 'cups') for n in range(2)]
        for seed, name in enumerate(names):
            write(tmp_path / 'data/imagenet' / split / name, photo(64, 80, seed))
        path = tmp_path / f'data/imagenet/meta/{split}.txt'
        path.parent.mkdir(exist_ok=True)
        path.write_text(''.join(f'{name} {label // 2}\n' for label, name in enumerate(names)))
    Path('results.bbox.json').write_text(
        json.dumps([dict(image_id=7, category_id=3, bbox=[10, 20, 30, 40], score=0.5)])
    )
    for words in owner_commands(page):
        result = CliRunner(env=dict(HIME_KEY=None)).invoke(main, words, catch_exceptions=False)
        assert result.exit_code == 0, (words, result.output)
    assert Path('data/coco_paper-mi/hime.json').is_file()
    assert Path('original.bbox.json').is_file()


@pytest.mark.parametrize(
    'line',
    [
        'python tools/none.py',
        'python tools/train.py configs/none.py',
        'python tools/train.py configs/hime_vit_coco.py --none',
        'python tools/train.py configs/hime_vit_coco.py --cfg-options model.backbone.none=1',
        'python tools/misc/make_pictures.py --columns many',
        'tools/dist_none.sh configs 8',
        'tools/dist_train.sh configs/hime_vit_coco.py --amp',
        'tools/slurm_none.sh gpu job configs/hime_vit_coco.py work_dir',
        'tools/slurm_train.sh gpu job configs/none.py work_dir',
        'tools/slurm_train.sh gpu job configs/hime_vit_coco.py work_dir --none',
        'python -m hime_mm.tools none hime_vit_coco.py',
        'python -m hime_mm.tools train none.py',
        'python -m hime_mm.tools train hime_vit_coco.py --none',
        'torchrun --nproc_per_node 8 -m hime_mm.tools train hime_vit_coco.py --none',
        'mim train hime_mm none.py',
        'hime none',
        'hime encrypt none a b',
        'hime encrypt coco a b --none',
        'hime info a --key k',
        'hime audit a --no-pictures',
        'hime audit report a --seed 1',
        'make none',
        "pip install '.[none]'",
        'mim install -e .[none]',
        'none',
    ],
)
def test_a_wrong_command_is_found(line, monkeypatch, capsys):
    with pytest.raises(Wrong):
        check_command(shlex.split(line), monkeypatch, capsys)


@pytest.mark.parametrize(
    'block',
    [
        'from hime_mm.apis import Nobody',
        'from hime_mm.ciphers import Cipher\nCipher.none()',
        "dict(type='hime_mm.Nobody'),",
        "model = dict(\n    head=dict(type='hime_mm.Nobody'))",
    ],
)
def test_a_wrong_block_is_found(block):
    with pytest.raises(Wrong):
        check_block(block)


@pytest.mark.parametrize('span', ['--none 3', 'tools/none.py SRC', 'hime_mm.Nobody'])
def test_a_wrong_span_is_found(span):
    with pytest.raises(Wrong):
        check_span(span)


@pytest.mark.parametrize(
    'link',
    ['docs/none.md', '../elsewhere.md', '#none', 'docs/format.md#none', 'docs/format.md#Keys'],
)
def test_a_wrong_link_is_found(link):
    check_link('README.md', 'docs/format.md#keys')
    with pytest.raises(Wrong):
        check_link('README.md', link)


def test_every_kind_of_link_is_read(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), 'ROOT', tmp_path)
    (tmp_path / 'page.md').write_text(
        '# One `two` [three](a.md)\n[![p](b.png)](c.md "title")\n<img alt="x" src="d.png">\n'
        '[ref]: e.md\n`[no](f.md)`\n```bash\n# no heading\n[no](g.md)\n```\n## Keys\n### Keys\n'
    )
    assert sorted(links('page.md')) == ['a.md', 'b.png', 'c.md', 'd.png', 'e.md']
    assert anchors('page.md') == ['one-two-three', 'keys', 'keys-1']


@pytest.mark.parametrize(
    'path', [path for path in sorted(ROOT.glob('hime_mm/**/*.py')) if '>>> ' in path.read_text()]
)
def test_examples_of_docstrings(path):
    name = '.'.join(path.relative_to(ROOT).with_suffix('').parts)
    done = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert done.attempted and not done.failed
