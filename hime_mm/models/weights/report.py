# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What became of every tensor."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from mmengine.logging import MMLogger

from .formats import describe_format

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Entry:
    """What became of one tensor, and why.

    Without `src_name` the model keeps what it started with, without `target`
    the tensor was dropped.
    """

    src_name: str | None = None
    src_shape: Shape | None = None
    target: str | None = None
    target_shape: Shape | None = None
    why: str = ''

    def __str__(self) -> str:
        ends = ((self.src_name, self.src_shape), (self.target, self.target_shape))
        text = ' -> '.join(f'{name} {shape}' for name, shape in ends if name)
        return f'{text}: {self.why}' if self.why else text


@dataclass
class ConversionReport:
    """What became of every tensor of a checkpoint and of a model.

    Attributes:
        format (str): A key of :data:`FORMATS`.
        mapped (list[Entry]): Taken over value by value.
        resized (list[Entry]): Taken over in another shape: positions on
            another grid, some rows of a table, another number of axes.
        dropped (list[Entry]): Left out of the model.
        initial (list[Entry]): Of the model, as it was initialised.
        notes (list[str]): What else should be known.
    """

    format: str
    mapped: list[Entry] = field(default_factory=list)
    resized: list[Entry] = field(default_factory=list)
    dropped: list[Entry] = field(default_factory=list)
    initial: list[Entry] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [describe_format(self.format)]
        for title, entries in (
            ('mapped', self.mapped),
            ('resized or selected', self.resized),
            ('dropped', self.dropped),
            ('left at initial values', self.initial),
        ):
            lines.append(f'{title}: {len(entries)}')
            lines += [f'  {entry}' for entry in entries]
        return '\n'.join(lines + [f'note: {note}' for note in self.notes])

    def log(self) -> None:
        """Log all but what was simply taken over."""
        logger = MMLogger.get_current_instance()
        logger.info(
            f'Weights of {describe_format(self.format)}: {len(self.mapped)} tensors taken over.'
        )
        for verb, entries in (
            ('Resized', self.resized),
            ('Dropped', self.dropped),
            ('Left as initialised', self.initial),
        ):
            for entry in entries:
                logger.info(f'{verb}: {entry}')


def log_gaps(origin: str, missing: Sequence[str], dropped: Sequence[str]) -> None:
    """Log what a checkpoint lacks, and what of it has no place."""
    logger = MMLogger.get_current_instance()
    for log, what, names in (
        (logger.info, f'Dropped from {origin}, as this model has no such parts', dropped),
        (logger.warning, f'Missing in {origin}, and left as initialised', missing),
    ):
        if names:
            rest = len(names) - 20
            more = f' and {rest} more' if rest > 0 else ''
            log(f'{what}: {", ".join(names[:20])}{more}.')
