"""A gateway as a Serve deployment: our own gRPC server on a port of its machine."""

import asyncio
import contextlib
import threading
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray

from reelray.cluster.assets.room import AssetRoom
from reelray.cluster.gateway.reach import read_reach
from reelray.cluster.gateway.render_house import RenderHouse, open_house
from reelray.cluster.gateway.served_models import ServedModel, ServedModels
from reelray.cluster.gateway.server import GatewayServer, Guard
from reelray.cluster.gateway.serving import ServeOptions, end_in_order, is_loopback, make_guard
from reelray.cluster.http_api.server import HttpPlace, HttpServer
from reelray.cluster.http_api.videos import House
from reelray.cluster.renders.retention import RetentionRule
from reelray.cluster.serve_app.arguments import GatewayArguments
from reelray.cluster.serve_app.engine_door import EngineDoor
from reelray.cluster.serve_config.keeping import asset_rule
from reelray.cluster.services import default_services
from reelray.cluster.settings import Settings
from reelray.cluster.store.connection import StoreAddress
from reelray.cluster.store.open import address_of
from reelray.proto.errors import EngineError, InputError

GREET_S = 2.0
ANSWER_S = 10.0


class GatewayReplica:
    """Serve starts it, asks whether it is well, and ends it in good order; calls do not pass through Serve.

    Args:
        arguments: Where to listen, and for whom.
        grace_s: How long running videos may take to end.
        engines: Serve's handles of the engines.

    Raises:
        InputError: The token or the certificate cannot be used.
        ResourceError: The address is not to be had.
        StoreError: The store of renders does not answer.
        ArtifactError: Their files cannot be read or written.
    """

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, arguments: GatewayArguments, grace_s: float, engines: Sequence[Any]
    ) -> None:
        guard = make_guard(serve_options(arguments))
        self._grace_s = grace_s
        self._doors, self._models = await asyncio.to_thread(find_models, engines, f"gateway-{uuid.uuid4().hex}")
        self._house, self._kept = None, contextlib.AsyncExitStack()
        if arguments.files is not None:
            settings = default_services().load_settings()
            address = store_address(settings)
            reach = read_reach(arguments.allow_urls, arguments.allow_webhooks, settings)
            rule = RetentionRule.of(days=arguments.keep_days, gigabytes=arguments.keep_gb)
            assets = asset_rule(arguments.model_dump())
            house = open_house(address, None, arguments.files, rule, self._models, reach=reach, asset_rule=assets)
            self._house = await self._kept.enter_async_context(house)
        archive = None if self._house is None else self._house.archive
        desk = None if self._house is None else self._house.desk
        server = GatewayServer(self._models, arguments.address, guard, archive, desk=desk, shares_port=True)
        # In this order: whoever finds the gRPC side healthy may come over HTTP, too.
        self._http = await start_http(arguments, guard, self._models, self._house, server.room)
        self._server = await server.start()
        self._greeting = [
            asyncio.create_task(keep_greeting(*pair)) for pair in zip(self._doors, self._models, strict=True)
        ]

    def port(self) -> int:
        """Where it listens."""
        return self._server.port

    def http_port(self) -> int | None:
        """Where it listens for HTTP; None where it does not."""
        return None if self._http is None else self._http.port

    def check_health(self) -> None:
        """Raise unless it takes calls; Serve asks again and again.

        Raises:
            EngineError: It does not.
        """
        if not self._server.is_serving or any(task.done() for task in self._greeting):
            raise EngineError("the gateway takes no calls")

    async def __del__(self) -> None:
        """Take nothing new, let running videos end; Serve awaits it."""
        if self._house is not None:
            await self._house.leave_work()
        leaving = () if self._http is None else (self._http.stop(self._grace_s),)
        await asyncio.gather(end_in_order(self._server, self._models, self._grace_s, asyncio.Event()), *leaving)
        await self._kept.aclose()
        for task in self._greeting:
            task.cancel()
        for door in self._doors:
            door.bye()
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        for model in self._models:
            model.close()


async def start_http(
    arguments: GatewayArguments,
    guard: Guard,
    models: ServedModels,
    house: RenderHouse | None,
    room: AssetRoom | None,
) -> HttpServer | None:
    """Listen for OpenAI's clients, where that is asked for.

    Raises:
        InputError: The certificate cannot be used.
        ResourceError: The port is not to be had.
    """
    if arguments.http_port is None or house is None or room is None:
        return None
    place = HttpPlace(
        host=arguments.address.rpartition(":")[0],
        port=arguments.http_port,
        on_loopback=is_loopback(arguments.address),
        certificate=arguments.tls_certificate,
        key=arguments.tls_key,
        shares_port=True,
    )
    found = House(models=models, archive=house.archive, room=room, desk=house.desk, quotas=guard.quotas)
    return await HttpServer(found, place, guard.callers).start()


async def keep_greeting(door: EngineDoor, model: ServedModel) -> None:
    """Greet an engine for ever."""
    while True:
        await asyncio.sleep(GREET_S)
        await greet(door, model)


async def greet(door: EngineDoor, model: ServedModel) -> None:
    """Tell an engine that its gateway is there, and act on what it answers before a caller finds out.

    One that is about to go is left for its replacement; one that does not answer is looked after.
    """
    try:
        stays = await asyncio.wait_for(door.greet(), ANSWER_S)
    except (ray.exceptions.RayError, TimeoutError):
        threading.Thread(target=model.look_after, name=f"look after {model.entry.name}", daemon=True).start()
        return
    if not stays:
        with contextlib.suppress(Exception):  # there is no replacement yet
            model.description = await asyncio.to_thread(door.move)


def serve_options(arguments: GatewayArguments) -> ServeOptions:
    """The same in the words of the gateway.

    Raises:
        InputError: The token cannot be read.
    """
    return ServeOptions(
        address=arguments.address,
        token=None if arguments.token_file is None else read_token(arguments.token_file),
        tokens=arguments.tokens_file,
        certificate=arguments.tls_certificate,
        key=arguments.tls_key,
        quotas=arguments.quotas.quotas(),
    )


def store_address(settings: Settings) -> StoreAddress:
    """The store of renders, which gateways of several machines share.

    Raises:
        InputError: The environment names none.
    """
    address = address_of(settings)
    if address is None:
        raise InputError("gateway.files keeps renders, whose jobs need a store: name it by REELRAY_REDIS_URL")
    return address


def read_token(file: Path) -> str:
    """What a file of a secret holds, without the line end that editors add.

    Raises:
        InputError: It cannot be read.
    """
    try:
        return file.read_text().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the token file '{file}' cannot be read: {error}") from None


def find_models(engines: Sequence[Any], client: str) -> tuple[list[EngineDoor], ServedModels]:
    """Wait for all engines."""
    doors = [EngineDoor(engine, client) for engine in engines]
    return doors, ServedModels([ServedModel(door.entry, door.open) for door in doors])
