# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""The site: ``make docs``.

Pages read on the forge as they do here: their links are paths in the checkout. A link to a page of
the site becomes one to that page, a link to anything else one to the repository.
"""

import re
import sys
from pathlib import Path

from docutils import nodes
from sphinx import addnodes
from sphinx.transforms import SphinxTransform
from sphinx.util import logging

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
sys.path.insert(0, str(ROOT))

from hime_mm.version import __version__  # noqa: E402

#: Where files of the checkout can be read, `https://forge/owner/hime_mm/blob/main`. While it is
#: empty, a link to a file that is no page is plain text.
REPOSITORY = ''

project = 'hime_mm'
author = copyright = 'hime_mm contributors'
version = release = __version__

extensions = [
    'myst_parser',
    'sphinx.ext.autodoc',
    'sphinx.ext.napoleon',
    'sphinx_click',
    'sphinx_copybutton',
]
exclude_patterns = ['_build']
default_role = 'literal'  # docstrings write code in single backticks

smartquotes_action = 'D'  # quotes are parts of names and values

html_theme = 'furo'
html_title = f'{project} {version}'
html_copy_source = html_show_sourcelink = False
copybutton_exclude = '.linenos, .gp, .go'

myst_heading_anchors = 6
myst_all_links_external = True  # RepositoryLinks takes them

autodoc_class_signature = 'mixed'
autodoc_member_order = 'groupwise'
autodoc_typehints = 'description'
autodoc_typehints_description_target = 'documented_params'
napoleon_numpy_docstring = False

nitpicky = True
# Types of other packages, whose pages a build without a network cannot know, and words that stand
# where a docstring has a type. What is written in full and is ours has to be there.
nitpick_ignore_regex = [('py:.*', r'(?!hime_mm\.).*')]

ALERT = re.compile(r'\[!(NOTE|TIP|IMPORTANT|WARNING|CAUTION)\]\s*')


def find_pages():
    """Return ``{file: name of the page}``; a page of `project/` shows a file from elsewhere."""
    pages = {}
    for path in DOCS.rglob('*.md'):
        included = re.search(r'^```\{include\} (\S+)', path.read_text(encoding='utf-8'), re.M)
        file = (path.parent / included[1]).resolve() if included else path
        pages[file] = path.relative_to(DOCS).with_suffix('').as_posix()
    return pages


class RepositoryLinks(SphinxTransform):
    """Follows relative links from the file that they stand in."""

    default_priority = 100

    def apply(self, **kwargs):
        pages = find_pages()
        for node in list(self.document.findall(nodes.reference)):
            uri = node.get('refuri', '')
            if not uri or re.match(r'[a-z]+:', uri):
                continue
            path, _, anchor = uri.partition('#')
            file = Path(node.source).resolve()
            file = (file.parent / path).resolve() if path else file
            if file in pages:
                node.replace_self(self.page(node, pages[file], anchor))
            elif not file.exists() or ROOT not in file.parents:
                logging.getLogger(__name__).warning('no such file: %s', uri, location=node)
            elif self.config.repository:
                base, path = self.config.repository.rstrip('/'), file.relative_to(ROOT).as_posix()
                node['refuri'] = f'{base}/{path}' + (anchor and f'#{anchor}')
            else:
                node.replace_self(node.children)

    def page(self, node, name, anchor):
        """Return a link to a page, which MyST resolves."""
        link = addnodes.pending_xref(
            refdomain='doc',
            reftype='myst',
            reftarget=name,
            reftargetid=anchor or None,
            refdoc=self.env.docname,
            refexplicit=True,
        )
        link.source, link.line = node.source, node.line
        link += nodes.inline('', '', *node.children, classes=['xref', 'myst'])
        return link


class Alerts(SphinxTransform):
    """Makes admonitions of quotes that begin with ``[!WARNING]``, as forges do."""

    default_priority = 100

    def apply(self, **kwargs):
        for quote in list(self.document.findall(nodes.block_quote)):
            text = next(quote.findall(nodes.Text), '')
            found = ALERT.match(text)
            if found:
                text.parent.replace(text, nodes.Text(text[found.end() :]))
                kind = getattr(nodes, found[1].lower())
                quote.replace_self(kind('', *quote.children))


def find_short(app, env, node, content):
    """Resolve a bare name such as ``Cipher``, wherever it is documented."""
    if node['refdomain'] != 'py' or not node['reftarget'][:1].isupper():
        return None
    node['refspecific'] = True
    return env.domains['py'].resolve_xref(
        env, node['refdoc'], app.builder, node['reftype'], node['reftarget'], node, content
    )


def setup(app):
    app.connect('missing-reference', find_short)
    app.add_config_value('repository', REPOSITORY, 'env', str)
    app.add_transform(RepositoryLinks)
    app.add_transform(Alerts)
    return dict(parallel_read_safe=True)
