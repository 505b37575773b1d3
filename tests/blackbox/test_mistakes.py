"""Mistakes of the first hour: each command says what is wrong, where, and what would be right."""

import contextlib
import http.server
import socket
import threading

import pytest
from harness import ports
from harness.node import API_KEY, base_config, binary, run, write_config
from harness.process import Process
from harness.redis_server import RedisServer
from harness.tokens import mint
from harness.wait import PATIENCE, until


@contextlib.contextmanager
def taken_port():
    """A port on which somebody else listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def asked_redis(path):
    """What each command says that needs the Redis of this configuration."""
    return [
        ("check-redis", run("check-redis", path)),
        ("tail", run("tail", "room:42", "--config", path)),
        ("publish", run("publish", "room:42", "--config", path)),
    ]


def refused_for(path, *words):
    for name, done in asked_redis(path):
        assert done.returncode != 0, name
        for word in words:
            assert word in done.stdout + done.stderr, (name, done.stdout + done.stderr)


# the port


def test_a_port_that_is_taken_names_the_key_and_another_way(tmp_path):
    with taken_port() as port:
        address = f"127.0.0.1:{port}"
        path = write_config({**base_config(), "listen": address}, tmp_path)
        for arguments in (["serve", "--config", path], ["dev", "--listen", address]):
            refused = run(*arguments)
            assert refused.returncode == 1
            for word in (f'listen = "{address}"', "already in use", "another program"):
                assert word in refused.stderr, refused.stderr


def test_an_address_of_another_machine_is_no_place_to_listen(tmp_path):
    # Reserved for documentation: no machine has it.
    path = write_config({**base_config(), "listen": "192.0.2.1:8000"}, tmp_path)
    refused = run("serve", "--config", path)
    assert refused.returncode == 1 and "0.0.0.0" in refused.stderr, refused.stderr


# Redis


def test_a_redis_that_is_stopped(tmp_path):
    port = ports.free()
    path = write_config(base_config(f"redis://127.0.0.1:{port}"), tmp_path)
    refused_for(path, f"127.0.0.1:{port}", "refused", "is Redis running")


def test_a_redis_that_wants_a_password(tmp_path):
    redis = RedisServer(password="sesame")
    try:
        missing = write_config(base_config(redis.url), tmp_path)
        refused_for(missing, "NOAUTH", "broker.password")
        node = Process([binary(), "serve", "--config", missing])
        try:
            until(lambda: "broker.password" in node.output, "the log says what to set")
        finally:
            node.kill()
        wrong = write_config(base_config(redis.url.replace("redis://", "redis://:guess@")), tmp_path)
        refused_for(wrong, "WRONGPASS", "broker.username")
        for _, done in asked_redis(wrong):
            assert "guess" not in done.stdout + done.stderr
    finally:
        redis.close()


def test_a_server_that_is_no_redis(tmp_path):
    class Page(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        path = write_config(base_config(f"redis://127.0.0.1:{server.server_address[1]}"), tmp_path)
        try:
            refused_for(path, "is this the address of a Redis")
        finally:
            server.shutdown()
            thread.join()


# a node


@pytest.fixture
def url(node):
    return f"ws://127.0.0.1:{node.port}"


def test_a_wrong_path_of_a_node(url):
    for path in ("/", "/websocket", "/ws/"):
        refused = run("tail", "room:42", "--url", url + path, "--token", mint("alice"))
        assert refused.returncode == 1
        assert "/ws" in refused.stderr and "path" in refused.stderr and "wss" not in refused.stderr, refused.stderr


def test_a_port_that_is_no_node(redis):
    refused = run("tail", "room:42", "--url", f"ws://127.0.0.1:{redis.port}/ws", "--token", mint("alice"))
    assert refused.returncode == 1 and "wss://" in refused.stderr, refused.stderr


def test_the_address_of_players_is_not_that_of_services(node, url):
    ws = run("publish", "room:42", "--api-key", API_KEY, "--url", f"{url}/ws")
    assert ws.returncode == 1 and "http://127.0.0.1:8001" in ws.stderr, ws.stderr
    public = run("publish", "room:42", "--api-key", API_KEY, "--url", f"http://127.0.0.1:{node.port}")
    assert public.returncode == 1 and "admin listener" in public.stderr, public.stderr
    admin = run("publish", "room:42", "--token", mint("alice"), "--url", f"http://127.0.0.1:{node.admin_port}")
    assert admin.returncode == 1 and "ws://127.0.0.1:8000/ws" in admin.stderr, admin.stderr


# the command line


def test_a_configuration_is_named_in_either_way(redis, tmp_path):
    path = write_config(base_config(redis.url), tmp_path)
    for command in ("check-config", "check-redis"):
        for arguments, variables in [([path], {}), (["--config", path], {}), ([], {"DRAWBRIDGE_CONFIG": str(path)})]:
            done = run(command, *arguments, env=variables)
            assert done.returncode == 0, done.stderr
        # What is typed takes precedence over the variable.
        done = run(command, path, env={"DRAWBRIDGE_CONFIG": "/nowhere.toml"})
        assert done.returncode == 0, done.stderr
        assert run(command).returncode == 2


# a page's origin

HANDSHAKE = {
    "Host": "play.example",
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


@pytest.mark.parametrize(
    "origin, remedy",
    [
        ("http://127.0.0.1:5173", "add it as it is logged here"),
        ("null", "serve it by an HTTP server"),
    ],
)
def test_a_refused_origin_is_logged_with_what_to_do(redis, start, origin, remedy):
    node = start(redis, connection={"allowed_origins": ["http://localhost:5173"]})
    request = "GET /ws HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in {**HANDSHAKE, "Origin": origin}.items()) + "\r\n"
    with socket.create_connection(("127.0.0.1", node.port), timeout=PATIENCE) as page:
        page.sendall(request.encode())
        answer = page.recv(4096).decode()
    assert answer.startswith("HTTP/1.1 403 ")
    line = until(lambda: next((line for line in node.process.lines if f'origin="{origin}"' in line), None), "the refusal is logged")
    assert remedy in line and 'config="connection.allowed_origins"' in line
