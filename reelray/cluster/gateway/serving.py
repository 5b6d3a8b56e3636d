"""`reelray serve`: opens engines, listens, and ends in good order."""

import asyncio
import contextlib
import ipaddress
import logging
import math
import signal
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import grpc
import uvloop

from reelray.cluster.assets.asset import AssetRule
from reelray.cluster.engine_groups.opening import PlannedGroup, open_groups, plan_groups, shares_ray
from reelray.cluster.engine_groups.options import GroupOptions
from reelray.cluster.gateway.callers import DEFAULT_TENANT, Callers, read_tokens
from reelray.cluster.gateway.reach import read_reach
from reelray.cluster.gateway.render_house import RenderHouse, check_place, open_house
from reelray.cluster.gateway.served_models import ANSWER_S, ServedModels
from reelray.cluster.gateway.server import GatewayServer, Guard
from reelray.cluster.gateway.tenant_quotas import TenantQuotas
from reelray.cluster.http_api.server import HttpPlace, HttpServer
from reelray.cluster.http_api.videos import House
from reelray.cluster.plain_json import from_plain, to_plain
from reelray.cluster.ray_head import head_is_lost
from reelray.cluster.render_plan import Place
from reelray.cluster.renders.retention import RetentionRule
from reelray.cluster.services import Services
from reelray.cluster.settings import Settings
from reelray.cluster.store.connection import StoreAddress
from reelray.cluster.store.embedded import EmbeddedStore
from reelray.cluster.store.open import address_of
from reelray.cluster.supervisor.seat import News, Ports, Seat
from reelray.proto.engine_description import EngineDescription
from reelray.proto.errors import EngineError, InputError, OutputError, ReelrayError

GRACE_S = 30.0
RAY_LOOK_S = 0.5
IDLE_LOOK_S = 0.05
LAST_WORDS_S = 0.5
"""For what is on its way to clients whose video is complete."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ServeOptions:
    """What `reelray serve` is asked for.

    Args:
        groups: What is served; the setting's model if there is nothing.
        place: Where that one runs.
        address: Where to listen.
        token: What callers must say; None lets everybody in, on loopback only.
        tokens: File of tenants and their tokens; see `callers.read_tokens`.
        certificate: PEM file of the server's certificate chain.
        key: PEM file of its private key.
        grace_s: How long running requests may take to end once the server is asked to stop.
        data: Folder of the store and of renders' files; the setting's `serve` folder otherwise.
        keep: How long ended renders are kept.
        http_port: Port of HTTP on the address's host; 0 takes a free one, None means that there is no HTTP.
        allow_urls: Beginnings of addresses from which pictures may be fetched.
        allow_webhooks: Beginnings of addresses that may be told of ends of renders.
        assets: How much is kept of what callers bring along.
        quotas: How much tenants may ask for.
    """

    groups: Sequence[GroupOptions] = ()
    place: Place = field(default_factory=Place)
    address: str = "127.0.0.1:50051"
    token: str | None = field(default=None, repr=False)
    tokens: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    grace_s: float = GRACE_S
    data: Path | None = None
    keep: RetentionRule = field(default_factory=RetentionRule)
    http_port: int | None = None
    allow_urls: Sequence[str] = ()
    allow_webhooks: Sequence[str] = ()
    assets: AssetRule = field(default_factory=AssetRule)
    quotas: TenantQuotas = field(default_factory=TenantQuotas)

    def __post_init__(self) -> None:
        if not 0 <= self.grace_s < math.inf:
            raise InputError(f"grace is {self.grace_s}; it must be a number of seconds, 0 or more")


@dataclass(frozen=True, slots=True)
class _Listener:
    """Who hears of a server: whoever started it, and whoever keeps it going."""

    tell: Callable[[str], None]
    seat: Seat
    shares_ray: bool


def serve(options: ServeOptions, services: Services, tell: Callable[[str], None], seat: Seat | None = None) -> None:
    """Serve until SIGINT or SIGTERM.

    Args:
        options: What and where.
        services: Knows settings and checkpoints.
        tell: Takes lines for whoever started it.
        seat: Is told when it listens; after a loss it knows where that was.

    Raises:
        ReelrayError: Something cannot be served so; nothing listens.
    """
    seat = seat or Seat()
    options = _as_before(options, seat.before)
    guard = make_guard(options)
    reach = read_reach(options.allow_urls, options.allow_webhooks, services.load_settings())
    _speak_up()
    with ExitStack() as opened:
        data = choose_data(options, services)
        address, embedded = start_store(services.load_settings(), data / "store", opened)
        asyncio.run(check_place(address, data / "renders"))
        planned = plan_models(options, services)
        models = ServedModels(open_groups(planned, services, tell, opened, _engines_before(seat.before)))
        house = partial(
            open_house, address, embedded, data / "renders", options.keep, reach=reach, asset_rule=options.assets
        )
        uvloop.run(_serve(models, options, guard, house, _Listener(tell, seat, shares_ray(planned))))


def _speak_up() -> None:
    """Have what goes wrong while nobody waits for it be seen, unless all is said anyway."""
    if not any(isinstance(handler, logging.StreamHandler) for handler in logging.getLogger("reelray").handlers):
        for name in ("gateway", "renders", "coordinator"):
            logging.getLogger(f"reelray.{name}").addHandler(logging.StreamHandler())


def _as_before(options: ServeOptions, news: News | None) -> ServeOptions:
    """Listen where the server that was lost did, also where any port was free to be taken."""
    if news is None:
        return options
    host = options.address.rpartition(":")[0]
    return replace(options, address=f"{host}:{news.ports.grpc}", http_port=news.ports.http)


def _engines_before(news: News | None) -> dict[str, EngineDescription]:
    """What engines said of themselves: so that callers are answered before they are loaded again."""
    return {} if news is None else {name: from_plain(EngineDescription, said) for name, said in news.engines.items()}


def data_folder(options: ServeOptions, services: Services) -> Path:
    """The folder of what outlives a server."""
    return (options.data or services.load_settings().data_dir / "serve").expanduser().absolute()


def choose_data(options: ServeOptions, services: Services) -> Path:
    """The same, made where it is not there.

    Raises:
        OutputError: It cannot be made.
    """
    folder = data_folder(options, services)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"'{folder}' cannot be made: {error.strerror}; name another folder (--data DIR)") from None
    return folder


def start_store(settings: Settings, folder: Path, opened: ExitStack) -> tuple[StoreAddress, EmbeddedStore | None]:
    """The store that the environment names, or one of this machine.

    Raises:
        InputError: The environment names none that is one.
        StoreStartError: The one of this machine cannot be started.
    """
    address = address_of(settings)
    if address is not None:
        return address, None
    embedded = opened.enter_context(EmbeddedStore(folder))
    return StoreAddress(url=embedded.url), embedded


def make_guard(options: ServeOptions) -> Guard:
    """Who may come in.

    Raises:
        InputError: Others could reach the server and nothing would stop them, or a file cannot be read.
    """
    if (options.certificate is None) != (options.key is None):
        raise InputError("--tls-cert and --tls-key belong together; give both or none")
    if not is_loopback(options.address) and not (options.token or options.tokens or options.certificate):
        raise InputError(
            f"{options.address} can be reached from other machines; give --token or --tokens, or --tls-cert and "
            "--tls-key, or listen on 127.0.0.1"
        )
    tenants = {} if options.tokens is None else read_tokens(options.tokens)
    if options.token is not None:
        tenants[options.token] = DEFAULT_TENANT
    credentials = _read_credentials(options.certificate, options.key)
    return Guard(callers=Callers(tenants), credentials=credentials, quotas=options.quotas)


def is_loopback(address: str) -> bool:
    """Whether only this machine can reach an address.

    Raises:
        InputError: It is no address with a port.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise InputError(f"address is '{address}'; write HOST:PORT, such as 127.0.0.1:50051")
    if host == "localhost":
        return True
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    return False


def read_http_port(text: str) -> int | None:
    """Read a port as the command line says it: a number, `free` for any, `0` or `off` for None.

    Raises:
        InputError: It is something else.
    """
    if text in {"0", "off"}:
        return None
    if text == "free":
        return 0
    if not (text.isascii() and text.isdecimal() and len(text) <= 5 and int(text) <= 65535):
        raise InputError(f"http-port is {text[:40]!r}; it must be 1 to 65535, free, 0 or off")
    return int(text)


def _read_credentials(certificate: Path | None, key: Path | None) -> grpc.ServerCredentials | None:
    if certificate is None or key is None:
        return None
    try:
        return grpc.ssl_server_credentials([(key.read_bytes(), certificate.read_bytes())])
    except OSError as error:
        raise InputError(f"'{error.filename}' cannot be read: {error.strerror}") from None


def plan_models(options: ServeOptions, services: Services) -> list[PlannedGroup]:
    """Find the models that are to be served, and places for their engines; nothing is loaded.

    Raises:
        ReelrayError: There is no such model, or no such place for it.
    """
    settings = services.load_settings()
    return plan_groups(options.groups or (GroupOptions(model=settings.model, place=options.place),), services)


async def _serve(
    models: ServedModels,
    options: ServeOptions,
    guard: Guard,
    keep: Callable[[ServedModels], AbstractAsyncContextManager[RenderHouse]],
    listener: "_Listener",
) -> None:
    tell = listener.tell
    async with keep(models) as house, _watching_ray(models, listener.shares_ray) as ray_lost:
        server = await GatewayServer(models, options.address, guard, house.archive, desk=house.desk).start()
        asked = _listen_for_signals(models)
        try:
            assert server.room is not None, "it keeps renders"
            found = House(models=models, archive=house.archive, room=server.room, desk=house.desk, quotas=guard.quotas)
            http = await _start_http(found, options, guard)
        except ReelrayError:
            await server.stop(0)
            raise
        ports = Ports(grpc=server.port, http=None if http is None else http.port)
        for line in describe_server(models, options, ports.grpc, ports.http):
            tell(line)
        engines = {model.entry.name: to_plain(model.description) for model in models}
        listener.seat.is_ready(News(ports=ports, engines=engines))
        await _first_of(asked, ray_lost)
        if ray_lost.is_set():
            await asyncio.sleep(LAST_WORDS_S)
            await asyncio.gather(server.stop(0), *([] if http is None else [http.stop(0, asked)]))
            raise EngineError("the Ray that the engines share has lost a process of its head node")
        asked.clear()
        leaving = asyncio.create_task(house.leave_work())
        running = sum(model.running for model in models)
        tell(f"ending; {running} running, stop again to end them now" if running else "ending")
        leaving_http = asyncio.create_task(http.stop(options.grace_s, asked)) if http is not None else None
        await end_in_order(server, models, options.grace_s, asked)
        if leaving_http is not None:
            await leaving_http
        await leaving


@contextlib.asynccontextmanager
async def _watching_ray(models: ServedModels, is_shared: bool) -> AsyncIterator[asyncio.Event]:
    """Open an engine again whose Ray was lost, also where nobody asks it for anything.

    Engines that share one cannot begin another one each; an event says that it is time for another server.
    """
    lost = asyncio.Event()

    async def watch() -> None:
        while True:
            await asyncio.sleep(RAY_LOOK_S)
            if not head_is_lost():
                continue
            if is_shared:
                lost.set()
                return
            for model in models:
                threading.Thread(target=model.look_after, name="look after Ray", daemon=True).start()
            await asyncio.sleep(ANSWER_S)

    watching = asyncio.create_task(watch())
    try:
        yield lost
    finally:
        watching.cancel()


async def _first_of(*events: asyncio.Event) -> None:
    waiting = [asyncio.create_task(event.wait()) for event in events]
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    for task in waiting:
        task.cancel()


async def _start_http(house: House, options: ServeOptions, guard: Guard) -> HttpServer | None:
    if options.http_port is None:
        return None
    place = HttpPlace(
        host=options.address.rpartition(":")[0],
        port=options.http_port,
        on_loopback=is_loopback(options.address),
        certificate=options.certificate,
        key=options.key,
    )
    return await HttpServer(house, place, guard.callers).start()


def _listen_for_signals(models: ServedModels) -> asyncio.Event:
    """An event that is set whenever somebody asks this process to end."""
    loop, asked = asyncio.get_running_loop(), asyncio.Event()

    def listen() -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, asked.set)

    listen()
    for model in models:  # Ray takes SIGTERM for itself whenever it starts
        model.when_tried_again = partial(_call_soon, loop, listen)
    return asked


def _call_soon(loop: asyncio.AbstractEventLoop, action: Callable[[], None]) -> None:
    loop.call_soon_threadsafe(action)


async def end_in_order(server: GatewayServer, models: ServedModels, grace_s: float, at_once: asyncio.Event) -> None:
    """Let running calls end for so long, or until somebody is impatient."""
    ending = asyncio.create_task(server.stop(grace_s))
    others = {asyncio.create_task(at_once.wait()), asyncio.create_task(_until_idle(models))}
    await asyncio.wait({ending, *others}, return_when=asyncio.FIRST_COMPLETED)
    if not ending.done():
        await server.stop(0 if at_once.is_set() else LAST_WORDS_S)
    for task in others:
        task.cancel()
    await ending


async def _until_idle(models: ServedModels) -> None:
    """Wait until no video runs; who watches the health is not waited for."""
    while any(model.running for model in models):  # noqa: ASYNC110  many models, and nothing hurries
        await asyncio.sleep(IDLE_LOOK_S)


def describe_server(models: ServedModels, options: ServeOptions, port: int, http_port: int | None = None) -> list[str]:
    """What is served, and what to try next."""
    host = options.address.rpartition(":")[0]
    secure = "" if options.certificate is None else " --tls-ca CERTIFICATE"
    token = " --token TOKEN" if options.token or options.tokens else ""
    names = ", ".join(f"{model.entry.name} on {model.description.device}" for model in models)
    scheme = "http" if options.certificate is None else "https"
    http = [] if http_port is None else [f"for OpenAI's clients: base_url={scheme}://{host}:{http_port}/v1 (HTTP)"]
    return [
        f"serving {names} at {host}:{port} (gRPC)",
        f'try: reelray render "a red circle moves left on a blue background" --server {host}:{port}{token}{secure}',
        f'or, kept until you fetch it: reelray submit "a green star grows" --server {host}:{port}{token}{secure}',
        *http,
        "stop with Ctrl-C",
    ]
