"""Train a model; what `ovseg train` does, for those who look for it here.

python tools/train_net.py --config-file configs/san/san_vit_b_16_coco_stuff.yaml --num-gpus 8 KEY VALUE ...
torchrun --nproc-per-node 8 tools/train_net.py --config-file configs/san/san_vit_b_16_coco_stuff.yaml
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout that is not installed, too

from ovseg.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
