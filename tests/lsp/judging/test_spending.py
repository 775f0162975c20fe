"""What may be spent, and how fast."""

import asyncio

import pytest

from lsp.judging.spending import BudgetReached, Spending


def test_a_reservation_waits_for_calls_in_flight_and_is_refused_once_there_are_none():
    async def by_hand():
        spending = Spending(limit=1.0)
        await spending.reserve(0.6)
        waiting = asyncio.create_task(spending.reserve(0.8))
        await asyncio.sleep(0)
        assert not waiting.done() and spending.reserved == 0.6
        await spending.settle(0.6, 0.2)  # 0.4 of the reservation come back: 0.2 + 0.8 fit
        await waiting
        assert (spending.spent, spending.reserved, spending.at_most) == (0.2, 0.8, False)
        await spending.settle(0.8, None)  # nobody knows what it was, so it counts whole
        assert (spending.spent, spending.reserved, spending.at_most) == (1.0, 0.0, True)
        with pytest.raises(BudgetReached):
            await spending.reserve(0.01)

    asyncio.run(by_hand())
