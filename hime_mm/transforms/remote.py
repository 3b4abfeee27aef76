# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Encrypted data sets on a server or in a bucket, read as the hosts read images there.

A path is an URL, as ``s3://bucket/data/a.png``, or whatever else a backend of
MMEngine takes. It is never made a local path.
"""

import posixpath
from functools import cache
from typing import Any
from urllib.error import HTTPError
from urllib.parse import unquote

from mmengine.fileio import get_file_backend

from hime_mm.datasets.entries import FileEntry
from hime_mm.datasets.manifest import Manifest, parse_manifest
from hime_mm.datasets.writing import MANIFEST_NAME
from hime_mm.errors import ConfigError, ManifestError

#: What servers answer for a file that is not there; some do not say so to everybody.
_MISSING = (403, 404, 410)


def is_remote(path: str, backend_args: dict | None = None) -> bool:
    """Whether MMEngine reads a path by another backend than the local one."""
    name = (backend_args or {}).get('backend')
    return '://' in path if name is None else name != 'local'


def backend_of(path: str, backend_args: dict | None = None) -> Any:
    """The backend of MMEngine that reads a path, the same one each time.

    Raises:
        ConfigError: If there is none.
    """
    try:
        return get_file_backend(path, backend_args=backend_args, enable_singleton=True)
    except KeyError as error:
        raise ConfigError(
            f'MMEngine has no backend {error} for {path}: '
            '`mmengine.fileio.register_backend` adds one'
        ) from None


def load_remote(url: str, backend: Any) -> Manifest:
    """Read a manifest once per process.

    Args:
        url (str): The file, which ends with ``.json``, or the folder that it lies in.
        backend (:obj:`BaseStorageBackend`): What reads it.

    Raises:
        ManifestError: If it is missing, damaged or of another version.
    """
    head, parts = _split(url)
    if not parts[-1].endswith('.json'):
        url = head + '/'.join([*_folder(url), MANIFEST_NAME])
    manifest = _load(url, backend)
    if manifest is None:
        raise ManifestError(f'there is no manifest {url}')
    return manifest


def remote_entry(path: str, url: str | None, backend: Any) -> tuple[Manifest, FileEntry]:
    """The manifest of an image, and what it says of it.

    Args:
        path (str): The image.
        url (str, optional): As :func:`load_remote`'s. None takes the nearest
            ``hime.json`` above the image.
        backend (:obj:`BaseStorageBackend`): What reads both.

    Raises:
        ManifestError: If there is no manifest, or the image is not in it.
    """
    head, parts = _split(path)
    # The backend of hime_mm has read it for the picture.
    found = backend.find_manifest(path) if hasattr(backend, 'find_manifest') else None
    if url is None and found is not None:
        manifest, name = found
    elif url is None:
        manifest, depth = _nearest(path, backend)
        name = _names(head, parts[depth:])
    else:
        folder = _folder(url)
        depth = len(folder)
        if _split(url)[0] != head or _names(head, parts[:depth]) != _names(head, folder):
            raise ManifestError(f'{path} does not lie below the manifest {url}')
        manifest = load_remote(url, backend)
        name = _names(head, parts[depth:])
    entry = manifest.files.get(name)
    if entry is None:
        raise ManifestError(f'{path} is not in the manifest {manifest.place}')
    return manifest, entry


def _nearest(path: str, backend: Any) -> tuple[Manifest, int]:
    """The nearest manifest above an image, and in how many folders it lies."""
    head, parts = _split(path)
    for depth in range(len(parts) - 1, 0, -1):
        manifest = _load(head + '/'.join([*parts[:depth], MANIFEST_NAME]), backend)
        if manifest is not None:
            return manifest, depth
    raise ManifestError(
        f'no {MANIFEST_NAME} in {head}{"/".join(parts[:-1])} or above: this is no data set '
        'that `hime encrypt` made, or its manifest was left behind'
    )


def _is_web(head: str) -> bool:
    return head.lower() in ('http://', 'https://')


def _split(url: str) -> tuple[str, list[str]]:
    """What stands before the path, if anything, and what is between its slashes."""
    scheme, mark, rest = url.partition('://')
    if not mark:
        return '', url.split('/')
    if _is_web(scheme + mark):
        rest = rest.partition('#')[0].partition('?')[0]
    return scheme + mark, rest.split('/')


def _folder(url: str) -> list[str]:
    """The folder of a manifest, which is named by itself or by its folder."""
    parts = _split(url.rstrip('/'))[1]
    return parts[:-1] if parts[-1].endswith('.json') else parts


def _names(head: str, parts: list[str]) -> str:
    """The names that folders and files have where they lie."""
    path = '/'.join(parts)
    return posixpath.normpath(unquote(path)) if _is_web(head) else path


# All folders above images: a server is asked once for each.
@cache
def _load(url: str, backend: Any) -> Manifest | None:
    """The manifest, or None where there is no such file."""
    try:
        # Not all backends can tell.
        if hasattr(backend, 'exists') and not backend.exists(url):
            return None
        data = bytes(backend.get(url))
    except FileNotFoundError:
        return None
    except Exception as error:  # each backend has errors of its own
        if isinstance(error, HTTPError) and error.code in _MISSING:
            return None
        raise ManifestError(
            f'cannot read the manifest {url}: {type(error).__name__}: {error}'
        ) from error
    folder = url.rpartition('/')[0]
    return parse_manifest(data, url, lambda path: bytes(backend.get(f'{folder}/{path}')))
