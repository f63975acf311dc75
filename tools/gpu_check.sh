#!/usr/bin/env bash
# Everything that a GPU can tell, in less than ten minutes and without a network; on a CPU a dry run. See --help.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
exec env PYTHONPATH="$root:$root/tools${PYTHONPATH:+:$PYTHONPATH}" "${PYTHON:-python3}" -m gpu_checks.check "$@"
