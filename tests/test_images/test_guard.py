# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What a decoder may do in a worker process."""

import os
import signal
import time

import pytest
from owner_data import photo
from picture_files import FILES, encoded

from hime_mm.errors import UnreadableImage
from hime_mm.images import codec, guard
from hime_mm.images.codec import decode_image
from hime_mm.images.guard import guard_process, guarded, take_said


def in_child(function):
    """The status of a process that calls this, and what it wrote to standard error."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.dup2(write, 2)
            guard_process()
            function()
            os._exit(0)
        finally:
            os._exit(99)
    os.close(write)
    with open(read, 'rb') as file:
        text = file.read()
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), text.decode()


def timers():
    return [signal.getitimer(which)[0] for which in (signal.ITIMER_PROF, signal.ITIMER_REAL)]


class TestLimits:
    @pytest.mark.parametrize(
        'what, patience, number',
        [
            (lambda: sum(range(1 << 40)), 100, signal.SIGPROF),  # in C all the time
            (lambda: [hash(i) for i in iter(int, 1)], 100, signal.SIGPROF),
            (lambda: time.sleep(30), 1, signal.SIGALRM),
        ],
    )
    def test_end_the_process(self, monkeypatch, what, patience, number):
        monkeypatch.setattr(guard, '_SECONDS', 0.1)
        monkeypatch.setattr(guard, '_PATIENCE', patience)

        def work():
            with guarded(0, 0):
                what()

        assert in_child(work) == (-number, '')

    def test_end_one_whose_parent_ignores_them(self, monkeypatch):
        monkeypatch.setattr(guard, '_SECONDS', 0.1)

        def work():
            for number in (signal.SIGPROF, signal.SIGALRM):
                signal.signal(number, signal.SIG_IGN)
            guard_process()
            with guarded(0, 0):
                time.sleep(5)

        assert in_child(work)[0] == -signal.SIGALRM

    def test_a_decoder(self, monkeypatch):
        """It is the reading of a picture that they are for."""
        monkeypatch.setattr(guard, '_SECONDS', 0.1)
        monkeypatch.setattr(guard, '_PATIENCE', 100)
        monkeypatch.setattr(codec.cv2, 'imdecode', lambda *args: sum(range(1 << 40)))
        assert in_child(lambda: decode_image(FILES['jpeg'])) == (-signal.SIGPROF, '')

    @pytest.mark.parametrize('size, pixels', [(0, 0), (10**6, 0), (0, 10**8), (3 * 10**6, 10**7)])
    def test_grow_with_the_file_and_end_with_it(self, size, pixels):
        def work():
            with guarded(size, pixels):
                seconds, patience = timers()
            assert seconds == pytest.approx(2 + size * 1e-5 + pixels * 4e-8, rel=0.01)
            assert patience == pytest.approx(2 * seconds, rel=0.01)
            assert timers() == [0, 0]
            with pytest.raises(ValueError), guarded(size, pixels):
                raise ValueError
            assert timers() == [0, 0]

        assert in_child(work) == (0, '')

    def test_many_pixels_of_few_bytes(self, monkeypatch):
        """As a blank page of a scanner has."""
        asked = []
        monkeypatch.setattr(codec, 'guarded', lambda *args: asked.append(args) or guarded(*args))
        blank = photo(600, 700, channels=1) * 0
        data = encoded('.png', blank)
        decode_image(data)
        # An impossible size is not believed.
        absurd = data[:16] + b'\xff' * 8 + data[24:]
        with pytest.raises(UnreadableImage):
            decode_image(absurd)
        decode_image(FILES['jpeg'])
        assert asked == [
            (len(data), 600 * 700),
            (len(data), 1 << 30),
            (len(FILES['jpeg']), 0),
        ]

    def test_not_in_a_process_that_was_not_told(self, monkeypatch, capfd):
        with guarded(0, 0):
            assert timers() == [0, 0]
            os.write(2, b'heard by all\n')
        assert take_said() == '' and capfd.readouterr().err == 'heard by all\n'
        assert signal.getsignal(signal.SIGALRM) == signal.SIG_DFL


def damaged(name, at, value):
    data = bytearray(FILES[name])
    data[at : at + len(value)] = value
    return bytes(data)


class TestSaid:
    @pytest.mark.parametrize(
        'data, said, is_read',
        [
            # Before the end of a JPEG file something is too much.
            (FILES['jpeg'][:-2] + b'\0' * 9 + b'\xff\xd9', 'Corrupt JPEG data', True),
            (FILES['gray jpeg'][:-2] + b'\0' * 50 + b'\xff\xd9', 'Corrupt JPEG data', True),
            (damaged('palette', 60, b'\xff' * 8), 'libpng', False),
            (damaged('color16', 100, b'\xff' * 8), 'libpng', False),
            (FILES['pgm'][:-400], 'Unexpected end', False),
        ],
    )
    def test_is_kept_from_standard_error_and_told_once(self, data, said, is_read):
        def work():
            try:
                decode_image(data)
                assert is_read
            except UnreadableImage:
                assert not is_read
            os.write(2, take_said().encode() + b'\n')
            assert take_said() == ''
            # What is said later is not of the decoder.
            os.write(2, b'ours\n')
            decode_image(FILES['png'])
            assert take_said() == ''

        status, text = in_child(work)
        assert status == 0
        line, ours = text.splitlines()
        assert said in line and ours == 'ours'
        assert '@' not in line  # no time, no thread

    def test_much_of_it(self):
        """Is cut, and each line told once."""

        def work():
            with guarded(0, 0):
                for i in range(10000):
                    os.write(2, b'a\n\nb\n%d\n' % (i // 5000) + b'\xff' * (i == 9999))
            said = take_said()
            assert said == 'a; b; 0', said
            with guarded(0, 0):
                os.write(2, b'x' * 5000)
            assert take_said() == 'x' * 1000
            with guarded(0, 0):
                os.write(2, b'little')
            assert take_said() == 'little'

        assert in_child(work) == (0, '')

    def test_of_several_decodings(self):
        """Such as for the alpha of a picture; and not for ever where nobody asks."""

        def work():
            for text in (b'one', b'two', b'', b'one'):
                with guarded(0, 0):
                    os.write(2, text)
            assert take_said() == 'one; two'
            for i in range(100):
                with guarded(0, 0):
                    os.write(2, b'%d' % i + b'x' * 500)
            assert len(take_said()) < 2000
            assert take_said() == ''

        assert in_child(work) == (0, '')

    def test_a_traceback_comes_out(self):
        def work():
            with pytest.raises(ZeroDivisionError), guarded(0, 0):
                os.write(2, b'caught')
                raise ZeroDivisionError
            os.write(2, b'Traceback')

        assert in_child(work) == (0, 'Traceback')

    def test_without_standard_error(self):
        def work():
            os.close(2)
            guard._ear = None
            guard_process()
            decode_image(FILES['jpeg'])
            assert take_said() == ''

        assert in_child(work) == (0, '')
