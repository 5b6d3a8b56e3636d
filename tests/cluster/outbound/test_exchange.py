"""Fetching from a real server on loopback: what is taken, and what is cut off."""

import contextlib
import socket
import ssl
import subprocess
import threading
import time
from pathlib import Path

import pytest

from reelray.cluster.outbound import exchange
from reelray.cluster.outbound.allow_list import AllowList
from reelray.cluster.outbound.exchange import Limits, fetch
from reelray.proto.errors import FetchError, ForbiddenUrlError, InputError, TooLargeError
from tests.support.web import start_web

LIMITS = Limits(total_s=20, largest_bytes=1000)


@pytest.fixture
def web():
    with start_web() as web:
        yield web


def get(web, path, limits=LIMITS, **kept):
    return fetch(AllowList.of([f"{web.url}/open"]), web.url + path, limits, **kept)


def test_what_is_there_is_fetched(web):
    web.page("/open/a?b=c", b"x" * 1000)
    assert get(web, "/open/a?b=c") == b"x" * 1000


def test_redirects_are_followed_within_the_list_only(web):
    web.page("/open/a", status=302, location="b")
    web.page("/open/b", status=307, location=f"{web.url}/open/c")
    web.page("/open/c", b"there")
    assert get(web, "/open/a") == b"there"
    web.page("/secret", b"secret")
    for place in ("/secret", f"{web.url}/open/../secret", "//localhost/open/c", "file:///etc/passwd"):
        web.page("/open/out", status=302, location=place)
        with pytest.raises(InputError, match=r"address|trust"):
            get(web, "/open/out")
    web.page("/open/none", status=302, location="http://[x")
    with pytest.raises(FetchError, match="no address"):
        get(web, "/open/none")
    web.page("/open/round", status=302, location="/open/round")
    with pytest.raises(FetchError, match="redirects"):
        get(web, "/open/round")
    assert "/secret" not in web.asked
    assert web.asked.count("/open/round") == 4


def test_too_much_is_not_read(web):
    web.page("/open/said", b"x" * 1001)
    with pytest.raises(TooLargeError):
        get(web, "/open/said")
    sent = []

    def without_end(handler):
        handler.send_response(200)
        handler.end_headers()
        try:
            while True:
                handler.wfile.write(b"x" * 10_000)
                sent.append(1)
        except OSError:
            sent.append(None)

    web.pages["/open/endless"] = without_end
    with pytest.raises(TooLargeError):
        get(web, "/open/endless")
    while sent[-1:] != [None]:  # the line is cut
        time.sleep(0.01)


def drip(handler, begin):
    handler.wfile.write(begin)
    try:
        while True:
            handler.wfile.write(b"a")
            time.sleep(0.02)
    except OSError:
        pass


@pytest.mark.parametrize("begin", [b"", b"HTTP/1.1 200 OK\r\nx: ", b"HTTP/1.1 200 OK\r\ncontent-length: 900\r\n\r\n"])
def test_who_answers_byte_by_byte_is_left(web, begin):
    web.pages["/open/slow"] = lambda handler: drip(handler, begin)
    with pytest.raises(FetchError):
        get(web, "/open/slow", Limits(total_s=0.3, largest_bytes=1000))


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """Makes a certificate for an address, with its key in the same file."""

    def make(number):
        file = tmp_path_factory.mktemp("tls") / "both.pem"
        order = f"openssl req -x509 -newkey rsa:2048 -nodes -keyout {file} -out {file}.crt -days 2 -subj /CN=here"
        subprocess.run([*order.split(), "-addext", f"subjectAltName=IP:{number}"], check=True, capture_output=True)
        file.write_text(file.read_text() + Path(f"{file}.crt").read_text())
        return file

    return make


def test_over_tls_it_speaks_with_who_can_show_to_be_there(certificate, monkeypatch):
    for number, is_it in (("127.0.0.1", True), ("127.0.0.9", False)):
        file, context = certificate(number), ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(file)
        with start_web(context) as web, monkeypatch.context() as patch:
            web.page("/open/a", b"secure")
            with pytest.raises(FetchError):
                get(web, "/open/a")  # nobody has signed it
            patch.setenv("SSL_CERT_FILE", str(file))
            if is_it:
                assert get(web, "/open/a") == b"secure"
            else:
                with pytest.raises(FetchError):
                    get(web, "/open/a")
            assert web.asked == ["/open/a"] * is_it


def test_a_handshake_without_an_end_is_cut_off():
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"https://127.0.0.1:{server.getsockname()[1]}/"

        def drip_a_record():
            line, _ = server.accept()
            with line, contextlib.suppress(OSError):
                line.sendall(b"\x16\x03\x03\x3f\xff\x02")
                while True:
                    line.sendall(b"\x00")
                    time.sleep(0.02)

        thread = threading.Thread(target=drip_a_record, daemon=True)
        thread.start()
        with pytest.raises(FetchError):
            fetch(AllowList.of([url]), url, Limits(total_s=0.3))
        thread.join(20)
        assert not thread.is_alive()


def test_other_answers_are_none(web):
    web.page("/open/packed", b"x", content_encoding="gzip")
    web.page("/open/short", b"x", content_length="9")
    for path, text in (("/open/packed", "packed"), ("/open/short", "1 of 9"), ("/open/none", "404")):
        with pytest.raises(FetchError, match=text):
            get(web, path)


def test_a_name_that_leads_inside_is_not_spoken_to(web):
    web.page("/open/a", b"inside")
    allowed, url = AllowList.of(["http://pictures.example/"]), "http://pictures.example/open/a"
    for numbers in (["127.0.0.1"], ["93.184.216.34", "127.0.0.1"], ["::ffff:127.0.0.1"], ["fe80::1%eth0"]):
        with pytest.raises(ForbiddenUrlError, match="public network"):
            fetch(allowed, url, LIMITS, lambda _host, _port, numbers=numbers: numbers)
    assert web.asked == []


def test_a_name_that_leads_nowhere_says_so():
    def unknown(_host, _port):
        raise OSError("no such host")

    with pytest.raises(FetchError):
        fetch(AllowList.of(["https://pictures.example/"]), "https://pictures.example/a", LIMITS, unknown)


def test_an_answer_may_take_as_long_however_many_numbers_a_name_has(web, monkeypatch):
    monkeypatch.setattr(exchange, "is_public", lambda _number: True)  # one number of loopback stands for a public one
    web.pages["/open/late"] = lambda handler: (time.sleep(0.6), web.page("/x", b"late"), web.pages["/x"](handler))
    allowed = AllowList.of([f"http://pictures.example:{web.port}/"])
    limits = Limits(total_s=2.0, largest_bytes=1000)
    url = f"http://pictures.example:{web.port}/open/late"
    assert fetch(allowed, url, limits, lambda _host, _port: ["127.0.0.1"] * 8) == b"late"
