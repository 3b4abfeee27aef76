# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Keys of data owners, and the randomness that is derived from them.

``docs/format.md`` specifies every derivation byte by byte.
"""

import errno
import hashlib
import hmac
import os
import re
import stat
import struct

from cryptography.hazmat.primitives.ciphers import Cipher as _StreamCipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from hime_mm.errors import InvalidKey

#: Environment variable that is read where no key is named.
KEY_ENV = 'HIME_KEY'

_KEY_BYTES = 32
_PREFIX = 'hime-key-v1:'
_TEXT = re.compile(rf'(?:{_PREFIX})?([0-9a-fA-F]{{{2 * _KEY_BYTES}}})')
# A key, most of one, or more than one; ids and hashes are often shorter.
_LIKE = re.compile(rf'(?:{_PREFIX}.*|[0-9a-fA-F]{{48,}})')
#: Longer than any key text: nothing more is read.
_MAX_TEXT = 256


def _pack(*parts: str) -> bytes:
    """Strings as UTF-8, each after its length, so that no two lists agree."""
    packed = b''
    for part in parts:
        data = part.encode()
        packed += struct.pack('>I', len(data)) + data
    return packed


def looks_like_key(text: str) -> bool:
    """Whether a text, such as a command's argument, may be a key or a part of one.

    No message may show such a text.
    """
    return bool(_LIKE.fullmatch(text.strip()))


def _check_place(place: str, what: str) -> None:
    """Refuse a key given in place of where to find it.

    Every message about that place would show it.
    """
    if looks_like_key(os.fsdecode(place)):
        raise InvalidKey(
            f'a key itself was given where {what} is expected: '
            'make a new key if others may have seen this one'
        )


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, 'O_NONBLOCK', 0))


class KeyStream:
    """The ChaCha20 key stream (RFC 8439) of a 32-byte key, from its first block on.

    The number of the stream is the nonce.
    """

    def __init__(self, key: bytes, number: int) -> None:
        # 32 bits of block counter, then the nonce; all little-endian.
        nonce = bytes(4) + number.to_bytes(12, 'little')
        self._encryptor = _StreamCipher(ChaCha20(key, nonce), mode=None).encryptor()

    def read(self, num: int) -> bytes:
        """The next ``num`` bytes."""
        return self._encryptor.update(bytes(num))

    def __reduce__(self):
        raise TypeError('a key stream is secret and is not pickled')


class ImageRNG:
    """All randomness of one image under a key.

    Each step of a cipher reads a stream of its own, which also depends on the
    whole cipher: two ciphers never share a permutation.

    Args:
        key (Key): The owner's key.
        dataset_id (str): Identifies the data set.
        image_id (str): Identifies the image in it.
    """

    #: Stream number of the owner's augmentation; steps count from 0.
    AUGMENT = 255

    def __init__(self, key: 'Key', dataset_id: str, image_id: str) -> None:
        self._key = key
        self.dataset_id = dataset_id
        self.image_id = image_id

    def stream(self, cipher: str, number: int, scope: str) -> KeyStream:
        """The key stream of a step, from its beginning.

        Args:
            cipher (str): :attr:`~hime_mm.ciphers.Cipher.canonical` of the
                cipher.
            number (int): Index of the step in it.
            scope (str): ``'image'``, or ``'dataset'`` for randomness that all
                images of the data set share.

        Returns:
            KeyStream: Read from its first byte on.
        """
        names = [self.dataset_id, cipher]
        if scope == 'image':
            names.append(self.image_id)
        return KeyStream(self._key.derive(scope, *names), number)

    def augmentation(self, cipher: str) -> KeyStream:
        """The key stream of the owner's augmentation before encryption."""
        return self.stream(cipher, self.AUGMENT, 'image')


class Key:
    """32 secret bytes of a data owner.

    Neither ``repr`` nor a pickle, nor any error, shows them.

    Args:
        secret (bytes): The 32 bytes.

    Raises:
        InvalidKey: If they are not 32 bytes.

    Examples:
        >>> from hime_mm.ciphers import Key
        >>> key = Key.generate()
        >>> key
        Key(id='...')
    """

    __slots__ = ('_secret',)

    def __init__(self, secret: bytes) -> None:
        if not isinstance(secret, (bytes, bytearray)):
            raise TypeError(f'a key is made of bytes, not of {type(secret).__name__}')
        if len(secret) != _KEY_BYTES:
            raise InvalidKey(f'a key has {_KEY_BYTES} bytes, got {len(secret)}')
        self._secret = bytes(secret)

    @classmethod
    def generate(cls) -> 'Key':
        """A new key from the operating system's random generator."""
        return cls(os.urandom(_KEY_BYTES))

    @classmethod
    def _parse(cls, text: str, place: str) -> 'Key':
        match = _TEXT.fullmatch(text.strip())
        if match is None:
            # Without the text, and without the exception's chain, which
            # might quote it.
            raise InvalidKey(
                f'{place} does not hold a key: expected one line '
                f'"{_PREFIX}" followed by {2 * _KEY_BYTES} hexadecimal '
                'digits, as `hime keygen` writes it'
            )
        return cls(bytes.fromhex(match[1]))

    @classmethod
    def from_file(cls, path: str) -> 'Key':
        """Read a key file.

        Args:
            path (str): The file, readable by its owner only.

        Returns:
            Key: The key.

        Raises:
            InvalidKey: If the file is missing, readable by others, or holds no
                key.
        """
        _check_place(path, 'the name of a key file')
        try:
            # Not waiting for somebody to write into a pipe, which is refused below.
            file = open(path, 'rb', opener=_open_at_once)  # noqa: SIM115
        except OSError as error:
            raise InvalidKey(
                f'cannot read the key file {path}: {error.strerror}; `hime keygen` makes a new key'
            ) from None
        # One open file, so that what is checked is what is read.
        with file:
            info = os.fstat(file.fileno())
            if not stat.S_ISREG(info.st_mode):
                raise InvalidKey(
                    f'the key file {path} is no regular file: a pipe, as <(...) makes one, is '
                    'read by the number of its descriptor with `Key.from_fd`'
                )
            if os.name == 'posix' and info.st_mode & 0o077:
                raise InvalidKey(
                    f'the key file {path} has the mode '
                    f'{stat.S_IMODE(info.st_mode):04o}, so others than its '
                    f'owner may use it: run `chmod 600 {path}`, and make a '
                    'new key if somebody may have read it'
                )
            data = file.read(_MAX_TEXT)
        return cls._parse(data.decode('ascii', 'replace'), f'the key file {path}')

    @classmethod
    def from_env(cls, name: str = KEY_ENV) -> 'Key':
        """Read a key from an environment variable.

        Args:
            name (str): Its name. Defaults to 'HIME_KEY'.

        Returns:
            Key: The key.

        Raises:
            InvalidKey: If the variable is not set or holds no key.
        """
        _check_place(name, 'the name of an environment variable')
        text = os.environ.get(name)
        if text is None:
            raise InvalidKey(f'the environment variable {name} is not set')
        return cls._parse(text, f'the environment variable {name}')

    @classmethod
    def from_fd(cls, fd: int) -> 'Key':
        """Read a key from an open file descriptor, such as a pipe.

        Args:
            fd (int): Its number; it stays open.

        Returns:
            Key: The key.

        Raises:
            InvalidKey: If it cannot be read or holds no key.
        """
        try:
            if abs(fd) >= 1 << 31:  # a TypeError or OverflowError
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            with os.fdopen(fd, 'rb', closefd=False) as file:
                data = file.read(_MAX_TEXT)
        except (OSError, ValueError) as error:
            # A negative number is a ValueError.
            reason = getattr(error, 'strerror', error)
            raise InvalidKey(f'cannot read a key from file descriptor {fd}: {reason}') from None
        return cls._parse(data.decode('ascii', 'replace'), f'file descriptor {fd}')

    def save(self, path: str) -> None:
        """Write a new key file that only its owner may read.

        Args:
            path (str): Where to; nothing may be there.

        Raises:
            FileExistsError: If something is there: no key is overwritten.
            InvalidKey: If ``path`` is a key.
            OSError: If the file cannot be written; nothing is left then.
        """
        _check_place(path, 'the name of a key file')
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            raise FileExistsError(
                f'{path} is there already, and a key is never overwritten: choose another file'
            ) from None
        try:
            with os.fdopen(fd, 'w') as file:
                file.write(f'{_PREFIX}{self._secret.hex()}\n')
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            os.unlink(path)
            raise

    def secret_bytes(self) -> bytes:
        """The 32 bytes themselves, for handing them to a worker process."""
        return self._secret

    @property
    def id(self) -> str:
        """str: 16 hexadecimal digits that name the key and do not tell it."""
        return self.derive('key id', length=8).hex()

    def derive(self, label: str, *names: str, length: int = 32) -> bytes:
        """Derive a sub-key with HKDF-SHA-256 (RFC 5869), without salt.

        Args:
            label (str): What for.
            *names (str): What it belongs to.
            length (int): Number of bytes. Defaults to 32.

        Returns:
            bytes: The sub-key.
        """
        info = f'hime_mm/1/{label}\0'.encode() + _pack(*names)
        return HKDF(SHA256(), length, None, info).derive(self._secret)

    def mac(self, label: str, dataset_id: str, data: bytes) -> str:
        """HMAC-SHA-256 of some data under a sub-key, in hexadecimal."""
        sub_key = self.derive(label, dataset_id)
        return hmac.new(sub_key, data, hashlib.sha256).hexdigest()

    def image_rng(self, dataset_id: str, image_id: str) -> ImageRNG:
        """The randomness of one image.

        Args:
            dataset_id (str): Identifies the data set.
            image_id (str): Identifies the image in it.

        Returns:
            ImageRNG: For :meth:`hime_mm.ciphers.Cipher.draw`.
        """
        return ImageRNG(self, dataset_id, image_id)

    def __repr__(self) -> str:
        return f'Key(id={self.id!r})'

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Key) and hmac.compare_digest(self._secret, other._secret)

    def __hash__(self) -> int:
        return hash(self.id)

    def __reduce__(self):
        raise TypeError(
            'a key is not pickled, so that it does not get into '
            'a checkpoint or a cache: load it where it is used'
        )

    def __copy__(self) -> 'Key':
        return self

    def __deepcopy__(self, memo: dict | None) -> 'Key':
        return self
