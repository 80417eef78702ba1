"""What is hidden from one library is there for the next, whichever a process loads first."""

from __future__ import annotations

import subprocess
import sys

PARSES_THEN_TRAINS = """
from streams import privacy
from streams.parse import by_unstructured

by_unstructured.offline()
privacy._recognisers(False)
import sys
print("torch" in sys.modules)

from peft import PeftModel
from trl import SFTTrainer

print("torch" in sys.modules)
"""


def test_a_process_that_parsed_can_train() -> None:
    done = subprocess.run([sys.executable, "-c", PARSES_THEN_TRAINS], check=False, capture_output=True, text=True)
    assert (done.stdout.split(), done.returncode) == (["False", "True"], 0), done.stderr
