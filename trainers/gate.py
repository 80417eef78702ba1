"""May this version go live? Judged on generated answers, never on losses or margins. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from runtime.project import Gate
from trainers.evaluate import Evaluation, paired_lower_bound


@dataclass(frozen=True, slots=True)
class Verdict:
    """`passed`, and the words for it with their numbers."""

    passed: bool
    reason: str


def judge(gate: Gate, candidate: Evaluation, base: Evaluation, live: Evaluation | None) -> Verdict:
    """The verdict on `candidate`: above the floor, better than the base alone, not worse than the live version."""
    name = candidate.metric
    if candidate.count == 0:
        return Verdict(False, "no held-out examples: publish more groups")
    if candidate.score < gate.min_score:
        return Verdict(False, f"{name} {candidate.score:.3f} is below the floor {gate.min_score:.3f}")
    if (margin := paired_lower_bound(candidate.each, base.each)) <= 0:
        return Verdict(False, f"{name} {candidate.score:.3f} is not above the base's {base.score:.3f}: paired 95 % lower bound {margin:+.3f}")
    if live is not None and (margin := paired_lower_bound(candidate.each, live.each)) < -gate.max_loss:
        return Verdict(False, f"{name} {candidate.score:.3f} may be worse than the live {live.score:.3f}: paired 95 % lower bound {margin:+.3f}, {-gate.max_loss:+.3f} allowed")
    against = f", live {live.score:.3f}" if live else ""
    return Verdict(True, f"{name} {candidate.score:.3f} on {candidate.count} held-out examples, base {base.score:.3f}{against}")


def judge_base(before: Sequence[float], after: Sequence[float]) -> Verdict:
    """The verdict on a Domain-Base from each held-out window's cross entropy, in nats a token, before and after."""
    if not before:
        return Verdict(False, "no held-out documents: publish more of them")
    old, new = (math.exp(sum(nats) / len(nats)) for nats in (before, after))
    words = f"perplexity {new:.2f} on {len(after)} held-out windows, {old:.2f} before"
    return Verdict(new < old, words if new < old else words + ": it learnt nothing that helps")
