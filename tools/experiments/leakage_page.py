# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""The tables and the picture of docs/leakage.md, from the figures."""

import argparse
import json

from runs import ROOT

FIGURES = ROOT / 'hime_mm' / 'ciphers' / 'figures.json'
PAGE = ROOT / 'docs' / 'leakage.md'
#: Around the tables of the page.
BEGIN, END = '<!-- tables -->', '<!-- end of tables -->'
PICTURE = ROOT / 'docs' / 'images' / 'leakage.png'
#: Columns of tables.
METRICS = {
    'nc_component': 'neighbours put back',
    'lc_component': 'largest part',
    'ssim': 'SSIM',
    'psnr': 'PSNR, dB',
    'rank_1': 'original found',
}


def report(args: argparse.Namespace) -> None:
    """Write the tables into the page, and draw the picture."""
    state = json.loads(FIGURES.read_text())
    before, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(f'{before}{BEGIN}\n{tables(state)}{END}{rest.partition(END)[2]}')
    _draw(state)


def tables(state: dict) -> str:
    """The tables of the page."""
    lines = []
    for one in state['sets'].values():
        number = max(risk['pictures'] for row in one['ciphers'].values() for risk in row.values())
        grey = {
            metric: next(row[metric]['chance'] for row in one['ciphers'].values())
            for metric in ('ssim', 'psnr')
        }
        lines += [
            '',
            f'**{one["title"]}**, {number} pictures (a grey one: SSIM {grey["ssim"]:.2f}, PSNR '
            f'{grey["psnr"]:.1f} dB):',
            '',
        ]
        lines.append('| cipher | ' + ' | '.join(METRICS.values()) + ' |')
        lines.append('| --- |' + ' --- |' * len(METRICS))
        for text, row in one['ciphers'].items():
            cells = [cell(metric, row.get(metric)) for metric in METRICS]
            lines.append(f'| `{text}` | ' + ' | '.join(cells) + ' |')
    lines += linkage_table(state['linkage']) if 'linkage' in state else []
    lines += recognition_table(state['recognition']) if 'recognition' in state else []
    for one in state.get('readers', {}).values():
        lines += readers_table(one)
    return '\n'.join([*lines, '', ''])


def linkage_table(state: dict) -> list[str]:
    """The table of linkage.py."""
    copies = [*next(iter(state['rows'].values()))]
    return [
        '',
        f'**Originals found among copies of {state["gallery"]} pictures** (best of three attacks, '
        f'{state["pictures"]} COCO photos at 224x224, chance {100 / state["gallery"]:.1f} %):',
        '',
        '| cipher | ' + ' | '.join(copies) + ' |',
        '| --- |' + ' --- |' * len(copies),
        *(
            f'| `{text}` | ' + ' | '.join(f'{100 * row[copy]:.1f} %' for copy in copies) + ' |'
            for text, row in state['rows'].items()
        ),
    ]


def recognition_table(state: dict) -> list[str]:
    """The table of recognition.py."""
    kinds = {
        'ciphertexts': 'trained on encrypted pictures',
        'reconstructions': 'trained on reconstructions',
        'plain_on_reconstructions': 'trained on plain pictures, shown reconstructions',
    }
    return [
        '',
        f'**Classes told** of {state["pictures"]} pictures of {len(state["classes"])} classes, by '
        f'a classifier that was trained on {state["trained_on"]} others, with one seed (plain '
        f'pictures: {100 * state["plain"]:.1f} %, chance {100 * state["chance"]:.1f} %; in '
        'parentheses what is left of the difference of these; so few pictures are good for '
        f'± {98 / state["pictures"] ** 0.5:.0f} points):',
        '',
        '| cipher | ' + ' | '.join(kinds.values()) + ' | reconstructed by |',
        '| --- |' + ' --- |' * (len(kinds) + 1),
        *(
            f'| `{text}` | '
            + ' | '.join(
                f'{100 * row[kind]["accuracy"]:.1f} % ({row[kind]["relative"]:.2f})'
                if kind in row
                else ''
                for kind in kinds
            )
            + (f' | `{row["attack"]}` |' if row['attack'] else ' | |')
            for text, row in state['rows'].items()
        ),
    ]


#: Of readers: what stands above a column, by metric.
READ = {'face_found': 'found', 'face_recognised': 'recognised', 'text_read': 'read'}


def readers_table(state: dict) -> list[str]:
    """One table of readers.py: what was read at each stage, with its control."""
    first = next(iter(state['rows'].values()))
    columns = [
        (stage, metric)
        for stage in ('encrypted', 'reconstructed')
        for metric in READ
        if metric in first[stage]
    ]
    plain = ', '.join(
        f'{"with text" if metric == "text_read" else READ[metric]} {100 * one["mean"]:.1f} %'
        for metric, one in first['original'].items()
    )
    pictures = max(one['pictures'] for one in first['original'].values())
    return [
        '',
        f'**Read by machines: {state["title"]}** ({pictures} attacked; plain: {plain}; in brackets '
        'the 95 % interval, behind the stroke the control):',
        '',
        '| cipher | ' + ' | '.join(f'{stage}: {READ[m]}' for stage, m in columns) + ' |',
        '| --- |' + ' --- |' * len(columns),
        *(
            f'| `{text.partition("@")[0]}`{_sized(text)} | '
            + ' | '.join(_read(row[stage].get(metric)) for stage, metric in columns)
            + ' |'
            for text, row in state['rows'].items()
        ),
    ]


def _sized(text: str) -> str:
    side = text.partition('@')[2]
    return f', {side}x{side}' if side else ''


def _read(figure: dict | None) -> str:
    if figure is None:
        return ''
    mean, low, high, control = (
        None if figure[key] is None else f'{100 * figure[key]:.1f}'
        for key in ('mean', 'low', 'high', 'control')
    )
    between = f' [{low}, {high}]' if low is not None else ''
    text = f'{mean} %{between} / {control}'
    return text if figure['counts'] or figure['counts'] is None else f'({text})'


def cell(metric: str, figure: dict | None) -> str:
    if figure is None:
        return ''
    text = f'{100 * figure["mean"]:.1f} %'
    if metric in ('psnr', 'ssim'):
        text = f'{figure["mean"]:.{1 if metric == "psnr" else 2}f}'
    return text if figure['counts'] else f'({text})'


def _draw(state: dict) -> None:
    """Neighbours put back, and likeness of the reconstruction, of every cipher."""
    import matplotlib

    matplotlib.use('Agg')
    import matplotlib.pyplot as plt

    rows = state['sets']['coco']['ciphers']
    names = [name for name in rows if 'nc_component' in rows[name] and '/' not in name]
    names.sort(key=lambda name: rows[name]['nc_component']['mean'])
    fig, axes = plt.subplots(1, 2, figsize=(10, 0.24 * len(names) + 1), sharey=True)
    for axis, metric, title in zip(
        axes,
        ('nc_component', 'ssim'),
        ('share of neighbouring patches put back', 'likeness of the reconstruction (SSIM)'),
        strict=True,
    ):
        risks = [rows[name][metric] for name in names]
        means = [risk['mean'] for risk in risks]
        errors = [
            [risk['mean'] - risk['low'] for risk in risks],
            [risk['high'] - risk['mean'] for risk in risks],
        ]
        axis.barh(names, means, xerr=errors, color='#4477aa', ecolor='#222222', height=0.7)
        for y, risk in enumerate(risks):
            for value, color in ((risk['control'], '#cc3311'), (risk['chance'], '#999999')):
                axis.plot([value] * 2, [y - 0.35, y + 0.35], color=color, lw=2)
        axis.set_xlim(0, 1)
        axis.set_ylim(-0.6, len(names) - 0.4)
        axis.set_xlabel(title, fontsize=9)
        axis.tick_params(labelsize=8)
        axis.grid(axis='x', alpha=0.3)
    fig.tight_layout()
    fig.savefig(PICTURE, dpi=110)
