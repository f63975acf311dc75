"""Start of processes: one here, several by Detectron2's launcher, or those that torchrun has started."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

from ovseg.errors import ConfigError, OvsegError
from ovseg.system.processes import leave_group


def launch(
    main: Callable[..., int],
    args: tuple[Any, ...],
    processes: int = 1,
    machines: int = 1,
    machine_rank: int = 0,
    address: str = "auto",
) -> int:
    """Run a function in every process of a training.

    Under torchrun the process group is made from its environment, and the other arguments are not looked at.

    Args:
        main: A function at the top of a module, that returns an exit code.
        args: Its arguments; they travel to other processes.
        processes: On this machine: as many as accelerators, or any number on CPUs.
        machines: Number of machines.
        machine_rank: Number of this one.
        address: ``tcp://HOST:PORT`` of the first machine; ``auto`` for one machine.

    Returns:
        The exit code.

    Raises:
        ConfigError: There are not so many accelerators, or several machines without an address.
        SystemExit: A process ended with an error that it has printed, or with another exit code.
    """
    from detectron2.engine import launch as spawn

    if dist.is_torchelastic_launched():
        return _join(main, args)
    present = torch.cuda.device_count()
    if processes < 1 or (present and processes > present):
        raise ConfigError(f"--num-gpus {processes}, but this machine has {present}; expected 1 to {max(present, 1)}")
    if not 0 <= machine_rank < machines or (machines > 1 and address == "auto"):
        raise ConfigError(
            f"--num-machines {machines} --machine-rank {machine_rank} --dist-url {address}; expected ranks from 0, and "
            "tcp://HOST:PORT of the first machine"
        )
    if processes * machines == 1:
        return main(*args)
    try:
        spawn(_reporting, processes, machines, machine_rank, address, (main, args))
    except torch.multiprocessing.ProcessExitedException as error:
        raise SystemExit(error.exit_code or 1) from error
    return 0


def _join(main: Callable[..., int], args: tuple[Any, ...]) -> int:
    """Join the processes of torchrun."""
    from detectron2.utils import comm

    local, world = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
    if torch.cuda.is_available():
        torch.cuda.set_device(local)
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    comm.create_local_process_group(world)
    try:
        return main(*args)
    finally:
        leave_group()


def _reporting(main: Callable[..., int], args: tuple[Any, ...]) -> None:
    """Run in a spawned process; a user's mistake ends it with one line, not with a traceback in the parent."""
    # As in the first process (ovseg.cli): Detectron2 scripts functions at import, which nobody here can mend.
    warnings.filterwarnings("ignore", r"`torch\.jit\.script` is deprecated", FutureWarning)
    try:
        code = main(*args)
    except OvsegError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        code = 2  # leaving here would keep what the error refers to: models, and their group with them
    finally:
        leave_group()
    if code:
        sys.exit(code)
