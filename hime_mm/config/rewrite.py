# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Changes of a config, made in place on the nodes of its plan.

Each gives warnings of what it did. The plan stays that of the config before.
"""

from .findings import Finding, warning
from .hosts import CALLED, HOOK_OPTIONS, SAFE_HOOK
from .plan import Plan
from .validators.evaluation import harmful_hooks


def replace_hooks(plan: Plan) -> list[Finding]:
    """Replace default hooks that would draw on the files of the data set."""
    done = []
    for hook, effect in harmful_hooks(plan, 'default_hooks'):
        kept = {key: hook.value[key] for key in HOOK_OPTIONS if key in hook.value}
        hook.owner[hook.key] = dict(type=SAFE_HOOK, **kept)
        done.append(
            warning(hook.place, f'is {hook.name}, which {effect}', f'replaced by {SAFE_HOOK}')
        )
    return done


def drop_scopes(plan: Plan) -> list[Finding]:
    """Take out what inheritance leaves where it becomes an argument that no function has."""
    done = []
    for node in plan.nodes:
        if node.key in CALLED and '_scope_' in node.value:
            del node.value['_scope_']
            text = 'has inherited `_scope_`, which MMEngine would pass on as an argument'
            remedy = (
                f'taken out; for other tools override it with `{node.key}=dict(_delete_=True, …)`'
            )
            done.append(warning(node.place, text, remedy))
    return done
