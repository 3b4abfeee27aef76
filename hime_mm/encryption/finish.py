# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""The end of a run, when something has come of every picture."""

import os
from collections import Counter
from collections.abc import Iterator
from functools import partial

from tqdm import tqdm

from hime_mm.ciphers import Key
from hime_mm.datasets.writing import write_manifest
from hime_mm.images.reading import NOTICES

from .job import Job, Summary, add_counts
from .journal import Journal
from .report import write_report
from .source import Source


def finish(
    source: Source,
    job: Job,
    key: Key | None,
    journal: Journal,
    head: dict,
    summary: Summary,
    report: str | None,
    progress: bool,
) -> None:
    """Write the texts, the report and then the manifest: it is there when all else is.

    Args:
        source (Source): The source, with the names that its pictures get.
        job (Job): The run, with the id of the data set.
        key (Key, optional): The owner's key.
        journal (Journal): What came of every picture.
        head (dict): What the manifest says of the settings.
        summary (Summary): Gets what is counted.
        report (str, optional): Where the report is to be written.
        progress (bool): Show how far it is.
    """
    show = partial(tqdm, unit='image', disable=not progress)
    size, missing, noticed = 0, [], Counter[str]()
    for i, item in enumerate(show(source.items, 'count', leave=False)):
        outcome = journal[i]
        assert outcome is not None  # all are done
        if 'error' in outcome:
            missing.append(dict(path=job.target(item, 0), reason=outcome['error']))
            continue
        summary.files += len(outcome['rows'])
        size += sum(row['size'] for row in outcome['rows'])
        add_counts(summary.clipped, outcome.get('clipped', {}))
        noticed.update(outcome.get('noticed', ()))
        summary.telling += outcome.get('telling', 0)
    summary.noticed = {name: noticed[name] for name in NOTICES if noticed[name]}
    with show(desc='annotations', total=summary.images, leave=False) as bar:

        def outcome_of(i: int) -> dict | None:
            bar.update()
            return journal[i]

        annotations = source.write(job, outcome_of, summary)
    head = dict(
        head,
        dataset_id=job.dataset_id,
        counts=dict(
            images=summary.images,
            files=summary.files,
            bytes=size,
            skipped=len(missing),
            left_out=len(source.left_out),
        ),
        clipped={k: list(v) for k, v in summary.clipped.items()},
        skipped=missing,
        annotations=annotations,
        **({} if source.classes is None else dict(classes=source.classes)),
        **(dict(noticed=summary.noticed) if summary.noticed else {}),
    )

    def outcomes(title: str) -> Iterator[dict]:
        bar = show(range(summary.images), title, leave=title == 'manifest')
        return (journal[i] or {} for i in bar)

    if report is not None:  # before the manifest: what random names were of is known here only
        write_report(report, source, outcomes('report'), summary)
    if hasattr(os, 'sync'):
        with show(desc='sync: waiting for the disk', bar_format='{desc}', leave=False):
            os.sync()  # images were not waited for one by one
    rows = (row for outcome in outcomes('manifest') for row in outcome.get('rows', ()))
    write_manifest(job.out, head, rows, key)
