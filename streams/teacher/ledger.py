"""What a teacher may be asked, by all workers together: so much a minute, and no more than its budget.

State: `teacher_usage`, a row a teacher. What a request will use is booked before it is sent, at the most that it can be,
and corrected by what it did use: neither many workers nor a crash can spend more than was declared.
"""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass, replace

import asyncpg

from runtime.errors import Transient
from runtime.metrics import COST, TOKENS
from runtime.project import TeacherLimits
from streams.teacher.asks import Assignment
from streams.teacher.teachers import Reply, Teacher, UnreadableReply, Usage

BYTES_A_TOKEN = 2
"""Fewer than tokenizers make of prose in any language, so that what is booked is hardly ever exceeded."""
TEMPLATE_TOKENS = 50
"""What a chat template adds to a prompt, at most."""
MINUTE = 60.0


@dataclass(frozen=True, slots=True)
class Account:
    """What a teacher was asked: in all, and in minute `minute` of the epoch."""

    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    usd: float = 0.0
    minute: int = 0
    minute_requests: int = 0
    minute_tokens: int = 0

    @property
    def tokens(self) -> int:
        """Tokens of both kinds."""
        return self.input_tokens + self.output_tokens


class BudgetSpent(Transient):
    """The teacher's budget does not allow another request; work waits until it is raised."""


def price(limits: TeacherLimits, input_tokens: int, output_tokens: int) -> Usage:
    """The usage with its cost."""
    return Usage(input_tokens, output_tokens, (input_tokens * limits.usd_per_million_input + output_tokens * limits.usd_per_million_output) / 1e6)


def book(account: Account, limits: TeacherLimits, most: Usage, minute: int) -> Account | None:
    """The account with one more request of at most `most`; None when the minute is full. Pure.

    A request that is larger than a whole minute's tokens goes alone.

    Raises:
        BudgetSpent: it could cost more than is left.
    """
    if limits.budget_usd is not None and account.usd + most.usd > limits.budget_usd:
        raise BudgetSpent(f"{account.usd:.2f} of budget_usd = {limits.budget_usd:g} are spent, and a request may cost {most.usd:.2g}")
    if limits.budget_tokens is not None and account.tokens + most.tokens > limits.budget_tokens:
        raise BudgetSpent(f"{account.tokens:,} of budget_tokens = {limits.budget_tokens:,} are spent, and a request may take {most.tokens:,}")
    if minute > account.minute:
        account = replace(account, minute=minute, minute_requests=0, minute_tokens=0)
    if limits.requests_per_minute is not None and account.minute_requests >= limits.requests_per_minute:
        return None
    if limits.tokens_per_minute is not None and account.minute_requests and account.minute_tokens + most.tokens > limits.tokens_per_minute:
        return None
    counted = replace(account, requests=account.requests + 1, minute_requests=account.minute_requests + 1, minute_tokens=account.minute_tokens + most.tokens)
    return replace(counted, input_tokens=account.input_tokens + most.input_tokens, output_tokens=account.output_tokens + most.output_tokens, usd=account.usd + most.usd)


def settle(account: Account, most: Usage, used: Usage, minute: int) -> Account:
    """The account with what was used in the place of what was booked in `minute`. Pure."""
    known = account.minute_tokens + used.tokens - most.tokens if minute == account.minute else account.minute_tokens
    input_tokens, output_tokens = account.input_tokens + used.input_tokens - most.input_tokens, account.output_tokens + used.output_tokens - most.output_tokens
    return replace(account, input_tokens=input_tokens, output_tokens=output_tokens, usd=account.usd + used.usd - most.usd, minute_tokens=known)


class Metered:
    """A teacher that is asked within its limits; its replies say what they cost."""

    def __init__(self, teacher: Teacher, limits: TeacherLimits, pool: asyncpg.Pool) -> None:
        self.name, self.able = teacher.name, teacher.able
        self._teacher, self._limits, self._pool = teacher, limits, pool

    async def ask(self, assignment: Assignment) -> Reply:
        """As the teacher's own; waits for the next minute where this one is full. Raises BudgetSpent too."""
        most = price(self._limits, len(assignment.prompt.encode()) // BYTES_A_TOKEN + TEMPLATE_TOKENS, assignment.ask.reply_tokens)
        minute = await self._book(most)
        used = Usage()
        try:
            reply = await self._teacher.ask(assignment)
            used = price(self._limits, reply.usage.input_tokens, reply.usage.output_tokens)
        except UnreadableReply as error:
            used = price(self._limits, error.usage.input_tokens, error.usage.output_tokens)
            raise
        finally:
            COST.labels(self.name, assignment.ask.name).inc(used.usd)
            TOKENS.labels(self.name, "input").inc(used.input_tokens)
            TOKENS.labels(self.name, "output").inc(used.output_tokens)
            await self._settle(most, used, minute)
        return replace(reply, usage=used)

    async def _book(self, most: Usage) -> int:
        """The minute in which the request was booked."""
        while True:
            minute, rest = divmod(time.time(), MINUTE)
            async with self._pool.acquire() as connection, connection.transaction():
                account = await self._account(connection)
                try:
                    booked = book(account, self._limits, most, int(minute))
                except BudgetSpent as error:
                    raise BudgetSpent(f"teacher {self.name} waits: {error}; raise it under [teacher] in loom.toml, and start the worker again") from None
                if booked:
                    await self._write(connection, booked)
                    return booked.minute
            await asyncio.sleep(MINUTE - rest + random.uniform(0, 1))

    async def _settle(self, most: Usage, used: Usage, minute: int) -> None:
        async with self._pool.acquire() as connection, connection.transaction():
            await self._write(connection, settle(await self._account(connection), most, used, minute))

    async def _account(self, connection: asyncpg.Connection) -> Account:
        await connection.execute("INSERT INTO teacher_usage (teacher) VALUES ($1) ON CONFLICT DO NOTHING", self.name)
        row = await connection.fetchrow(
            "SELECT requests, input_tokens, output_tokens, usd, minute, minute_requests, minute_tokens FROM teacher_usage WHERE teacher = $1 FOR UPDATE", self.name
        )
        return Account(*row)

    async def _write(self, connection: asyncpg.Connection, account: Account) -> None:
        await connection.execute(
            "UPDATE teacher_usage SET requests = $2, input_tokens = $3, output_tokens = $4, usd = $5, minute = $6, minute_requests = $7, minute_tokens = $8 WHERE teacher = $1",
            self.name, account.requests, account.input_tokens, account.output_tokens, account.usd, account.minute, account.minute_requests, account.minute_tokens,
        )  # fmt: skip
