# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What a config will run, as far as encryption is concerned.

Nodes are the very parts of the config, so that a rewriter can edit them.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config.lazy import LazyAttr, LazyObject

from hime_mm.ciphers import Cipher
from hime_mm.datasets.manifest import Manifest
from hime_mm.registry import heirs, own_types

from .findings import Finding

#: Phases that predict.
EVALUATION = ('val', 'test', 'tta')


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
        """type | None: The class of hime_mm that it is of, or a user's derived from one."""
        types = own_types() if self.name.startswith('hime_mm.') else heirs()
        return types.get(self.short)

    def is_a(self, kind: type) -> bool:
        """Whether it is of such a class of hime_mm, or of one derived from it."""
        return issubclass(self.own or object, kind)

    def is_named(self, name: str) -> bool:
        """Whether it is of the type of hime_mm of this name, or of one derived from it."""
        kind = own_types().get(name.rpartition('.')[2])
        return kind is not None and self.is_a(kind)

    def child(self, key: Any, value: Any) -> 'Node':
        """The node of one of its entries."""
        return Node(f'{self.place}.{key}'.lstrip('.'), value, self.value, key)

    def children(self) -> 'Iterator[Node]':
        """The nodes of all entries of a dict or a list."""
        items: Iterable[tuple[Any, Any]] = ()
        if isinstance(self.value, dict):
            # As they stand: a config's own `items` would import what is lazy.
            items = dict.items(self.value)
        elif isinstance(self.value, (list, tuple)):
            items = enumerate(self.value)
        for key, value in items:
            yield self.child(key, value)

    def walk(self) -> 'Iterator[Node]':
        """All dicts in it, outer ones first."""
        if isinstance(self.value, dict):
            yield self
        for child in self.children():
            yield from child.walk()


@dataclass(frozen=True, eq=False)
class Use(Node):
    """A transform or data preprocessor, and the cipher of what it gives."""

    cipher: Cipher | None = None  #: None if it makes no sense, or is not known yet.
    manifest: Manifest | None = None  #: Of a data set that is encrypted already.
    coordinates: str | None = None  #: For such a data set.
    phase: str = ''  #: Of its pipeline.

    @property
    def online(self) -> bool:
        """bool: Whether it is given plain images."""
        return self.coordinates is None

    @property
    def origin(self) -> str:
        """str: The cipher, and the file that says so."""
        file = f' of {self.manifest.place}' if self.manifest is not None else ''
        return f'{self.cipher!r}{file}'

    @property
    def description(self) -> str:
        """str: The cipher, and where it comes from."""
        return f'`{self.place}`, {self.origin}'

    def is_for(self, phase: str) -> bool:
        """Whether a pipeline of such a phase has it."""
        return self.phase == phase

    @property
    def moves_boxes(self) -> bool:
        """bool: Whether boxes are where nobody but the key holder can map them back."""
        travel = self.value.get('box_mode', 'patch') == 'patch'
        return (
            self.cipher is not None
            and self.cipher.shuffles
            and (travel if self.online else self.coordinates == 'encrypted')
        )


@dataclass(frozen=True, eq=False)
class Pipeline(Node):
    """A list of transforms: of a data set, a wrapper, a hook or another transform."""

    #: ``'train'``, ``'val'`` or ``'test'`` in a loader, ``'tta'`` for test-time
    #: augmentation, ``'switch'`` in a hook; '' elsewhere.
    phase: str = ''
    folder: str | None = None  #: Where the images lie that it gets.
    steps: tuple[Node, ...] = ()  #: Its transforms.
    loads: tuple[Use, ...] = ()  #: Those that load what is encrypted already.
    encrypts: tuple[Use, ...] = ()  #: Those that encrypt.


@dataclass(frozen=True, eq=False)
class Way:
    """What the images of one data set go through, up to the model."""

    phase: str  #: As that of a pipeline.
    place: str  #: Of the pipeline by which it differs from others.
    lines: tuple[Node, ...]  #: Its pipelines in the order in which they run.
    steps: tuple[Node, ...]  #: Their transforms, without those that do not run.
    data: Node  #: The data set, within all wrappers.
    folder: str | None = None  #: Where its images lie.
    note: str = ''  #: Why transforms do not run.
    manifest: Path | None = None  #: That to which the folder belongs.
    uses: tuple[Use, ...] = ()  #: All that encrypts or loads what is encrypted, in order.
    #: What encrypts the images: some may take another branch than others. None
    #: stands for nothing.
    ends: tuple[Use | Path | None, ...] = (None,)

    @property
    def loads(self) -> tuple[Use, ...]:
        """tuple[Use]: What loads images that are encrypted already."""
        return tuple(use for use in self.uses if not use.online)

    @property
    def encrypts(self) -> tuple[Use, ...]:
        """tuple[Use]: What encrypts."""
        return tuple(use for use in self.uses if use.online)

    @property
    def encrypted_by(self) -> str | None:
        """str | None: In words, what encrypts at least some of the images."""
        end = next((end for end in self.ends if end is not None), None)
        if isinstance(end, Use):
            return f'`{end.place}` {"encrypts" if end.online else "loads encrypted ones"}'
        return end and f'{self.folder}, of `{self.place}`, belongs to {end}'


@dataclass(frozen=True, eq=False)
class Plan:
    """A config as validators and rewriters see it."""

    nodes: tuple[Node, ...]  #: Every dict of the config, outer ones first.
    used: tuple[Node, ...]  #: Those of which a run makes something.
    pipelines: tuple[Pipeline, ...]  #: All that a run can use.
    ways: tuple[Way, ...]  #: Of the images of each data set, in each phase.
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

    def metrics(self, phase: str) -> list[Node]:
        """Metrics that judge what is predicted in a phase."""
        prefix = f'{dict(tta="test").get(phase, phase)}_evaluator'
        return [one for one in self.evaluators if one.place.partition('.')[0] == prefix]

    def find(self, place: str) -> Node:
        """The dict at a place; an empty one where there is none."""
        return find(self.nodes, place)

    def holds(self, place: str, kind: type) -> bool:
        """Whether there is such a transform of ours at or below a place."""
        return any(
            node.is_a(kind) for node in self.used if f'{node.place}.'.startswith(f'{place}.')
        )


def find(nodes: Iterable[Node], place: str) -> Node:
    """The node at a place; an empty one where there is none."""
    return next((node for node in nodes if node.place == place), Node(place, {}))
