"""Helper threads that share the groups of tasks of a call; after a fork the child makes its own."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from functools import partial


class _Helper:
    """A thread that runs what it is given, and sleeps in between."""

    def __init__(self) -> None:
        self.work: Callable[[], None] | None = None
        self.error: BaseException | None = None
        self.go, self.done = threading.Lock(), threading.Lock()
        self.go.acquire()
        self.done.acquire()
        threading.Thread(target=self._serve, name="fastmeta", daemon=True).start()

    def _serve(self) -> None:
        while True:
            self.go.acquire()
            assert self.work is not None
            try:
                self.work()
            except BaseException as error:  # handed to the caller
                self.error = error
            self.work = None
            self.done.release()


class Pool:
    """Helpers, for one call at a time."""

    def __init__(self) -> None:
        self._helpers: list[_Helper] = []
        self._free = threading.Lock()

    def run(self, threads: int, work: Callable[[int], None], on_interrupt: Callable[[], None]) -> None:
        """work(0) on this thread and work(k) on at most threads - 1 helpers; none help where another call has them.

        Results do not depend on who helped.  An exception here (Ctrl-C) calls `on_interrupt` and waits for the helpers.
        """
        if threads == 1 or not self._free.acquire(blocking=False):
            work(0)
            return
        try:
            while len(self._helpers) < threads - 1:
                self._helpers.append(_Helper())
            busy = self._helpers[: threads - 1]
            for k, helper in enumerate(busy):
                helper.work = partial(work, k + 1)
                helper.go.release()
            raised: BaseException | None = None
            try:
                work(0)
            except BaseException as error:
                raised = error
                on_interrupt()
            for helper in busy:
                while True:
                    try:
                        helper.done.acquire()
                        break
                    except BaseException as error:
                        raised = raised or error
                        on_interrupt()
            for helper in busy:
                raised, helper.error = raised or helper.error, None
            if raised is not None:
                raise raised
        finally:
            self._free.release()


pool = Pool()


def _after_fork() -> None:
    global pool
    pool = Pool()  # the parent's threads are not here


os.register_at_fork(after_in_child=_after_fork)
