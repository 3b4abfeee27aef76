# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""The command ``hime``.

Needs NumPy, OpenCV, cryptography, click and tqdm only; a command imports what
it needs when it runs.
"""

import sys
from typing import Any, Callable, Optional

import click

from .version import __version__

#: Exit status when something is missing or does not fit; 2 is click's own for
#: wrong usage.
FAILED = 1
#: Exit status after Ctrl-C, as shells have it.
INTERRUPTED = 130


class _Group(click.Group):
    """Shows errors that name a remedy as one line instead of a traceback."""

    group_class = type  # so do groups in it

    def main(self, args: Any = None, **extra: Any) -> Any:
        given = [str(arg) for arg in (sys.argv[1:] if args is None else args)]
        # A usage error would quote it. Short ones are no keys: no import then.
        parts = [p for arg in given for p in (arg, arg.partition('=')[2])
                 if len(p) > 40 or p.startswith('hime-key')]
        if parts:
            from hime_mm.ciphers.keys import looks_like_key
            if any(map(looks_like_key, parts)):
                click.echo(
                    'hime: a key itself stands on the command line, where '
                    'others can see it: make a new one, and give the name of '
                    'its file, of an environment variable or the number of a '
                    'file descriptor', err=True)
                sys.exit(FAILED)
        return super().main(args, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (ValueError, OSError) as error:
            # Errors of wrong input; others are bugs and keep their traceback.
            # An OSError with a code prints it; the text alone says enough.
            text = getattr(error, 'strerror', None) or str(error)
            if getattr(error, 'filename', None):
                text += f': {error.filename}'
            click.echo(f'hime: {text}', err=True)
            sys.exit(FAILED)
        except KeyboardInterrupt:
            click.echo('hime: interrupted', err=True)
            sys.exit(INTERRUPTED)


def key_options(command: Callable) -> Callable:
    """Options that name a key; `read_key` takes them."""
    for option in reversed((
        click.option('--key', 'key_file', metavar='FILE',
                     help='Key file, as `hime keygen` writes it.'),
        click.option('--key-env', metavar='NAME',
                     help='Environment variable that holds the key.  '
                     '[default: HIME_KEY where that is set]'),
        click.option('--key-fd', type=int, metavar='N',
                     help='Open file descriptor to read the key from.'))):
        command = option(command)
    return command


def read_key(key_file: Optional[str],
             key_env: Optional[str],
             key_fd: Optional[int],
             required: bool = True) -> Any:
    """The key that the options name.

    Raises:
        click.UsageError: If they name several, or none where one is required.
    """
    import os

    from hime_mm.ciphers import KEY_ENV, Key
    given = [value is not None for value in (key_file, key_env, key_fd)]
    if sum(given) > 1:
        raise click.UsageError('give one of --key, --key-env and --key-fd')
    if key_file is not None:
        return Key.from_file(key_file)
    if key_env is not None:
        return Key.from_env(key_env)
    if key_fd is not None:
        return Key.from_fd(key_fd)
    if KEY_ENV in os.environ:
        return Key.from_env()
    if required:
        raise click.UsageError(
            'a key is needed: --key FILE, --key-env NAME or --key-fd N, or '
            f'the environment variable {KEY_ENV}; `hime keygen` makes one')
    return None


@click.group(cls=_Group, context_settings=dict(
    help_option_names=['-h', '--help'], max_content_width=100))
@click.version_option(__version__, prog_name='hime')
def main() -> None:
    """Encrypt images perceptually, so that models can still learn from them.

    This is perceptual obfuscation, not encryption in the cryptographic sense:
    `hime info` says what each cipher leaves readable.
    """


@main.command()
@click.argument('path', default='hime.key')
def keygen(path: str) -> None:
    """Write a new key to PATH (hime.key), readable by its owner only.

    Whoever has the key can undo what a cipher can undo. Keep a copy where it
    cannot get lost, and never hand it over with the data.
    """
    from hime_mm.ciphers import Key
    key = Key.generate()
    key.save(path)
    click.echo(f'wrote {path}, key id {key.id}')


def _available_cpus() -> int:
    import os
    if hasattr(os, 'sched_getaffinity'):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def work_options(command: Callable) -> Callable:
    """Options of commands that work through a data set."""
    for option in reversed((
        click.option('-j', '--workers', type=click.IntRange(1), metavar='N',
                     help='Processes.  [default: one per core]'),
        click.option('-q', '--quiet', is_flag=True,
                     help='No progress bar.'))):
        command = option(command)
    return command


class _Size(click.ParamType):
    """WIDTHxHEIGHT, or one number for both."""

    name = 'WxH'

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        if not isinstance(value, str):
            return value
        parts = value.lower().split('x')
        if len(parts) > 2 or not all(p.isdigit() and int(p) for p in parts):
            self.fail(f'{value!r} is no size such as 640x480 or 224', param,
                      ctx)
        return int(parts[0]), int(parts[-1])


class _Numbers(click.ParamType):
    """Numbers with commas between them."""

    name = 'numbers'

    def __init__(self, kind: Callable) -> None:
        self.kind = kind

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return tuple(self.kind(part) for part in value.split(','))
        except ValueError:
            self.fail(f'{value!r} is no list of numbers such as 480,512',
                      param, ctx)


def encrypt_options(command: Callable) -> Callable:
    """Options that all kinds of data sets share."""
    for option in reversed((
        click.option('-c', '--cipher', required=True, metavar='CIPHER',
                     help='Steps in order of application, such as '
                     '"center+erode2+shuffle", or a preset: paper-rs, '
                     'paper-mi.'),
        click.option('--patch-size', type=click.IntRange(1), metavar='P',
                     help="Side of a patch in pixels.  [default: the "
                     "preset's, or 16]"),
        key_options,
        click.option('--one-way', is_flag=True,
                     help='Draw randomness from the operating system and '
                     'keep nothing: nobody can undo it.'),
        click.option('--dataset-id', metavar='ID',
                     help='Public id that goes into the derivation of all '
                     'randomness; never use one twice for different '
                     'pictures.  [default: drawn]'),
        click.option('--resize', type=_Size(), metavar='WxH',
                     help='Resize pictures before encryption.'),
        click.option('--keep-ratio', is_flag=True,
                     help='Fit into --resize with the aspect ratio kept, as '
                     "MMDetection's Resize."),
        click.option('--short-side', type=_Numbers(int), metavar='N[,N...]',
                     help='Scale the shorter side to N pixels; of several, '
                     'one is drawn per view.'),
        click.option('--max-side', type=click.IntRange(1), metavar='N',
                     help='With --short-side, bound of the longer side.'),
        click.option('--fit', type=click.Choice(('resize', 'pad', 'error')),
                     default='resize', show_default=True,
                     help='Where sides are no multiples of the patch size.'),
        click.option('--pad-val', type=_Numbers(float), default='0',
                     metavar='V[,V...]', help='Value, or one per channel, of '
                     '--fit pad.  [default: 0]'),
        click.option('--interpolation', default='bilinear',
                     show_default=True,
                     type=click.Choice(('nearest', 'bilinear', 'bicubic',
                                        'area', 'lanczos'))),
        click.option('--color-type', default='color', show_default=True,
                     type=click.Choice(('color', 'grayscale', 'unchanged',
                                        'color_ignore_orientation')),
                     help='How files are read, as by mmcv.'),
        click.option('--views', type=click.IntRange(1), default=1,
                     show_default=True, metavar='K',
                     help='Encrypted files per picture, each with its own '
                     'augmentation and randomness.'),
        click.option('--flip', type=click.FloatRange(0, 1), default=0,
                     metavar='P', help='Augmentation: probability of a '
                     'left-right flip.'),
        click.option('--crop', type=_Numbers(float), metavar='LOW,HIGH',
                     help='Augmentation: share of the area that a random '
                     'window keeps, such as 0.08,1.'),
        click.option('--jitter', type=click.FloatRange(0, 1, max_open=True),
                     default=0, metavar='J', help='Augmentation: brightness, '
                     'contrast and saturation times 1-J to 1+J.'),
        click.option('--names', type=click.Choice(('keep', 'ids')),
                     default='keep', show_default=True,
                     help='File names leak: replace them by ids?'),
        click.option('--format', 'fmt', type=click.Choice(('png', 'webp')),
                     default='png', show_default=True,
                     help='Lossless file format.'),
        click.option('--compression', type=click.IntRange(0, 9), metavar='L',
                     help='PNG, from 0 (large) to 9 (small).  [default: '
                     "OpenCV's fast setting]"),
        work_options)):
        command = option(command)
    return command


def _encrypt_arguments(options: dict) -> dict:
    """Arguments of the functions from the options of the command line."""
    crop = options.pop('crop')
    if crop is not None and len(crop) != 2:
        raise click.UsageError('--crop takes two numbers, LOW,HIGH')
    pad_val = options.pop('pad_val')
    preprocess = dict(
        augment=dict(
            flip=options.pop('flip'), crop=crop,
            jitter=options.pop('jitter')),
        pad_val=pad_val[0] if len(pad_val) == 1 else pad_val)
    for name in ('color_type', 'resize', 'keep_ratio', 'short_side',
                 'max_side', 'fit', 'interpolation', 'center_crop'):
        if name in options:
            preprocess[name] = options.pop(name)
    key = None
    named = [options.pop(n) for n in ('key_file', 'key_env', 'key_fd')]
    if not options['one_way'] or any(n is not None for n in named):
        key = read_key(*named, required=False)
    return dict(
        options,
        key=key,
        preprocess=preprocess,
        workers=options.pop('workers') or _available_cpus(),
        progress=not options.pop('quiet'))


def _show_summary(summary: Any) -> None:
    from .datasets.images import EXTENSIONS
    done = summary.images - len(summary.skipped)
    again = f', {summary.reused} of them before' if summary.reused else ''
    click.echo(f'{done} of {summary.images} pictures encrypted{again}: '
               f'{summary.files} files in {summary.out} '
               f'({summary.seconds:.1f} s), data set id '
               f'{summary.dataset_id}')
    for step, (some, total) in summary.clipped.items():
        click.echo(f'{step}: {100 * some / max(total, 1):.3f} % of the '
                   'values were clipped')
    if summary.finished_before:
        click.echo('an earlier run had finished: nothing was done, and the '
                   'source was not looked at. `hime verify` compares the '
                   'files')
    if summary.tiny:
        click.echo(f'{summary.tiny} objects are below 1x1 pixel now, which '
                   'MMDetection leaves out: a larger --resize keeps them')
    if summary.dropped:
        click.echo(f'not handed over: {", ".join(summary.dropped)}')
    if summary.ignored:
        click.echo(f'{summary.ignored} files were left out: they are not '
                   + ', '.join(EXTENSIONS))
    _show_problems(summary.skipped, 'missing')
    if not summary.complete:
        click.echo('Repair the missing pictures and start again: the others '
                   'stay.', err=True)
        sys.exit(FAILED)
    click.echo(f'`hime info {summary.out}` says what the cipher leaves '
               'readable')


def _show_problems(problems: Any, what: str, most: int = 20) -> None:
    for path, reason in problems[:most]:
        click.echo(f'{what}: {path}: {reason}', err=True)
    if len(problems) > most:
        click.echo(f'{what}: and {len(problems) - most} more', err=True)


@main.group()
def encrypt() -> None:
    """Encrypt a data set into a folder that can be handed over.

    Killed and started again, it goes on where it was.
    """


@encrypt.command('coco')
@click.argument('src', type=click.Path(exists=True, file_okay=False))
@click.argument('out', type=click.Path())
@click.option('--ann', 'annotations', multiple=True, metavar='FILE',
              help='Annotation file relative to SRC, may be repeated.  '
              '[default: all annotations/instances_*.json]')
@click.option('--images', multiple=True, metavar='FOLDER',
              help='For each --ann, the folder of its images.  [default: '
              'train2017 for instances_train2017.json]')
@click.option('--licenses', type=click.Choice(('keep', 'drop')),
              default='keep', show_default=True)
@click.option('--segmentation', type=click.Choice(('keep', 'drop')),
              default='drop', show_default=True,
              help='Outlines of the objects, where the cipher leaves pixels '
              'in place.')
@encrypt_options
def encrypt_coco_command(src: str, out: str, annotations: Any, images: Any,
                         licenses: str, segmentation: str,
                         **options: Any) -> None:
    """Encrypt a COCO data set: SRC has annotations/ and image folders.

    OUT gets the same tree, with annotations in encrypted coordinates.
    """
    from .apis import encrypt_coco
    _show_summary(
        encrypt_coco(
            src,
            out,
            annotations=annotations or None,
            images=images or None,
            licenses=licenses == 'keep',
            segmentation=segmentation == 'keep',
            **_encrypt_arguments(options)))


@encrypt.command('folder')
@click.argument('src', type=click.Path(exists=True, file_okay=False))
@click.argument('out', type=click.Path())
@click.option('--center-crop', type=_Size(), metavar='WxH',
              help='Cut from the middle after resizing.')
@click.option('--list', 'lists', multiple=True, metavar='FILE',
              help='Text file of names and labels relative to SRC, such as '
              'meta/val.txt, to hand over with the new names; may be '
              'repeated.')
@encrypt_options
def encrypt_folder_command(src: str, out: str, **options: Any) -> None:
    """Encrypt a tree of pictures, such as ImageNet's, or a flat folder.

    OUT gets the same folders; their names are the classes' names and stay.
    """
    from .apis import encrypt_folder
    _show_summary(
        encrypt_folder(src, out, **_encrypt_arguments(options)))


@main.command()
@click.argument('data', type=click.Path(exists=True))
@click.argument('out', type=click.Path())
@key_options
@click.option('--partial', is_flag=True,
              help='Where a step deletes data, undo those after it.')
@work_options
def decrypt(data: str, out: str, key_file: Any, key_env: Any, key_fd: Any,
            partial: bool, workers: Optional[int], quiet: bool) -> None:
    """Undo the encryption of DATA into OUT, where its cipher allows."""
    from .apis import decrypt_dataset
    report = decrypt_dataset(
        data, out, read_key(key_file, key_env, key_fd, required=False),
        partial, workers or _available_cpus(), not quiet)
    click.echo(f'{report.files - len(report.problems)} of {report.files} '
               f'files decrypted to {out}')
    _show_problems(report.problems, 'missing')
    if not report.ok:
        sys.exit(FAILED)


@main.command()
@click.argument('data', type=click.Path(exists=True))
@key_options
@work_options
def verify(data: str, key_file: Any, key_env: Any, key_fd: Any,
           workers: Optional[int], quiet: bool) -> None:
    """Compare all files of DATA with its manifest.

    With the key the manifest itself is authenticated; without it, only
    changes by accident are found there.
    """
    from .apis import verify_dataset
    key = read_key(key_file, key_env, key_fd, required=False)
    if (key_file, key_env, key_fd) == (None, None, None):
        from .datasets.manifest import Manifest
        if Manifest.load(data).key_id is None:
            key = None  # that of the environment belongs to other data
    report = verify_dataset(data, key, workers or _available_cpus(),
                            not quiet)
    for note in report.notes:
        click.echo(note)
    _show_problems(report.problems, 'wrong')
    if not report.ok:
        click.echo(f'hime: {len(report.problems)} problems in {data}',
                   err=True)
        sys.exit(FAILED)
    click.echo(f'{report.files} files are as they were written; manifest ' +
               ('authenticated with the key' if report.authenticated else
                'unchanged by accident, but not authenticated: no key'))


@main.command()
@click.argument('data', type=click.Path(exists=True))
@click.option('--json', 'as_json', is_flag=True,
              help='The manifest without its list of files, as JSON.')
def info(data: str, as_json: bool) -> None:
    """Say what DATA is, what it leaves readable and how to train on it."""
    import json

    from .apis import describe_dataset
    from .datasets.manifest import Manifest
    manifest = Manifest.load(data)
    click.echo(
        json.dumps(manifest.state, indent=2) if as_json else
        describe_dataset(manifest))


@main.command()
@click.argument('results', type=click.Path(exists=True, dir_okay=False))
@click.argument('out', type=click.Path(dir_okay=False))
@click.option('--data', required=True, metavar='FOLDER',
              type=click.Path(exists=True),
              help='The encrypted data set that the results are of.')
@click.option('--annotations', metavar='FILE',
              help='Annotation file that the results were made with.  '
              '[default: all those of the data set]')
@key_options
@click.option('--nms', type=click.FloatRange(0, 1), metavar='IOU',
              help='Of two boxes of one class that overlap more than this, '
              'leave out the one with the lower score; 1 keeps all.  '
              '[default: 0.6 where patches were moved, else 1]')
@click.option('--clip/--no-clip', default=True,
              help='Cut boxes to the original picture.  [default: clip]')
@click.option('--force', is_flag=True, help='Replace OUT if it is there.')
@click.option('-q', '--quiet', is_flag=True, help='No progress bar.')
def boxes(results: str, out: str, data: str, annotations: Optional[str],
          key_file: Any, key_env: Any, key_fd: Any, nms: Optional[float],
          clip: bool, force: bool, quiet: bool) -> None:
    """Map detections on encrypted pictures to the originals.

    RESULTS is a COCO results file in pixels of the encrypted pictures, as
    MMDetection's CocoMetric writes it; OUT gets the same in pixels of the
    originals, for evaluation with the original annotations. The key is needed
    where patches were moved.
    """
    from .apis import map_coco_results
    from .datasets.manifest import Manifest
    manifest = Manifest.load(data)
    key = None
    # Another data set's key in the environment is no error where none counts.
    if manifest.cipher.shuffles or any(
            value is not None for value in (key_file, key_env, key_fd)):
        key = read_key(key_file, key_env, key_fd,
                       required=manifest.key_id is not None)
    summary = map_coco_results(results, out, manifest, annotations, key, nms,
                               clip, force, not quiet)
    click.echo(f'{summary.results} boxes of {summary.images} images mapped to '
               f'{out}' + (f', {summary.kept} of them kept by non-maximum '
                           f'suppression at IoU {summary.nms:g}'
                           if summary.nms is not None else ''))
    if summary.masks:
        click.echo(f'{summary.masks} segmentations left out: the cipher '
                   f'{str(manifest.cipher)!r} moves pixels, and masks cannot '
                   'follow', err=True)


@main.command()
@click.option('--engineer', '--strict', 'engineer', is_flag=True,
              help="Fail if the engineer's side does not work, too.")
@click.option('--json', 'as_json', is_flag=True, help='The report as JSON.')
def doctor(engineer: bool, as_json: bool) -> None:
    """Say what is installed here, whether it works and what would break.

    The exit status is 0 when the owner's side works: encrypting, decrypting
    and mapping boxes. The engineer's side, training and prediction, is only
    reported, unless --engineer is given.
    """
    import json

    from .apis import check_environment
    from .apis.doctor import format_report
    if sys.stderr.isatty():
        click.echo('Trying all imports ...', err=True)
    report = check_environment(engineer)
    click.echo(
        json.dumps(report, indent=2) if as_json else format_report(report))
    if not report['owner'] or (engineer and not report['engineer']):
        sys.exit(FAILED)


if __name__ == '__main__':
    main()
