"""Groups of processes."""

from __future__ import annotations

import contextlib
import gc
import signal
from collections.abc import Iterator
from multiprocessing import resource_tracker

import torch.distributed as dist


@contextlib.contextmanager
def ctrl_c_is_ours() -> Iterator[None]:
    """Hold ctrl-C back while processes are started: they inherit that, for good, and this one hears of it afterwards.

    A terminal tells all processes of a command at once. Who starts others ends them, and says one line; they would each
    print a traceback.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # by the first process otherwise, and its start lets ctrl-C through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def leave_group() -> None:
    """Destroy the process group, and wait for its threads.

    Detectron2 remembers its groups, and a group that is remembered keeps its threads. One of them may still hold the
    tensors of the last gather when Python ends, and needs Python to let go of them: it then aborts the process (-6).
    """
    from detectron2.utils import comm

    comm._get_global_gloo_group.cache_clear()
    comm.create_local_process_group.cache_clear()
    comm._LOCAL_PROCESS_GROUP = None
    gc.collect()  # models of several processes hold the group, too, in cycles
    dist.destroy_process_group()
