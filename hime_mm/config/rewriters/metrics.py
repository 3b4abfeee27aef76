# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Metrics of boxes that have travelled with their patches."""

from ..hosts import ORIGINAL_METRIC
from .job import Job


def adapt_metrics(job: Job) -> None:
    """Judge boxes where they belong, in the original, if patches move.

    A test on several views of each image is left out then: each has a permutation
    of its own, so that their boxes cannot be merged.
    """
    detects = [node for node in job.plan.evaluators if node.short == 'CocoMetric']
    if not job.cipher.shuffles or not detects:
        return
    for node in detects:
        node.value['type'] = ORIGINAL_METRIC
    root = job.plan.find('').value
    for key in ('tta_model', 'tta_pipeline'):
        root.pop(key, None)
