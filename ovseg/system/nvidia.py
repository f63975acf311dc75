"""What the driver of NVIDIA's cards tells without torch."""

from __future__ import annotations

import shutil
import subprocess


def gpu_name() -> str:
    """Return the name of the first NVIDIA card as its driver's tool tells it; empty without one."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ""
    query = [tool, "--query-gpu=name", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.splitlines()[0].strip() if done.returncode == 0 and done.stdout.strip() else ""
