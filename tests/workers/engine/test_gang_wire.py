"""The connection between a leader and a rank."""

import socket

from reelray.workers.engine.gang_door import Door
from reelray.workers.engine.gang_wire import Hello, Wire
from tests.support.waiting import wait_until


def leaves_at_once(wire: Wire) -> bool:
    with socket.socket(fileno=wire.connection.fileno()) as known:
        value = known.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        known.detach()
    return bool(value)


def test_no_end_holds_a_small_message_until_an_earlier_one_is_acknowledged() -> None:
    door = Door("127.0.0.1", interface=None, backlog=1)
    rank = Wire.connect(door.invite(0))
    rank.send(Hello(rank=0, ticket=0, pid=1, code="c"))
    arrived = []
    wait_until(lambda: arrived.extend(door.arrivals()) or arrived)
    assert leaves_at_once(rank)
    assert leaves_at_once(arrived[0][1])
    rank.close()
    arrived[0][1].close()
    door.close()
