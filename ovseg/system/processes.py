"""Groups of processes."""

from __future__ import annotations

import gc

import torch.distributed as dist


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
