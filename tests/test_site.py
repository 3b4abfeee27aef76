# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""The site that `make docs` builds, and what the forge and pre-commit run."""

import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml

from hime_mm import apis, ciphers

pytest.importorskip('sphinx', reason='the site needs requirements/docs.txt')

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / 'docs'


def build(source, target, *options):
    """Build a site as `make docs` does; return the exit status and what was said."""
    command = [sys.executable, '-m', 'sphinx', '-q', '-E', '-W', '--keep-going', *options]
    done = subprocess.run(
        [*command, '-d', str(target.with_name('doctrees')), str(source), str(target)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return done.returncode, done.stdout


class Page(HTMLParser):
    """The ids of a page, its links and what a browser fetches to show it."""

    def __init__(self, path):
        super().__init__()
        self.ids, self.links, self.fetched = set(), [], []
        self.feed(path.read_text(encoding='utf-8'))

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.ids.update(filter(None, [attrs.get('id'), attrs.get('name')]))
        if tag == 'a' and attrs.get('href'):
            self.links.append(attrs['href'])
        elif tag == 'link' and attrs['rel'] not in ('index', 'search', 'next', 'prev', 'author'):
            self.fetched.append(attrs['href'])
        elif tag in ('img', 'script', 'source', 'iframe', 'video'):
            self.fetched += filter(None, [attrs.get('src'), attrs.get('srcset')])


# What the site consists of


def toctree():
    """The pages that index.md lists."""
    blocks = re.findall(r'^```\{toctree\}\n(.*?)^```', (DOCS / 'index.md').read_text(), re.M | re.S)
    return [line for block in blocks for line in block.splitlines() if re.match(r'[\w/]+$', line)]


def documented():
    """The modules of which the API pages show all public names."""
    text = ''.join(path.read_text() for path in sorted(DOCS.glob('api/*.rst')))
    return set(re.findall(r'automodule:: (\S+)\n   :members:\n', text))


def test_every_page_is_listed():
    listed = toctree()
    assert len(listed) == len(set(listed)) > 8
    for name in listed:
        assert any(DOCS.joinpath(name).with_suffix(suffix).is_file() for suffix in ('.md', '.rst'))
    pages = [*DOCS.glob('*.md'), *DOCS.glob('*.rst'), *DOCS.glob('project/*')]
    names = {path.relative_to(DOCS).with_suffix('').as_posix() for path in pages}
    assert names - {'index'} == set(listed) - {'api/index'}
    api = re.findall(r'^   (\w+)$', (DOCS / 'api/index.rst').read_text(), re.M)
    assert sorted([*api, 'index']) == sorted(path.stem for path in DOCS.glob('api/*'))


def test_pages_of_the_checkout_are_part_of_it():
    shown = {
        (path.parent / found).resolve()
        for path in DOCS.rglob('*.md')
        for found in re.findall(r'^```\{include\} (\S+)', path.read_text(), re.M)
    }
    outside = ('README.md', 'CHANGELOG.md', 'CONTRIBUTING.md', 'SECURITY.md', 'configs/README.md')
    assert shown == {ROOT / name for name in outside}


def test_every_public_name_is_in_the_api():
    from hime_mm.registry import own_types

    assert {'hime_mm.apis', 'hime_mm.ciphers', 'hime_mm.errors'} <= documented()
    names = set()
    for module in documented():
        module = __import__(module, fromlist=['x'])
        names.update(getattr(module, '__all__', ()))
    assert set(own_types()) <= names


# How conf.py treats links, on a checkout of three pages


@pytest.fixture
def checkout(tmp_path):
    front = '[other](docs/other.md#second-part) [self](#front) [code](tools/a.py) [folder](tools)'
    files = {
        'README.md': f'# Front\n\n{front}\n\n![picture](docs/p.png)\n\n> [!WARNING]\n> Look.\n',
        'docs/index.md': '```{include} ../README.md\n:relative-images:\n```\n\n'
        '```{toctree}\nother\n```\n',
        'docs/other.md': '# Other\n\n## Second part\n\n[front](../README.md) [code](../tools/a.py)',
        'tools/a.py': '',
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    shutil.copy(DOCS / 'conf.py', tmp_path / 'docs/conf.py')
    shutil.copy(DOCS / 'images/leakage.png', tmp_path / 'docs/p.png')
    return tmp_path


def small_site(checkout, *options):
    status, output = build(checkout / 'docs', checkout / 'site', *options)
    assert status == 0, output
    return [(checkout / f'site/{name}.html').read_text() for name in ('index', 'other')]


def test_links_between_pages(checkout):
    front, other = small_site(checkout)
    assert 'href="other.html#second-part"' in front and 'href="#front"' in front
    assert 'href="index.html"' in other
    assert re.search('<img [^>]*src="_images/p.png"', front)
    assert (checkout / 'site/_images/p.png').is_file()
    # There is no address of the repository: these are no links.
    assert 'tools' not in ''.join(re.findall('href="[^"]*"', front + other))
    assert re.search(r'class="admonition warning">.*?Look\.', front, re.S) and '[!' not in front


def test_links_to_the_repository(checkout):
    front, other = small_site(checkout, '-D', 'repository=https://forge.example/blob/main/')
    assert 'href="https://forge.example/blob/main/tools/a.py"' in front
    assert 'href="https://forge.example/blob/main/tools"' in front
    assert 'href="https://forge.example/blob/main/tools/a.py"' in other


@pytest.mark.parametrize(
    'link, words',
    [
        ('none.md', 'none.md'),
        pytest.param('../../outside.md', 'outside.md', marks=pytest.mark.slow),
        pytest.param('../README.md#none', 'none', marks=pytest.mark.slow),
    ],
)
def test_a_dead_link_fails_the_build(checkout, link, words):
    (checkout.parent / 'outside.md').touch()
    with open(checkout / 'docs/other.md', 'a') as file:
        file.write(f' [dead]({link})\n')
    status, output = build(checkout / 'docs', checkout / 'site')
    assert status != 0 and 'other.md' in output and words in output


# The site itself


@pytest.mark.slow
def test_the_site(tmp_path):
    status, output = build(DOCS, tmp_path / 'html')
    assert status == 0, output
    site = (tmp_path / 'html').resolve()
    pages = {path: Page(path) for path in site.rglob('*.html')}
    for name in toctree():
        assert site / f'{name}.html' in pages
    for module in (apis, ciphers):
        ids = pages[site / f'api/{module.__name__.split(".")[1]}.html'].ids
        elsewhere = {'InvalidKey'} | {name for name in module.__all__ if name.isupper()}
        for name in set(module.__all__) - elsewhere:
            assert f'{module.__name__}.{name}' in ids, name
    assert 'hime_mm.errors.InvalidKey' in pages[site / 'api/errors.html'].ids
    assert 'hime-encrypt-coco' in pages[site / 'cli.html'].ids
    for path, page in pages.items():
        for link in page.links + page.fetched:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                assert link in page.links and parts.scheme in ('http', 'https'), (path, link)
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            assert target.is_file() and site in target.parents, (path, link)
            if parts.fragment and target in pages:
                assert unquote(parts.fragment) in pages[target].ids, (path, link)
    for path in site.rglob('*.css'):
        outside = re.findall(r'(?:url\(|@import)\s*["\']?(?:https?:)?//[^)]*', path.read_text())
        assert not outside, path


# What the forge and pre-commit run


def workflow():
    return yaml.safe_load((ROOT / '.github/workflows/ci.yml').read_text())


def test_workflow_runs_the_make_targets():
    makefile = (ROOT / 'Makefile').read_text()
    (job,) = workflow()['jobs'].values()
    targets = [step['run'].removeprefix('make ') for step in job['steps'] if 'run' in step]
    assert set(targets) == {'env', 'test', 'test-slow', 'lint', 'docs'}
    for target in targets:
        assert re.search(rf'^{target}:', makefile, re.M), target
    setup = (ROOT / 'setup.py').read_text()
    supported = re.findall(r'Python :: (3\.\d+)', setup)
    assert job['strategy']['matrix']['python'] == supported


def test_workflow_may_only_read():
    assert workflow()['permissions'] == {'contents': 'read'}
    (job,) = workflow()['jobs'].values()
    assert 'permissions' not in job


def test_precommit_has_the_pinned_ruff():
    repos = yaml.safe_load((ROOT / '.pre-commit-config.yaml').read_text())['repos']
    (ruff,) = (repo for repo in repos if repo['repo'].endswith('/ruff-pre-commit'))
    pinned = re.search(r'^ruff==(\S+)$', (ROOT / 'requirements/constraints.txt').read_text(), re.M)
    assert ruff['rev'] == f'v{pinned[1]}'
    assert [hook['id'] for hook in ruff['hooks']] == ['ruff-check', 'ruff-format']
