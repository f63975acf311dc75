#!/usr/bin/env bash
# Every supported Python with the oldest and the newest packages: the wheel's own checks and the fast tests; --help.
set -euo pipefail
tools="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
exec env PYTHONPATH="$tools" "${PYTHON:-python3}" -m install_checks.matrix "$@"
