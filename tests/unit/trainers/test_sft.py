"""What SFT says before it trains."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime.errors import InvalidInput
from runtime.project import Recipe
from trainers.sft import train


def test_examples_that_are_all_too_long_say_what_to_raise(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="none of 2 examples has at most 40 tokens: raise max_tokens"):
        train("nowhere", [([5] * 50, [6]), ([5] * 40, [6])], Recipe(max_tokens=40), tmp_path, lambda _: None)
