"""A small web server on loopback whose pages a test writes."""

import contextlib
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Web:
    """Pages by path; each gets the handler of its request, and does with it what it likes."""

    port: int = 0
    scheme: str = "http"
    pages: dict[str, Callable] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    def page(self, path: str, body: bytes = b"", status: int = 200, **headers: str) -> None:
        def answer(handler):
            handler.send_response(status)
            said = {name.replace("_", "-"): value for name, value in headers.items()}
            for name, value in {"content-length": str(len(body)), **said}.items():
                handler.send_header(name, value)
            handler.end_headers()
            with contextlib.suppress(OSError):
                handler.wfile.write(body)

        self.pages[path] = answer


@contextlib.contextmanager
def start_web(tls: ssl.SSLContext | None = None) -> Iterator[Web]:
    web = Web(scheme="http" if tls is None else "https")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            web.asked.append(self.path)
            page = web.pages.get(self.path)
            if page is None:
                self.send_error(404)
            else:
                page(self)

        do_POST = do_GET

        def log_message(self, *_args):
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    web.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield web
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
