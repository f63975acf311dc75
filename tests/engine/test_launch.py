"""Runs in processes of their own: a kill in the middle, two processes by either launcher."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch.distributed as dist
from detectron2.utils import comm
from PIL import Image

from ovseg.cli import main
from ovseg.system.processes import leave_group

ROOT = Path(__file__).parents[2]


def losses(folder):
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


def start(words, **environment):
    command = [sys.executable, "-W", "ignore", *map(str, words)]
    variables = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.Popen(command, cwd=ROOT, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_kill_9_in_the_middle(training_config, tmp_path):
    words = ["tools/train_net.py", "--config-file", training_config, "--val", "25%", "--resume", "SOLVER.MAX_ITER", 20]
    with start([*words, "OUTPUT_DIR", tmp_path / "killed"]) as process:
        deadline = time.monotonic() + 60
        while not (tmp_path / "killed/last.pt").exists() and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert process.returncode == -signal.SIGKILL and 3 <= len(losses(tmp_path / "killed")) < 20
    for name in ("killed", "whole"):
        assert main(["train", *map(str, words[1:]), "OUTPUT_DIR", str(tmp_path / name)]) == 0
    assert losses(tmp_path / "killed") == pytest.approx(losses(tmp_path / "whole"), rel=1e-4)
    held_out = [(tmp_path / name / "held_out.json").read_text() for name in ("killed", "whole")]
    assert held_out[0] == held_out[1]


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["detectron2", "torchrun"])
def test_two_processes(training_config, own_data, tmp_path, launcher):
    """The images of a step are shared out; both processes hold the same weights; the scores are those of one."""
    words = ["tools/train_net.py", "--config-file", training_config, "DATASETS.TEST", f"('{own_data}',)"]
    words += ["SOLVER.MAX_ITER", 3, "SOLVER.IMS_PER_BATCH", 4, "SOLVER.ACCUMULATE", 2]
    if launcher == "torchrun":
        words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2, *words]
    else:
        words[3:3] = ["--num-gpus", 2]
    with start(words) as process:
        out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert "batch: 4 = 2 processes x 2 passes x 1 images" in out and len(losses(tmp_path / "run")) == 3
    words = ["train", "--config-file", tmp_path / "run/config.yaml", "--eval-only"]
    words += ["MODEL.WEIGHTS", tmp_path / "run/model.safetensors", "OUTPUT_DIR", tmp_path / "again"]
    assert main([*map(str, words)]) == 0
    score = out.rpartition("own: ")[2].splitlines()[0]
    assert score in (tmp_path / "again/log.txt").read_text()


@pytest.mark.slow
def test_a_mistake_in_two_processes_is_one_line_each(training_config, own_data):
    Image.fromarray(np.full((40, 48), 9, np.uint8)).save(own_data / "labels/05.png")
    with start(["tools/train_net.py", "--config-file", training_config, "--num-gpus", 2]) as process:
        _, err = process.communicate(timeout=300)
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert process.returncode == 2 and lines and all("05.png' holds the value 9" in line for line in lines), err
    assert "Traceback" not in err


def test_nothing_is_left_of_a_group(tmp_path):
    """A group that outlives its end has threads, which abort the process now and then when Python ends."""
    for turn in range(2):
        dist.init_process_group("gloo", init_method=f"file://{tmp_path}/{turn}", rank=0, world_size=1)
        comm.create_local_process_group(1)
        groups = [weakref.ref(group) for group in (comm._get_global_gloo_group(), comm.get_local_process_group())]
        assert comm.gather(turn) == [turn] and comm.get_local_size() == 1
        leave_group()
        assert not dist.is_initialized() and [group() for group in groups] == [None, None]
