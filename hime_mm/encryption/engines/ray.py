# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Ray as an executor: tasks that it repeats where a worker or node is lost."""

import logging
import os
import socket
import threading
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor, Future
from typing import Any

from hime_mm.errors import EncryptionError, StoreError

#: How often Ray itself repeats a task whose worker has died.
_RETRIES = 3


class RayExecutor(Executor):
    """Hands tasks to Ray.

    Nothing of this process's environment is sent along: workers have that of
    their node, and find the key there by themselves.

    Args:
        address (str): Of a cluster, ``'auto'`` for the one of this machine,
            ``'local'`` to start one here, which ends with this executor.

    Raises:
        StoreError: If Ray is not installed.
        EncryptionError: If there is no such cluster.
    """

    def __init__(self, address: str) -> None:
        try:
            import ray
        except ImportError:
            raise StoreError(
                "Ray is not installed: pip install 'hime-mm[ray]', on every node"
            ) from None
        self._ray = ray
        self._own = not ray.is_initialized()
        self._running: dict[Any, Future] = {}
        self._lock = threading.Lock()
        if self._own:
            _check_reachable(address)
            # It reports how it is used to its makers otherwise.
            os.environ.setdefault('RAY_USAGE_STATS_ENABLED', '0')
            options: dict[str, Any] = dict(log_to_driver=False, logging_level=logging.ERROR)
            if address == 'local':
                options.update(include_dashboard=False)
            try:
                ray.init(address=address, **options)
            except (ConnectionError, ValueError, RuntimeError) as error:
                raise EncryptionError(
                    f'there is no cluster of Ray at {address!r}, or it lets nobody in without its '
                    f'token (`RAY_AUTH_TOKEN`): {str(error).splitlines()[0]}'
                ) from None

    def submit(self, fn: Callable, /, *args: Any, **kwargs: Any) -> Future:
        """Hand out a task."""
        ray, future = self._ray, Future[Any]()
        task = ray.remote(max_retries=_RETRIES, retry_exceptions=False)(fn)
        reference = task.remote(*args, **kwargs)
        with self._lock:
            self._running[reference] = future
        reference.future().add_done_callback(lambda done: self._end(reference, done))
        return future

    def _end(self, reference: Any, done: Future) -> None:
        with self._lock:
            future = self._running.pop(reference, None)
        if future is None or not future.set_running_or_notify_cancel():
            return
        error = done.exception()
        if error is None:
            future.set_result(done.result())
        else:
            future.set_exception(self._translated(error))

    def _translated(self, error: BaseException) -> BaseException:
        """What the task raised, or that its worker is lost for good."""
        exceptions = self._ray.exceptions
        if isinstance(error, exceptions.RayTaskError):
            error = error.cause
        if isinstance(error, exceptions.RaySystemError):
            return EncryptionError(
                f'a worker of Ray cannot read its task ({str(error).splitlines()[0]}): install the '
                'same release of hime-mm on every node'
            )
        if isinstance(
            error,
            (
                exceptions.WorkerCrashedError,
                exceptions.NodeDiedError,
                exceptions.OutOfMemoryError,
                exceptions.LocalRayletDiedError,
            ),
        ):
            return BrokenExecutor(f'{type(error).__name__}: {error}')
        return error

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Call off what is out; a cluster that was started here ends."""
        with self._lock:
            running, self._running = self._running, {}
        for reference, future in running.items():
            self._ray.cancel(reference, force=True)
            future.cancel()
        if self._own:
            self._ray.shutdown()


def _check_reachable(address: str) -> None:
    """Refuse an address that nobody answers at: Ray itself tries it for minutes."""
    host, _, port = address.removeprefix('ray://').rpartition(':')
    if not host or not port.isdecimal():
        return  # 'auto' or 'local'
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise EncryptionError(f'there is no cluster of Ray at {address!r}: {error}') from None
