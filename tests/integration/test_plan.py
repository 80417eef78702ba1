"""`loom plan` beside what a training takes: in a process of its own, as a run has one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from runtime.project import Recipe
from trainers.backends.trl import rows_on_a_cpu
from trainers.plan import FULL, Machine, shape_of, training

ROOT = Path(__file__).parents[2]
BASE = str(ROOT / "models/base")
PROMPT, COMPLETION, ROWS = 88, 8, 64
RECIPE = Recipe(batch_size=16, max_steps=10, epochs=9)
TRAIN = f"""
import json, sys, torch
from pathlib import Path
from runtime.project import Recipe
from trainers import sft
torch.set_num_threads(1)
rows = [([5 + (i * j) % 900 for j in range({PROMPT})], [7 + (i + j) % 900 for j in range({COMPLETION})]) for i in range({ROWS})]
sft.train({BASE!r}, rows, Recipe(**json.loads(sys.argv[1])), Path(sys.argv[2]), lambda moment: None)
print(next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.mark.timeout(240)
def test_the_memory_of_a_training_is_what_was_planned(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", TRAIN, json.dumps(RECIPE.model_dump()), str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    planned = training(shape_of(BASE), RECIPE, Machine(8 << 30, 1e11, FULL, is_gpu=False), ROWS, PROMPT + COMPLETION, rows_on_a_cpu(PROMPT + COMPLETION))
    assert int(done.stdout.splitlines()[-1]) == pytest.approx(planned.memory_bytes, rel=0.3)
