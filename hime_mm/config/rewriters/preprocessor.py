# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What data preprocessors take off, and divide by."""

from ..hosts import CONCATENATING, LAST_STRIDE
from ..plan import Node
from .job import Job

#: Of images whose patches have lost their means, in grey levels.
MEAN, STD = 128.0, 40.0


def adapt_preprocessor(job: Job) -> None:
    """Normalize images without means by their own statistics, and keep batches divisible.

    Weights that take images as they are, with a standard deviation of 1, keep it.
    Pipelines that pad to whole strides of the network do so in plain pixels: where
    images shrink, the batch is padded.
    """
    if any(step.removes_means for step in job.cipher.steps):
        for node in preprocessors(job):
            mean, std = node.value.get('mean'), node.value.get('std')
            if mean:
                node.value['mean'] = _measured(job, 'mean', MEAN, len(mean))
            if any(one != 1 for one in std or ()):
                node.value['std'] = _measured(job, 'std', STD, len(std))
    neck = job.model.child('neck', job.model.value.get('neck'))
    if job.ratio != 1 and neck.short in CONCATENATING:
        node = preprocessors(job)[-1]
        node.value['pad_size_divisor'] = max(LAST_STRIDE, node.value.get('pad_size_divisor', 1))


def _measured(job: Job, name: str, usual: float, channels: int) -> list[float]:
    """What the data set says whose cipher this is, or the usual; alike for all channels."""
    values = job.statistics.get(name)
    value = usual if values is None else round(sum(values) / len(values), 1)
    return [value] * channels


def preprocessors(job: Job) -> list[Node]:
    """The model's, and the one within it if that has branches."""
    outer = job.plan.preprocessor
    inner = outer.child('data_preprocessor', outer.value.get('data_preprocessor'))
    return [outer, inner] if inner.value else [outer]
