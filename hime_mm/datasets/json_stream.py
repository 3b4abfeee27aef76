# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""JSON files with long lists, read entry by entry as :func:`json.loads` reads them."""

import codecs
import json
from collections.abc import Collection, Iterator
from typing import Any, BinaryIO

_BLOCK = 1 << 18
_BLANK = ' \t\n\r'
#: An error that lies so far before the end of what was read is none of reading on.
_CUT = 16


class _Reader:
    """A JSON text, of which the part that is being looked at is held."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        head = file.read(_BLOCK)
        name = json.detect_encoding(head)
        self._decoder = codecs.getincrementaldecoder(name)('surrogatepass')
        self._value = json.JSONDecoder().raw_decode
        self._ended = not head
        self._text, self._pos, self._before = self._decoder.decode(head, not head), 0, 0

    def _fill(self) -> bool:
        """Read on, as much as is held at least; False at the end."""
        if self._ended:
            return False
        self._before += self._pos
        rest = self._text[self._pos :]
        block = self._file.read(max(_BLOCK, len(rest)))
        self._ended = not block
        self._text, self._pos = rest + self._decoder.decode(block, self._ended), 0
        return True

    def peek(self) -> str:
        """The next character that is no blank; none at the end."""
        while True:
            while self._pos < len(self._text):
                if self._text[self._pos] not in _BLANK:
                    return self._text[self._pos]
                self._pos += 1
            if not self._fill():
                return ''

    def take(self, chars: str, what: str) -> str:
        """Pass one of these characters."""
        char = self.peek()
        if not char or char not in chars:
            raise self._error(what)
        self._pos += 1
        return char

    def value(self) -> Any:
        """Pass a value."""
        self.peek()
        while True:
            try:
                value, end = self._value(self._text, self._pos)
            except json.JSONDecodeError as error:
                cut = error.msg.startswith('Unterminated') or error.pos > len(self._text) - _CUT
                if not cut or not self._fill():
                    self._pos = error.pos
                    raise self._error(error.msg) from None
                continue
            # A number may go on.
            if end == len(self._text) and self._fill():
                continue
            self._pos = end
            return value

    def _error(self, what: str) -> ValueError:
        return ValueError(f'{what}: char {self._before + self._pos}')

    def members(self) -> Iterator[str]:
        """The keys of an object; the caller passes the value of each."""
        self.take('{', 'Expecting value')
        if self.peek() == '}':
            self._pos += 1
            return
        while True:
            if self.peek() != '"':
                raise self._error('Expecting property name enclosed in double quotes')
            key = self.value()
            self.take(':', "Expecting ':' delimiter")
            yield key
            if self.take(',}', "Expecting ',' delimiter") == '}':
                return

    def elements(self) -> Iterator[None]:
        """Once for each element of a list; the caller passes it."""
        self.take('[', 'Expecting value')
        if self.peek() == ']':
            self._pos += 1
            return
        while True:
            yield
            if self.take(',]', "Expecting ',' delimiter") == ']':
                return

    def skip(self, depth: int = 3) -> None:
        """Pass a value without holding all of it, where it is long."""
        char = self.peek() if depth else ''
        if char == '{':
            for _ in self.members():
                self.skip(depth - 1)
        elif char == '[':
            for _ in self.elements():
                self.skip(depth - 1)
        else:
            self.value()


def stream_json(
    file: BinaryIO, lists: Collection[str], values: Collection[str] = ()
) -> Iterator[tuple[str | None, int | None, Any]]:
    """What is in the object of a JSON file, in its order.

    Args:
        file (BinaryIO): UTF-8, UTF-16 or UTF-32, as :func:`json.loads` takes it; read to its end.
        lists (Collection[str]): Keys of which lists are given entry by entry.
        values (Collection[str]): Keys whose values are given. Those of others are skipped.

    Yields:
        tuple: A key, None and its value: an empty list where its entries follow, which the key,
        their number and the entry are; None where it is skipped and not ``null``. A key that
        occurs twice counts as it is the last time, as for :func:`json.loads`. A file that holds
        something else gives the key None.

    Raises:
        JSONDecodeError: If it is no JSON.
        RecursionError: If it is nested too deeply.
    """
    reader = _Reader(file)
    if reader.peek() != '{':
        yield None, None, reader.value()
    else:
        for key in reader.members():
            if key in lists and reader.peek() == '[':
                yield key, None, []
                for i, _ in enumerate(reader.elements()):
                    yield key, i, reader.value()
            elif key in lists or key in values:
                yield key, None, reader.value()
            elif reader.peek() == 'n':
                reader.value()
            else:
                reader.skip()
                yield key, None, None
    if reader.peek():
        raise json.JSONDecodeError('Extra data', '', 0)
