"""Whether a ticket is taken on, and what it is promised."""

from collections.abc import Iterator

from reelray.scheduler.fleet.decision import Queued, Reason, Refused
from reelray.scheduler.fleet.entry import Entry
from reelray.scheduler.fleet.policy import FleetPolicy
from reelray.scheduler.fleet.pool import Pool
from reelray.scheduler.fleet.promise_line import Offer
from reelray.scheduler.fleet.ticket import Kind

RETRY_S = 10.0
"""Where nothing better is known: about the time in which an engine comes back."""
SOONER = (1.0, 0.5, 0.25)
"""A high priority asks for the earliest place first, then for later ones."""
SOON_S = 1.0
"""Nobody is told to ask again sooner."""


def admit(entry: Entry, pool: Pool, policy: FleetPolicy, now: float) -> Queued | Refused:
    """Decide, and set what the entry is promised; it is not in a line yet.

    Args:
        entry: The newcomer.
        pool: Where it would wait.
        policy: The rules.
        now: The time.
    """
    refused = _check_room(entry, pool, policy, now)
    if refused is not None:
        return refused
    start_s = predict_start(entry, pool, now)
    if dues := _dues(entry, policy, now):
        kept, offers = _first_kept(entry, pool, policy, dues, now)
        if kept is None:
            return _refuse_deadline(entry, offers, dues[-1], now)
        if not _has_share(entry, kept, pool, policy, now):
            wait_s = pool.promises.work_of(entry.ticket.tenant) / pool.promises.gpus
            return Refused(request_id=entry.ticket.request_id, reason=Reason.SHARE, retry_after_s=wait_s)
        entry.need, entry.latest_s, start_s = kept.need, kept.latest_s, kept.start_s
        entry.starts_now = kept.starts_now
        entry.measure()
    return Queued(request_id=entry.ticket.request_id, start_s=start_s, waiting=pool.waiting + 1)


def predict_start(entry: Entry, pool: Pool, now: float) -> float:
    """When a ticket without a promise would begin, if nothing else came."""
    gpus = pool.index.gpus
    if not gpus:
        return float("inf")
    if not pool.waiting and pool.free_gpus >= entry.need:
        return now
    if entry.pinned is not None:
        engine = pool.index.engines[entry.pinned]
        return now + (engine.remaining_s(now, promised=False) + engine.line_s) / engine.facts.gpus
    ahead_s = pool.running.load.remaining_s(now) + pool.promises.work_s + pool.lines.work_s
    return now + (ahead_s + pool.fair.ahead_s(entry.ticket.tenant)) / gpus


def _check_room(entry: Entry, pool: Pool, policy: FleetPolicy, now: float) -> Refused | None:
    request_id, ticket = entry.ticket.request_id, entry.ticket
    if not pool.index.sizes:
        if ticket.is_interactive or ticket.deadline_s is not None:
            return Refused(request_id=request_id, reason=Reason.NO_ENGINE, retry_after_s=RETRY_S)
    elif not pool.index.could_take(entry.need, ticket.memory_bytes):
        return Refused(request_id=request_id, reason=Reason.TOO_LARGE)
    full = pool.waiting >= policy.most_waiting
    if full or pool.waiting_of(ticket.tenant) >= policy.most_waiting_per_tenant:
        start_s = predict_start(entry, pool, now)
        if start_s == float("inf"):
            return Refused(request_id=request_id, reason=Reason.QUEUE_FULL, retry_after_s=RETRY_S)
        wait_s = entry.work_s / pool.index.gpus  # about one such ticket leaves the line in that time
        finish_s = start_s + entry.seconds(entry.need)
        return Refused(request_id=request_id, reason=Reason.QUEUE_FULL, finish_s=finish_s, retry_after_s=wait_s)
    return None


def _dues(entry: Entry, policy: FleetPolicy, now: float) -> list[float]:
    """By when it must have begun, if it is a stream, or be finished; the last is the latest, none promises nothing.

    Where patience alone says when, a level of priority is worth as much waiting as elsewhere: a high one asks for an
    earlier place and makes do with that of all, a low one takes a later one.
    """
    ticket = entry.ticket
    if not policy.keeps_deadlines:
        return []
    if ticket.deadline_s is not None:
        return [ticket.deadline_s]
    if not ticket.is_interactive:
        return []
    seconds = 0.0 if ticket.kind is Kind.STREAM else entry.seconds(entry.need)
    latest_s = now + policy.patience_s + max(0, -ticket.priority) * policy.priority_s + seconds
    sooner_s = min(max(0, ticket.priority) * policy.priority_s, policy.patience_s)
    return [latest_s - share * sooner_s for share in SOONER] + [latest_s] if sooner_s else [latest_s]


def _first_kept(
    entry: Entry, pool: Pool, policy: FleetPolicy, dues: list[float], now: float
) -> tuple[Offer | None, list[Offer]]:
    """The first promise that can be given; without one, those that cannot, for the latest due."""
    offers = list[Offer]()
    for due_s in dues:
        offers = []
        for offer in _offers(entry, pool, policy, due_s, now):
            if offer.is_kept:
                return offer, offers
            offers.append(offer)
    return None, offers


def _offers(entry: Entry, pool: Pool, policy: FleetPolicy, due_s: float, now: float) -> Iterator[Offer]:
    """One for each number of GPUs, the fewest first: what they save is for others."""
    if entry.pinned is None:
        first_s = pool.lines.promised_s
        free = pool.free_gpus - pool.promises.starting_gpus
        soon = free + pool.balance.stoppable_gpus if policy.preempts and entry.ticket.is_interactive else 0
        options = [need for need in entry.options if pool.index.could_take(need, entry.ticket.memory_bytes)]
    else:
        engine = pool.index.engines[entry.pinned]
        first_s = engine.remaining_s(now, promised=policy.preempts) + engine.line_s
        free, soon = 0 if engine.line_count else engine.free_gpus, 0
        options = [need for need in entry.options if need <= engine.facts.gpus]
    for need in options:
        seconds = entry.seconds(need)
        latest_s = due_s - policy.stop_s - (0.0 if entry.ticket.kind is Kind.STREAM else seconds)
        is_free = need <= free and latest_s + policy.stop_s >= now and _fits(entry, need, pool)
        if options[0] < need > pool.balance.most_gpus and not is_free and entry.pinned is None:
            continue  # it would wait for the GPUs of renders too, and it need not have them
        is_soon = need == 1 <= soon and latest_s >= now  # of several GPUs nobody knows whether one engine has them
        has_slack = entry.pinned is not None or pool.promises.slack_s(first_s, now) >= need * seconds
        if (is_free or is_soon) and has_slack:
            yield Offer(need=need, latest_s=latest_s, start_s=now, is_kept=True, starts_now=True)
        elif entry.pinned is None:
            yield pool.promises.offer(need, seconds, latest_s, first_s, now)
        else:
            start_s = now + first_s / engine.facts.gpus
            yield Offer(need=need, latest_s=latest_s, start_s=start_s, is_kept=start_s <= latest_s)


def _fits(entry: Entry, gpus: int, pool: Pool) -> bool:
    if entry.pinned is None:
        if gpus > 1 and pool.promises.starting:  # one of those may take the engine that has so many
            return False
        return pool.index.find(gpus, entry.ticket.memory_bytes, spreads=False) is not None
    return pool.index.engines[entry.pinned].free_bytes >= entry.ticket.memory_bytes


def _refuse_deadline(entry: Entry, offers: list[Offer], due_s: float, now: float) -> Refused:
    ends = [max(now, offer.start_s) + entry.seconds(offer.need) for offer in offers]
    waits = [max(now, offer.start_s) - now for offer in offers]
    is_stream = entry.ticket.kind is Kind.STREAM
    late_s = (min(waits) + now if is_stream else min(ends)) - due_s
    return Refused(
        request_id=entry.ticket.request_id,
        reason=Reason.DEADLINE,
        finish_s=min(ends),
        retry_after_s=max(SOON_S, late_s) if min(waits) > 0 else None,
    )


def _has_share(entry: Entry, offer: Offer, pool: Pool, policy: FleetPolicy, now: float) -> bool:
    """Whether a tenant keeps to its weight's part of what can be promised, while others want promises too."""
    if not policy.is_fair or entry.pinned is not None or offer.starts_now:
        return True
    share = pool.promises.share_of(entry.ticket.tenant)
    own_s = pool.promises.work_of(entry.ticket.tenant)
    return share == 1.0 or own_s <= share * pool.promises.gpus * (offer.latest_s - now)
