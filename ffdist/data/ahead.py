"""Work done ahead of the one who needs it, by threads, within bounds."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")


def in_order(
    work: Callable[[Job], Result], jobs: Iterable[Job], *, threads: int = 1, ahead: int, name: str
) -> Generator[Result]:
    """The results of `work` over `jobs`, in order; at most `ahead` jobs are begun that nobody has asked for.

    What a job raises is raised here, in its turn. Closing the iterator drops the jobs not begun and ends the threads.
    """
    begun: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads, name) as pool:
        try:
            for job in jobs:
                begun.append(pool.submit(work, job))
                if len(begun) > ahead:
                    yield begun.popleft().result()
            while begun:
                yield begun.popleft().result()
        finally:  # also where the iterator is closed early: jobs that nobody asked for would keep the threads at work
            pool.shutdown(cancel_futures=True)
