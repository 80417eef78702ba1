"""Whatever is asked, and however replies and crashes come, a teacher's limits hold."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from runtime.project import TeacherLimits
from streams.teacher.ledger import Account, BudgetSpent, book, price, settle

ASKED = st.lists(st.tuples(st.integers(1, 3000), st.integers(1, 2000), st.floats(0, 1), st.booleans(), st.integers(0, 2)), max_size=60)


@given(ASKED, st.integers(1, 5), st.integers(100, 9000), st.integers(1, 60_000), st.floats(0.001, 0.2))
def test_limits_hold(asked: list[tuple[int, int, float, bool, int]], requests: int, tokens: int, budget_tokens: int, budget_usd: float) -> None:
    """Each request books its most, uses a share of that, and may never be settled, as after a crash; time goes on by minutes."""
    limits = TeacherLimits(
        requests_per_minute=requests, tokens_per_minute=tokens, budget_tokens=budget_tokens, budget_usd=budget_usd, usd_per_million_input=2.5, usd_per_million_output=10.0
    )  # fmt: skip
    account, minute, sent = Account(), 7, Counter[int]()
    for given_tokens, reply_tokens, share, crashed, later in asked:
        minute += later
        most = price(limits, given_tokens, reply_tokens)
        try:
            booked = book(account, limits, most, minute)
        except BudgetSpent:
            assert account.tokens + most.tokens > budget_tokens or account.usd + most.usd > budget_usd
            continue
        if booked is None:
            assert account.minute == minute
            assert account.minute_requests == requests or account.minute_tokens + most.tokens > tokens
            continue
        sent[minute] += 1
        account = booked if crashed else settle(booked, most, price(limits, round(share * given_tokens), round(share * reply_tokens)), minute)
        assert 0 <= account.tokens <= budget_tokens
        assert -1e-9 <= account.usd <= budget_usd + 1e-9
        assert account.minute_tokens <= tokens or account.minute_requests == 1
    assert all(count <= requests for count in sent.values())
    assert account.requests == sent.total()


def test_without_limits_everything_is_let_through() -> None:
    account = Account()
    for _ in range(1000):
        account = book(account, TeacherLimits(), price(TeacherLimits(), 10**6, 10**6), 0) or pytest.fail("refused")
    assert account.requests == 1000


def test_a_budget_in_money_needs_prices() -> None:
    with pytest.raises(ValidationError, match="budget_usd needs `usd_per_million_input`"):
        TeacherLimits(budget_usd=5.0)
