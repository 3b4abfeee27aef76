# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""An encrypted data set in words."""

from hime_mm.ciphers.figures import whole
from hime_mm.datasets.manifest import Manifest
from hime_mm.errors import ManifestError
from hime_mm.images.reading import NOTICES


def describe_dataset(manifest: Manifest) -> str:
    """Say in lines what an owner or an engineer wants to know of a data set.

    Args:
        manifest (Manifest): Of the data set.

    Returns:
        str: For people to read; no part of it is an interface.

    Raises:
        ManifestError: If the manifest lacks something.
    """
    return '\n'.join(describe_lines(manifest))


def describe_lines(manifest: Manifest) -> list[str]:
    """The lines of :func:`describe_dataset`, whatever the texts in the manifest hold."""
    try:
        return _described(manifest)
    except KeyError as error:
        raise ManifestError(f'{manifest.place} lacks {error}') from None


def _described(manifest: Manifest) -> list[str]:
    state, cipher = manifest.state, manifest.cipher
    counts = state['counts']
    sizes = {entry.shape for entry in manifest.entries()}
    heights = sorted(h for h, _ in sizes) or [0]
    widths = sorted(w for _, w in sizes) or [0]
    side = cipher.encrypted_patch_size
    how = f'with the key {manifest.key_id}'
    if manifest.key_id is None:
        how = (
            'without a key: the cipher draws no randomness'
            if state['mode'] == 'keyless'
            else 'one-way: nothing was kept that could undo it'
        )
    lines = [
        f'data set     {manifest.root}, id {manifest.dataset_id}, '
        f'{state["kind"]}, by hime_mm {state["tool_version"]}',
        f'cipher       {cipher}, patches of {cipher.patch_size} pixels',
        f'encrypted    {how}',
        f'images       {counts["images"]} pictures, {counts["files"]} files '
        f'({state["views"]} per picture), {counts["bytes"] / 1e6:.1f} MB, '
        f'{state["image_format"]["format"]}',
        f'sizes        {heights[0]} to {heights[-1]} high, {widths[0]} to {widths[-1]} wide',
        'undo         '
        + (
            'every step, with the key'
            if cipher.invertible
            else 'not possible: '
            + ', '.join(str(s) for s in cipher.steps if not s.invertible)
            + ' deletes data'
        ),
    ]
    if counts['skipped']:
        lines.append(f'missing      {counts["skipped"]} pictures could not be encrypted')
    for step, (num_clipped, total) in state['clipped'].items():
        lines.append(
            f'clipped      {100 * num_clipped / max(total, 1):.3f} % of the values, by {step}'
        )
    if manifest.statistics:
        mean, std = (
            ', '.join(f'{one:.1f}' for one in manifest.statistics[name]) for name in ('mean', 'std')
        )
        lines.append(f'normalize    mean {mean} and std {std} of red, green and blue')
    if manifest.classes:
        lines.append(f'folders      {_numbers(manifest.classes)}')
    noticed = state.get('noticed', {})
    if noticed:
        found = ', '.join(f'{noticed[name]} {name}' for name in NOTICES if name in noticed)
        lines.append(f'noticed      pictures: {found}')
    for row in manifest.annotations:
        objects = '' if row['kind'] != 'coco' else f', {row["annotations"]} objects'
        lines.append(f'annotations  {row["path"]}: {row["images"]} images{objects}')
    if state['image_format']['format'] == 'webp' and state['kind'] == 'folder':
        lines.append(
            "format       MMPretrain's data sets find these files with extensions=('.webp', )"
        )
    lines.append('leaves readable, with that step alone:')
    for step in cipher.steps:
        lines.append(f'  {step}: {step.leaves}')
    if found := whole(str(cipher), cipher.patch_size):
        lines.append(f'with all of them: {found}')
    lines.append('of your own pictures: `hime audit` measures it')
    lines.append(
        'to train on it: hime_mm.LoadEncryptedMeta after '
        'LoadImageFromFile, no resizing, cropping or '
        f'recolouring; a backbone with patch_size={side}'
        + (' and no learned positions' if cipher.shuffles else '')
    )
    lines.append(
        "  default_hooks=dict(encryption=dict(type='hime_mm.EncryptionCheckHook')) in the config "
        'checks every run'
    )
    return lines


def _numbers(classes: dict[str, list[str]], most: int = 5) -> str:
    """How many folders, which are classes to MMPretrain, lie in each folder that has any."""
    texts = [
        f'{len(names)} in {"it" if folder == "." else folder}' for folder, names in classes.items()
    ]
    if len(texts) > most:
        texts[most:] = [f'{len(texts) - most} more have some']
    return ', '.join(texts) + "; to MMPretrain's data sets, the folders of one are its classes"
