# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Whether types of hime_mm resolve."""

from collections.abc import Iterator

from hime_mm.registry import own_types

from ..findings import Finding, error, validator
from ..plan import Plan


@validator
def types(plan: Plan) -> Iterator[Finding]:
    """Types of hime_mm have their prefix, and exist."""
    own = own_types()
    for node in plan.used:
        place = f'{node.place}.type'.lstrip('.')
        if node.name in own:
            yield error(
                place,
                f'is {node.name!r}, which does not resolve',
                f"types of hime_mm are written with their prefix, `type='hime_mm.{node.name}'`",
            )
        elif node.name == f'hime_mm.{node.short}' and node.short not in own:
            yield error(
                place,
                f'is {node.name!r}, but hime_mm has no such type',
                f'choose from {sorted(own)}',
            )
