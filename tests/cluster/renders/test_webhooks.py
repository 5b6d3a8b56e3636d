"""Ends of renders told to a real receiver on loopback: until it hears them, and as nobody else could tell them."""

import asyncio
import base64
import hashlib
import hmac
import json
import threading
from contextlib import ExitStack
from dataclasses import replace

import openai
import pytest

from reelray.cluster.outbound.allow_list import AllowList, Reach
from reelray.cluster.outbound.exchange import Limits
from reelray.cluster.renders.webhook_event import read_key
from reelray.cluster.renders.webhook_turns import WebhookTurns
from reelray.cluster.renders.webhooks import WebhookHabits, WebhookTeller
from reelray.cluster.store.job import NewJob
from reelray.cluster.store.webhooks import Share, Webhooks, receiver_of
from reelray.proto.errors import ConflictError, InputError
from tests.support.web import start_web

KEY = bytes(range(32))
SECRET = "whsec_" + base64.b64encode(KEY).decode()
QUICK = WebhookHabits(look_s=0.01, first_pause_s=0.01, longest_pause_s=0.02, limits=Limits(total_s=5))


class Receiver:
    """Writes down what it is told, and answers as it is told to; 200 in the end."""

    def __init__(self, web):
        self.web, self.told, self.answers = web, [], []
        web.pages["/hooks/end"] = self.take

    @property
    def url(self):
        return f"{self.web.url}/hooks/end"

    def take(self, handler):
        body = handler.rfile.read(int(handler.headers["content-length"]))
        self.told.append((dict(handler.headers), body))
        status = self.answers.pop(0) if self.answers else 200
        handler.send_response(status)
        handler.send_header("location", "/hooks/elsewhere")
        handler.end_headers()


@pytest.fixture
def receiver():
    with start_web() as web:
        yield Receiver(web)


@pytest.fixture
def reach(receiver):
    return Reach(webhooks=AllowList.of([f"{receiver.web.url}/hooks/"], "--allow-webhook"), webhook_secret=KEY)


def submit(hands, url, number=0, **said):
    new = NewJob(tenant="ann", spec={"n": number}, queue="fake", webhook=url, **said)
    return hands.do(hands.store.jobs.submit(new)).ref


def end(hands, how="cancel"):
    ref = hands.claim().ref
    if how == "cancel":
        hands.do(hands.store.jobs.cancel(ref, "cancelled by its owner"))
    elif how == "fail":
        hands.fail("lightning")
    else:
        hands.commit(b"data")
        hands.finish()
    return ref


def webhook_of(hands, ref):
    return hands.do(hands.store.jobs.get(ref)).webhook


def tell(hands, reach, until, habits=QUICK, clock=None):
    """Let a server tell until something is so."""
    teller = WebhookTeller(hands.store.connection, reach, habits, *([clock] if clock else []))

    async def run():
        working = asyncio.create_task(teller.run())
        try:
            while not await asyncio.to_thread(until):
                assert not working.done(), working.exception()
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.02)
        finally:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)

    hands.do(run())


def settled(hands, ref):
    """A look from outside the loop at whether its end was told, or will not be."""
    loop, key = hands.loop, hands.store.connection.key("job", ref)

    def look():
        asked = hands.store.connection.command("HGET", key, "hook_end")
        return asyncio.run_coroutine_threadsafe(asked, loop).result(10)

    return look


def test_who_fails_twice_is_told_again_with_the_same_event_and_a_fresh_signature(hands, receiver, reach):
    ref = submit(hands, receiver.url)
    assert webhook_of(hands, ref).end == ""
    end(hands)
    receiver.answers = [500, 302]
    tell(hands, reach, settled(hands, ref))
    said = webhook_of(hands, ref)
    assert (said.end, said.tries, said.next_ms, said.error) == ("delivered", 3, None, "")
    assert receiver.web.asked == ["/hooks/end"] * 3  # the redirect was not followed
    assert len({(headers["webhook-id"], body) for headers, body in receiver.told}) == 1
    headers, body = receiver.told[-1]
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    assert headers["webhook-signature"] == "v1," + base64.b64encode(hmac.digest(KEY, signed, hashlib.sha256)).decode()
    event = json.loads(body)
    assert (event["type"], event["data"]["id"], event["data"]["tenant"]) == ("video.cancelled", ref.id, "ann")
    assert event["data"]["error"] == {"code": "cancelled", "message": "cancelled by its owner"}


@pytest.mark.parametrize(("how", "kind"), [("finish", "video.completed"), ("fail", "video.failed")])
def test_events_are_those_that_openais_client_checks(hands, receiver, reach, how, kind):
    ref = submit(hands, receiver.url)
    end(hands, how)
    tell(hands, reach, settled(hands, ref))
    headers, body = receiver.told[0]
    client = openai.OpenAI(api_key="none", webhook_secret=SECRET)
    client.webhooks.verify_signature(body.decode(), headers)
    with pytest.raises(openai.InvalidWebhookSignatureError):
        client.webhooks.verify_signature(body.decode().replace(ref.id, "f" * 32), headers)
    event = json.loads(body)
    assert (event["type"], event["data"]["id"]) == (kind, ref.id)
    assert event["data"]["bytes"] == (4 if how == "finish" else None)


def test_nobody_is_told_before_the_end_or_without_having_asked(hands, receiver, reach):
    waiting, silent, told = (
        submit(hands, receiver.url, 1, priority=-1),
        submit(hands, "", 2),
        submit(hands, receiver.url, 3),
    )
    for _ in range(2):
        end(hands)
    tell(hands, reach, settled(hands, told))
    assert len(receiver.told) == 1
    assert webhook_of(hands, silent) is None
    assert webhook_of(hands, waiting).tries == 0


def test_after_long_enough_or_where_it_is_gone_it_is_given_up(hands, receiver, reach):
    gone = submit(hands, receiver.url, 1)
    end(hands)
    receiver.answers = [410]
    tell(hands, reach, settled(hands, gone))
    assert (webhook_of(hands, gone).end, webhook_of(hands, gone).tries) == ("given_up", 1)
    assert "410" in webhook_of(hands, gone).error
    late = submit(hands, receiver.url, 2)
    ended_s = hands.do(hands.store.jobs.get(end(hands))).ended_ms / 1000
    receiver.answers = [500] * 50
    times = iter([ended_s, ended_s + 10.0, ended_s + 86_399.5])
    now_s = [0.0]

    def clock():
        now_s[0] = next(times, ended_s + 86_400.1)
        return now_s[0]

    tell(hands, reach, settled(hands, late), clock=clock)
    assert webhook_of(hands, late).end == "given_up"
    assert webhook_of(hands, late).tries >= 2
    count = len(receiver.told)
    tell(hands, reach, lambda: True)
    assert len(receiver.told) == count


def test_a_try_that_was_lost_with_its_server_is_made_again_by_another(hands, receiver, reach):
    ref = submit(hands, receiver.url)
    end(hands)
    webhooks = Webhooks(hands.store.connection)
    lost = hands.do(webhooks.claim(8, hold_s=3600.0))
    assert [due.job.ref for due in lost] == [ref]
    assert hands.do(webhooks.claim(8, hold_s=3600.0)) == []  # not by two at once
    connection = hands.store.connection
    hands.do(connection.command("ZADD", connection.key("hooks"), 1, str(ref)))  # the time is over
    tell(hands, reach, settled(hands, ref))
    assert (webhook_of(hands, ref).end, webhook_of(hands, ref).tries) == ("delivered", 2)
    hands.do(webhooks.failed(lost[0], "too late", pause_s=0.0))  # a word of the server that was lost
    hands.do(webhooks.give_up(lost[0], "too late"))
    assert webhook_of(hands, ref).end == "delivered"
    assert len(receiver.told) == 1


def test_places_that_are_not_trusted_any_more_hear_nothing(hands, receiver, reach):
    ref = submit(hands, f"{receiver.web.url}/other")
    end(hands)
    tell(hands, reach, lambda: settled_tries(hands, ref) >= 2)
    assert receiver.web.asked == []
    assert "not told to trust" in webhook_of(hands, ref).error


def test_an_end_that_another_build_wrote_holds_nobody_up(hands, receiver, reach):
    strange, plain = submit(hands, receiver.url, 1, priority=1), submit(hands, receiver.url, 2)
    hands.claim()
    hands.do(hands.store.leases.finish(hands.lease, {"video": {"reel": 7}}))
    end(hands)
    tell(hands, reach, lambda: settled(hands, plain)() and settled_tries(hands, strange) >= 2)
    assert len(receiver.told) == 1
    assert "another build" in webhook_of(hands, strange).error


def test_a_receiver_that_says_nothing_holds_up_nobody_else(hands, receiver, reach):
    go = threading.Event()
    receiver.web.pages["/hooks/silent"] = lambda handler: (go.wait(20), receiver.take(handler))
    silent = submit(hands, f"{receiver.web.url}/hooks/silent", 1, priority=1)
    other = submit(hands, receiver.url, 2)
    end(hands)
    ends = []

    def until():
        if "/hooks/silent" not in receiver.web.asked:
            return False
        if not ends:  # while the first is being told
            ends.append(asyncio.run_coroutine_threadsafe(cancel(hands, other), hands.loop).result(10))
        return settled(hands, other)()

    habits = replace(QUICK, limits=Limits(total_s=30))
    try:
        tell(hands, reach, until, habits)
    finally:
        go.set()
    assert webhook_of(hands, silent).end == ""
    assert webhook_of(hands, other).end == "delivered"


@pytest.fixture
def hanging():
    """Receivers that take what they are told and say nothing until the test is over."""
    go = threading.Event()
    with ExitStack() as opened:
        webs = [opened.enter_context(start_web()) for _ in range(10)]
        for web in webs:
            web.pages["/hooks/end"] = lambda _handler: go.wait(60)
        opened.callback(go.set)
        yield webs


PATIENT = replace(QUICK, limits=Limits(total_s=60), slow_s=0.2)


def test_many_receivers_that_hang_hold_up_nobody_else(hands, receiver, hanging):
    """More of them than are told at once, each with several ends that were due before."""
    urls = [f"{web.url}/hooks/" for web in (*hanging, receiver.web)]
    reach = Reach(webhooks=AllowList.of(urls, "--allow-webhook"), webhook_secret=KEY)
    silent = [submit(hands, f"{url}end", 10 * n + k, priority=1) for n, url in enumerate(urls[:-1]) for k in range(3)]
    good = [submit(hands, receiver.url, 1000 + n) for n in range(5)]
    for _ in (*silent, *good):
        end(hands)
    tell(hands, reach, lambda: all(settled(hands, ref)() for ref in good), PATIENT)
    assert len(receiver.told) == 5
    assert {webhook_of(hands, ref).end for ref in silent} == {""}


def test_a_receiver_that_hangs_has_its_share_and_not_more(hands, receiver, hanging, monkeypatch):
    """Also while it is not known to be slow, and with more ends than are looked at at once."""
    monkeypatch.setattr("reelray.cluster.store.webhooks._LOOKED_AT", 7)
    web, told = hanging[0], []
    hang = web.pages["/hooks/end"]
    web.pages["/hooks/end"] = lambda handler: (told.append(handler), hang(handler))
    reach = Reach(webhooks=AllowList.of([f"{web.url}/hooks/", f"{receiver.web.url}/hooks/"], "x"), webhook_secret=KEY)
    silent = [submit(hands, f"{web.url}/hooks/end", n, priority=1) for n in range(40)]
    good = submit(hands, receiver.url, 1000)
    for _ in (*silent, good):
        end(hands)
    tell(hands, reach, settled(hands, good), replace(QUICK, limits=Limits(total_s=60), slow_s=600.0))
    assert 1 <= len(told) <= 4
    tries = [webhook_of(hands, ref).tries for ref in silent]
    assert (sum(tries), max(tries)) == (len(told), 1)  # who has to wait has lost no try


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_slow_receivers_have_a_pool_of_their_own_until_they_answer_in_time():
    clock = Clock()
    turns = WebhookTurns(1.0, clock)
    for n in range(8):
        turns.begin(n, f"hangs-{n}")
    assert turns.free == 0
    clock.now = 2.0
    assert turns.free == 8
    assert turns.taken()["hangs-3"] == 4  # one, and no other beside it
    for n in range(8, 40):
        turns.begin(n, f"hangs-{n}")
    assert turns.free == 0
    clock.now = 4.0
    assert turns.free == 0  # there is an end to it
    for n in range(8):
        turns.end(n)
    assert turns.free == 8
    assert turns.taken()["hangs-3"] == 4  # many are slow: it waits until fewer are
    turns.end(39)
    assert turns.taken()["hangs-3"] == 3
    turns.begin("again", "hangs-3")
    turns.end("again")
    assert turns.taken().get("hangs-3", 0) == 0


@pytest.mark.parametrize(
    ("url", "receiver"),
    [
        ("https://Shop.example/a", "shop.example"),
        ("http://10.0.0.7:9000?x", "10.0.0.7:9000"),
        ("http://[::1]:8#", "[::1]:8"),
    ],
)
def test_receivers_are_hosts_with_their_ports(hands, url, receiver):
    assert receiver_of(url) == receiver
    submit(hands, url)
    end(hands)
    share = Share(most=1, taken={receiver: 1}, later_s=0.0)
    webhooks = Webhooks(hands.store.connection)
    assert hands.do(webhooks.claim(8, hold_s=9.0, share=share)) == []
    assert len(hands.do(webhooks.claim(8, hold_s=9.0, share=replace(share, taken={"another": 1})))) == 1


def test_what_is_beyond_a_share_stays_due(hands, monkeypatch):
    """Ends of a busy receiver are passed over, not put off: as soon as it has answered it is told of the next."""
    for seed in range(7):
        submit(hands, "https://busy/", seed)
    submit(hands, "https://free/", 8)
    for _ in range(8):
        end(hands)
    webhooks, share = Webhooks(hands.store.connection), Share(most=2, later_s=60.0)
    first = [due.job.webhook.url for due in hands.do(webhooks.claim(8, hold_s=9.0, share=share))]
    assert sorted(first) == ["https://busy/", "https://busy/", "https://free/"]
    assert hands.do(webhooks.claim(8, hold_s=9.0, share=replace(share, taken={"busy": 2}))) == []
    assert len(hands.do(webhooks.claim(8, hold_s=9.0, share=share))) == 2
    # Of what is too much to look through each time the first ones rest.
    monkeypatch.setattr("reelray.cluster.store.webhooks._PAGE", 1)
    monkeypatch.setattr("reelray.cluster.store.webhooks._LOOKED_AT", 2)
    assert hands.do(webhooks.claim(8, hold_s=9.0, share=replace(share, taken={"busy": 2}))) == []
    assert len(hands.do(webhooks.claim(8, hold_s=9.0, share=share))) == 1


async def cancel(hands, ref):
    await hands.store.jobs.cancel(ref, "cancelled by its owner")


def settled_tries(hands, ref):
    asked = hands.store.connection.command("HGET", hands.store.connection.key("job", ref), "hook_tries")
    return int(asyncio.run_coroutine_threadsafe(asked, hands.loop).result(10) or 0)


def test_a_job_that_was_deleted_is_told_of_to_nobody(hands, receiver, reach):
    ref, other = submit(hands, receiver.url, 1, priority=1), submit(hands, receiver.url, 2)
    expired = submit(hands, receiver.url, 3, priority=2)
    connection = hands.store.connection
    assert [end(hands) for _ in range(2)] == [expired, ref]
    hands.do(hands.store.jobs.forget(ref))
    assert hands.do(connection.command("ZRANGE", connection.key("hooks"), 0, -1)) == [str(expired).encode()]
    hands.do(connection.command("DEL", connection.key("job", expired)))  # as its time does
    end(hands)
    tell(hands, reach, settled(hands, other))
    assert len(receiver.told) == 1
    assert hands.do(connection.command("EXISTS", *(connection.key("job", one) for one in (ref, expired)))) == 0
    assert hands.do(connection.command("ZCARD", connection.key("hooks"))) == 0


def test_another_webhook_is_another_wish(hands, receiver):
    ref = submit(hands, receiver.url, key="k")
    assert submit(hands, receiver.url, key="k") == ref
    for url in ("", f"{receiver.url}2"):
        with pytest.raises(ConflictError):
            submit(hands, url, key="k")


def test_pauses_grow_to_an_hour():
    pauses = [WebhookHabits().pause_s("x", tries) for tries in range(1, 30)]
    assert all(5 * 2**n <= pause <= 6 * 2**n for n, pause in enumerate(pauses[:9]))
    assert min(pauses[10:]) >= 3600
    assert max(pauses) <= 4320


@pytest.mark.parametrize("secret", ["", "whsec_", SECRET[6:], "whsec_" + "A" * 20, "whsec_" + "A" * 400, "whsec_!!!!"])
def test_keys_have_a_form(secret):
    assert read_key(SECRET) == KEY
    with pytest.raises(InputError, match="REELRAY_WEBHOOK_SECRET") as raised:
        read_key(secret)
    assert not secret[6:] or secret[6:] not in raised.value.message
