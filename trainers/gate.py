"""May this version go live? Judged on generated answers, never on losses or margins. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from runtime.project import Gate
from trainers.bounds import paired_lower_bound
from trainers.evaluate import Evaluation, Scores

ENOUGH = 200
"""Of fewer held-out examples a difference of two points can't be told from chance, and the verdict says that it is underpowered."""
ROUNDING = 1e-9
ENOUGH_NEW = 20
"""Fewer new held-out examples say nothing on the new data."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """`passed`, the words for it with their numbers, and the numbers by name."""

    passed: bool
    reason: str
    numbers: dict[str, float]


@dataclass(frozen=True, slots=True)
class Rivals:
    """What a candidate is compared with, on the same examples: the base alone, the live version, and the best version ever on the anchors."""

    base: Evaluation
    live: Scores | None = None
    best_on_anchors: Evaluation | None = None


@dataclass(frozen=True, slots=True)
class _Check:
    """A number, the least or the most that it may be, and what is wrong where it does not hold."""

    name: str
    value: float
    holds: bool
    fault: str


@dataclass(frozen=True, slots=True)
class Change:
    """Each window's cross entropy, in nats a token, before a training and after it."""

    before: Sequence[float]
    after: Sequence[float]

    @property
    def perplexity_before(self) -> float:
        """Per token, each window counting the same."""
        return _perplexity(self.before)

    @property
    def perplexity(self) -> float:
        """After it."""
        return _perplexity(self.after)

    @property
    def rise(self) -> float:
        """Of the perplexity, in relation; negative where it fell."""
        return self.perplexity / self.perplexity_before - 1


def _perplexity(nats: Sequence[float]) -> float:
    return math.exp(sum(nats) / len(nats))


def judge(gate: Gate, candidate: Scores, rivals: Rivals, size_bytes: int, *, floor_only: bool = False) -> Verdict:
    """The verdict on `candidate`: good enough, valid and small enough, better than the base alone; not worse than the live version, neither on all
    examples nor on those that it has not seen, nor slower; not
    worse than the best version ever on the anchors, of which there are too few for a bound.

    `floor_only`: a version on a new base, or one that has forgotten something, need only be good enough, valid and small enough.
    """
    whole = candidate.whole
    if whole.count == 0:
        return Verdict(False, "no held-out examples: publish more groups", {})
    checks = list(_alone(gate, candidate, size_bytes))
    if not floor_only:
        checks += _against(gate, candidate, rivals)
    underpowered = whole.count < ENOUGH
    if underpowered and gate.underpowered == "reject" and not floor_only:
        checks.append(_Check("held_out", whole.count, False, f"{whole.count} held-out examples are too few to tell, {ENOUGH} are enough"))
    numbers = {check.name: check.value for check in checks if math.isfinite(check.value)} | {"underpowered": float(underpowered)}
    words = f"{whole.metric} {whole.score:.3f} on {whole.count} held-out examples, base {rivals.base.score:.3f}" + (f", live {rivals.live.whole.score:.3f}" if rivals.live else "")
    faults = [check.fault for check in checks if not check.holds]
    return Verdict(not faults, ("underpowered: " if underpowered else "") + "; ".join([words, *faults]), numbers)


def _alone(gate: Gate, candidate: Scores, size_bytes: int) -> Iterator[_Check]:
    whole = candidate.whole
    yield _Check("score", whole.score, whole.score >= gate.min_score, f"that is below the floor {gate.min_score:.3f}")
    yield _Check("valid_share", whole.valid_share, whole.valid_share >= gate.min_valid, f"only {whole.valid_share:.3f} of the answers are valid, {gate.min_valid:.3f} must be")
    if candidate.judge_score is not None:
        yield _Check("judge_score", candidate.judge_score, candidate.judge_score >= gate.min_judge_score, f"the judge's mean score is {candidate.judge_score:.3f}, {gate.min_judge_score:g} at least")
    yield _Check("size_bytes", size_bytes, size_bytes <= gate.max_megabytes * 1e6, f"its weights have {size_bytes / 1e6:.1f} MB, {gate.max_megabytes:g} at most")


def _against(gate: Gate, candidate: Scores, rivals: Rivals) -> Iterator[_Check]:
    margin = paired_lower_bound(candidate.whole, rivals.base)
    yield _Check("bound_over_base", margin, margin > 0, f"that is not above the base: paired 95 % lower bound {margin:+.3f}")
    if rivals.best_on_anchors and candidate.anchors:
        best = rivals.best_on_anchors
        gain = candidate.anchors.score - best.score
        yield _Check("gain_over_best", gain, gain > -gate.max_loss - ROUNDING, f"on the {best.count} anchors it has {candidate.anchors.score:.3f}, the best version {best.score:.3f}: {-gate.max_loss:+.3f} allowed")
    live = rivals.live
    if live is None:
        return
    margin = paired_lower_bound(candidate.whole, live.whole)
    yield _Check("bound_over_live", margin, margin > -gate.max_loss, f"that may be worse than the live one: paired 95 % lower bound {margin:+.3f}, {-gate.max_loss:+.3f} allowed")
    if candidate.new and live.new and candidate.new.count >= ENOUGH_NEW:
        gain = candidate.new.score - live.new.score
        yield _Check("gain_on_new", gain, gain >= 0, f"on the {live.new.count} that the live one has not seen it has {candidate.new.score:.3f}, the live one {live.new.score:.3f}")
    slowdown = candidate.tokens_an_answer / live.tokens_an_answer if live.tokens_an_answer else 1.0
    yield _Check("slowdown", slowdown, slowdown <= gate.max_slowdown, f"its answers take {slowdown:.2f} times the live one's tokens, {gate.max_slowdown:g} at most")


def judge_base(domain: Change, general: Change, max_forgetting: float) -> Verdict:
    """The verdict on a Domain-Base: it reads held-out documents better than before, and general text hardly worse."""
    if not domain.before:
        return Verdict(False, "no held-out documents: publish more of them", {})
    words = [f"perplexity {domain.perplexity:.2f} on {len(domain.after)} held-out windows, {domain.perplexity_before:.2f} before; on general text {general.perplexity:.2f}, {general.perplexity_before:.2f} before"]
    if domain.rise >= 0:
        words.append("it learnt nothing that helps")
    if general.rise > max_forgetting:
        words.append(f"it forgot: {general.rise:+.1%} on general text, {max_forgetting:+.1%} allowed")
    return Verdict(len(words) == 1, "; ".join(words), {"forgetting": general.rise})
