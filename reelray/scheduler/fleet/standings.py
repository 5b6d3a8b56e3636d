"""What a fleet is asked about, and told, besides decisions: who waits how long, and what runs already."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from reelray.scheduler.fleet.admission import predict_start
from reelray.scheduler.fleet.decision import Placed, Queued
from reelray.scheduler.fleet.entry import Entry, State
from reelray.scheduler.fleet.pool import Pool
from reelray.scheduler.fleet.ticket import Ticket


def list_standings(entries: Iterable[Entry], pools: Mapping[str, Pool], now: float) -> Iterator[Queued]:
    """How all that wait stand.

    Args:
        entries: In the order in which they came.
        pools: By model.
        now: The time.

    Yields:
        Each with its predicted start; `waiting` counts itself and those of its model that came before.
    """
    counts = Counter[str]()
    for entry in entries:
        if entry.state is not State.WAITING:
            continue
        model = entry.ticket.model
        counts[model] += 1
        start_s = predict_start(entry, pools[model], now)
        if entry.latest_s is not None:
            start_s = min(start_s, max(now, entry.latest_s))
        yield Queued(request_id=entry.ticket.request_id, start_s=start_s, waiting=counts[model])


def entry_of_run(placed: Placed, ticket: Ticket, number: int) -> Entry:
    """The entry of a ticket that runs already; it cannot be stopped where somebody waits for it, or by a deadline.

    Args:
        placed: Since when it runs, in which attempt, and how much is left.
        ticket: What runs.
        number: In order of arrival.
    """
    entry = Entry(ticket, number, placed.start_s)
    entry.left, entry.attempt = min(max(placed.left, 1e-6), 1.0), placed.attempt - 1
    entry.latest_s = placed.start_s if ticket.is_interactive or ticket.deadline_s is not None else None
    entry.measure()
    return entry
