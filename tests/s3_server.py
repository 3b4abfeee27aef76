# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""An S3 server of this machine for tests, in a process of its own.

Modules that use it import its fixtures: ``from s3_server import bucket, s3_server``.
"""

import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator

import pytest

SECRET = 'SECRETSECRETSECRET'
#: It ends when its input does: when the tests end, however they do.
_SERVER = """
import logging, sys
from moto.server import ThreadedMotoServer
logging.disable()
server = ThreadedMotoServer('127.0.0.1', 0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""


def environment(endpoint: str) -> dict[str, str]:
    """The variables by which clients find a server."""
    return dict(
        AWS_ENDPOINT_URL=endpoint,
        AWS_ACCESS_KEY_ID='tests',
        AWS_SECRET_ACCESS_KEY=SECRET,
        AWS_DEFAULT_REGION='us-east-1',
        # Nothing of this machine, and no other server is asked.
        AWS_EC2_METADATA_DISABLED='true',
        AWS_CONFIG_FILE=os.devnull,
        AWS_SHARED_CREDENTIALS_FILE=os.devnull,
        no_proxy='127.0.0.1',
    )


@pytest.fixture(scope='session')
def s3_server() -> Iterator[str]:
    """The URL of the server."""
    pytest.importorskip('s3fs', reason='s3fs is not installed')
    pytest.importorskip('moto.server', reason='moto is not installed')
    process = subprocess.Popen(
        [sys.executable, '-c', _SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        # Lists come in pages, as those of large folders do.
        env=dict(os.environ, MOTO_S3_DEFAULT_MAX_KEYS='30'),
        text=True,
    )
    with process:
        port = process.stdout.readline().strip()
        assert port, 'the S3 server did not start'
        yield f'http://127.0.0.1:{port}'
        process.stdin.close()
        process.wait(20)


def use_server(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    """Have this process and its children take a server for S3."""
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    for name in os.environ:
        if name.startswith('AWS_'):
            monkeypatch.delenv(name)
    for name, value in environment(endpoint).items():
        monkeypatch.setenv(name, value)


def make_bucket(endpoint: str, name: str) -> str:
    """Make a bucket and give its name."""
    request = urllib.request.Request(f'{endpoint}/{name}', method='PUT')
    request.add_header('Authorization', 'AWS4-HMAC-SHA256 Credential=a/20260101/us-east-1/s3/b')
    with urllib.request.urlopen(request):
        return name


@pytest.fixture
def bucket(s3_server, monkeypatch, request) -> Iterator[str]:
    """The URL of an empty bucket, which this process and its children find."""
    use_server(monkeypatch, s3_server)
    urllib.request.urlopen(
        urllib.request.Request(f'{s3_server}/moto-api/reset', method='POST')
    ).close()
    yield f's3://{make_bucket(s3_server, "data")}'
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
