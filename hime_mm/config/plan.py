# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What a config will run, as far as encryption is concerned.

Nodes are the very parts of the config, so that a rewriter can edit them.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from mmengine.config.lazy import LazyAttr, LazyObject

from hime_mm.ciphers import Cipher
from hime_mm.datasets.manifest import Manifest
from hime_mm.datasets.writing import MANIFEST_NAME
from hime_mm.registry import own_types

from .findings import Finding


@dataclass(frozen=True, eq=False)
class Node:
    """A part of a config, and where it stands."""

    place: str  #: Dotted path.
    value: Any  #: The part; an empty dict where the config has none.
    owner: Any = None  #: The dict or list that holds it, under its key.
    key: Any = None

    @property
    def name(self) -> str:
        """str: The type, be it a string, a class or a lazy import."""
        # A lazy import stays one.
        kind = dict.get(self.value, 'type', '') if isinstance(self.value, dict) else ''
        if isinstance(kind, str):
            return kind
        if isinstance(kind, (LazyAttr, LazyObject)):
            return f'{kind.module}.{kind}'
        return f'{getattr(kind, "__module__", "")}.{getattr(kind, "__name__", kind)}'

    @property
    def short(self) -> str:
        """str: The type without prefix."""
        return self.name.rpartition('.')[2]

    @property
    def own(self) -> type | None:
        """type | None: The class of hime_mm that it is of."""
        return own_types().get(self.short) if self.name.startswith('hime_mm.') else None

    def is_a(self, kind: type) -> bool:
        """Whether it is of such a class of hime_mm."""
        return issubclass(self.own or object, kind)

    def child(self, key: Any, value: Any) -> 'Node':
        """The node of one of its entries."""
        return Node(f'{self.place}.{key}'.lstrip('.'), value, self.value, key)


@dataclass(frozen=True, eq=False)
class Use(Node):
    """A transform or data preprocessor, and the cipher of what it gives."""

    cipher: Cipher | None = None  #: None if it makes no sense, or is not known yet.
    manifest: Manifest | None = None  #: Of a data set that is encrypted already.
    coordinates: str | None = None  #: For such a data set.

    @property
    def online(self) -> bool:
        """bool: Whether it is given plain images."""
        return self.coordinates is None

    @property
    def description(self) -> str:
        """str: The cipher, and where it comes from."""
        file = f' of {self.manifest.root / MANIFEST_NAME}' if self.manifest is not None else ''
        return f'`{self.place}`, {self.cipher!r}{file}'

    def is_for(self, phase: str) -> bool:
        """Whether it is in a data loader's pipeline."""
        return self.place.startswith(f'{phase}_dataloader.')


@dataclass(frozen=True, eq=False)
class Pipeline(Node):
    """A list of transforms: of a data set, a wrapper, a hook or a variable."""

    steps: tuple[Node, ...] = ()  #: Its transforms.
    loads: tuple[Use, ...] = ()  #: Those that load what is encrypted already.
    encrypts: tuple[Use, ...] = ()  #: Those that encrypt.

    @property
    def of_data(self) -> bool:
        """bool: Whether a data set, or a wrapper of one, runs it."""
        return self.place.endswith('.pipeline')

    @property
    def image_folder(self) -> str | None:
        """str | None: Where the images of its data set lie."""
        node = self.owner
        while isinstance(node.get('dataset'), dict):
            node = node['dataset']
        # The variables of a config file are no data sets.
        if '.' not in self.place or not {'data_root', 'data_prefix', 'ann_file'} & set(node):
            return None
        prefix = node.get('data_prefix') or ''
        if isinstance(prefix, dict):
            prefix = prefix.get('img') or prefix.get('img_path') or ''
        # As MMPretrain's ImageNet has it.
        prefix = prefix or node.get('split') or ''
        return os.path.expanduser(os.path.join(node.get('data_root') or '', prefix))


@dataclass(frozen=True, eq=False)
class Plan:
    """A config as validators and rewriters see it."""

    nodes: tuple[Node, ...]  #: Every dict of the config, outer ones first.
    pipelines: tuple[Pipeline, ...]  #: All that a run can use.
    preprocessor: Node  #: The data preprocessor that the model will have.
    device: Use | None  #: The same, where it encrypts.
    backbone: Node  #: Within the wrapper of test-time augmentation, if there is one.
    patch_size: int | None  #: Of the backbone; None if that is no plain ViT.
    augments: tuple[Node, ...]  #: Of batches.
    evaluators: tuple[Node, ...]  #: Metrics of validation and test.
    hooks: tuple[Node, ...]  #: Default and custom ones.
    findings: tuple[Finding, ...]  #: What could not be read.

    @property
    def uses(self) -> tuple[Use, ...]:
        """tuple[Use]: The ciphers of what models see."""
        if self.device is not None:
            return (self.device,)
        return tuple(use for line in self.pipelines for use in line.loads + line.encrypts)

    def find(self, place: str) -> Node:
        """The dict at a place; an empty one where there is none."""
        return find(self.nodes, place)

    def holds(self, place: str, kind: type) -> bool:
        """Whether there is such a transform of ours at or below a place."""
        return any(
            node.is_a(kind) for node in self.nodes if f'{node.place}.'.startswith(f'{place}.')
        )

    def wraps(self, line: Pipeline, kind: type) -> bool:
        """Whether a wrapper's pipeline gets what such a transform gives."""
        place, _, key = line.place.rpartition('.')
        return key == 'pipeline' and self.holds(f'{place}.dataset'.lstrip('.'), kind)


def find(nodes: Iterable[Node], place: str) -> Node:
    """The node at a place; an empty one where there is none."""
    return next((node for node in nodes if node.place == place), Node(place, {}))
