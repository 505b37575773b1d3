"""A real load balancer in front of nodes: haproxy or nginx, on a free loopback port."""

import re
import shutil
import socket
from pathlib import Path

import pytest

from . import ports
from .process import Process
from .wait import until

HAPROXY = """
global
    maxconn 2000
    stats socket {directory}/admin.sock mode 600 level admin
defaults
    mode {mode}
    timeout connect 2s
    timeout check 10s
    timeout client 60s
    timeout server 60s
    timeout tunnel 1h
frontend players
    bind {address}:{port}{tls}
    {frontend}
    default_backend nodes
backend nodes
    balance roundrobin
    option httpchk GET /readyz
    default-server check inter 100ms fall 2 rise 1 {server}
{servers}
"""

NGINX = """
daemon off;
master_process off;
worker_processes 1;
pid {directory}/nginx.pid;
error_log {directory}/error.log;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    upstream nodes {{
{servers}
    }}
    server {{
        listen {address}:{port}{tls};
        location / {{
            proxy_pass http://nodes;
            proxy_http_version 1.1;
{headers}
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection "upgrade";
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_read_timeout 1h;
            proxy_next_upstream error timeout http_503;
        }}
    }}
}}
"""


DEPLOY = Path(__file__).resolve().parents[3] / "deploy"
NODES = ("10.0.0.11:8000", "10.0.0.12:8000", "10.0.0.13:8000")


def deployed(kind, directory, port, nodes):
    """The very file in `deploy/` that operators copy, with a test's addresses in it, and what a test needs around it."""
    text = (DEPLOY / {"haproxy": "haproxy.cfg", "nginx": "nginx.conf"}[kind]).read_text()
    for named, node in zip(NODES, nodes, strict=True):
        assert named in text, f"{named} is not in deploy/"
        text = text.replace(named, f"127.0.0.1:{node.port}")
    if kind == "haproxy":
        text = _replaced(r"bind :8000\b", f"bind 127.0.0.1:{port}", text)
        # As many files as the tests' user may open.
        text = _replaced(r"maxconn 100000", "maxconn 1000", text)
        return _replaced(r"\nglobal\n", f"\nglobal\n    stats socket {directory}/admin.sock mode 600 level admin\n", text)
    text = _replaced(r"listen 8000;", f"listen 127.0.0.1:{port};", text)
    text = _replaced(r"worker_processes auto;", f"daemon off;\npid {directory}/nginx.pid;\nerror_log {directory}/error.log;", text)
    text = _replaced(r"worker_rlimit_nofile 200000;", "", text)
    text = _replaced(r"worker_connections 50000;", "worker_connections 1000;", text)
    places = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    return _replaced(r"http \{", "http {\n" + "\n".join(f"    {each}_temp_path {directory}/{each};" for each in places), text)


def composed(directory, port, nodes_port, names_port):
    """HAProxy's file for compose.yaml, with a test's ports in it, and a name server in place of the container engine's."""
    text = (DEPLOY / "compose/haproxy.cfg").read_text()
    text = _replaced(r"bind :8000\b", f"bind 127.0.0.1:{port}", text)
    text = _replaced(r"node:8000$", f"node:{nodes_port}", text)
    text = _replaced(r"parse-resolv-conf", f"nameserver engine 127.0.0.1:{names_port}", text)
    # As many files as the tests' user may open.
    text = _replaced(r"maxconn 100000", "maxconn 1000", text)
    return _replaced(r"\nglobal\n", f"\nglobal\n    stats socket {directory}/admin.sock mode 600 level admin\n", text)


def _replaced(pattern, by, text):
    text, count = re.subn(pattern, lambda _: by, text, flags=re.MULTILINE)
    assert count == 1, f"{pattern} is there {count} times"
    return text


class Balancer:
    """Started at once, with these nodes behind it; `tcp` passes bytes and names addresses by PROXY v2. `tls`: it ends TLS with
    these certificates; `headers`: what it says of the request, as its configuration has it; `address`: where it listens. `deploy`: run by the
    file in `deploy/`, in front of three nodes. `compose`: HAProxy run by the file in `deploy/compose`; the port of the nodes,
    which it finds by name, and that of the name server."""

    def __init__(self, kind, directory, nodes, tcp=False, tls=None, headers=None, address="127.0.0.1", deploy=False, compose=None):
        program = shutil.which(kind) or shutil.which(kind, path="/usr/sbin:/sbin")
        if program is None:
            pytest.skip(f"{kind} is not installed")
        directory = Path(directory) / kind
        directory.mkdir()
        self.port = ports.free()
        self.host = address.strip("[]")
        self.players = []
        self.control = directory / "admin.sock"
        config = directory / f"{kind}.conf"
        if compose:
            config.write_text(composed(directory, self.port, *compose))
            command = [program, "-f", config, "-db"]
        elif deploy:
            config.write_text(deployed(kind, directory, self.port, nodes))
            command = [program, "-f", config, "-db"] if kind == "haproxy" else [program, "-p", directory, "-c", config]
        elif kind == "haproxy":
            servers = "\n".join(f"    server s{i} 127.0.0.1:{node.port}" for i, node in enumerate(nodes, 1))
            how = (
                {"mode": "tcp", "frontend": "", "server": "send-proxy-v2 check-send-proxy"}
                if tcp
                else {"mode": "http", "frontend": "\n    ".join(["option forwardfor", *(headers or ())]), "server": ""}
            )
            how["tls"] = ""
            if tls:
                both = directory / "both.pem"
                both.write_bytes(tls.cert.read_bytes() + tls.key.read_bytes())
                how["tls"] = f" ssl crt {both}"
            how["address"] = address
            config.write_text(HAPROXY.format(directory=directory, port=self.port, servers=servers, **how))
            command = [program, "-f", config, "-db"]
        else:
            servers = "\n".join(f"        server 127.0.0.1:{node.port} max_fails=1 fail_timeout=1s;" for node in nodes)
            headers = headers if headers is not None else ["proxy_set_header Host $http_host;"]
            how = {"headers": "\n".join(f"            {line}" for line in headers), "address": address, "tls": ""}
            if tls:
                how["tls"] = f" ssl; ssl_certificate {tls.cert}; ssl_certificate_key {tls.key}"
            config.write_text(NGINX.format(directory=directory, port=self.port, servers=servers, **how))
            command = [program, "-p", directory, "-c", config]
        self.process = Process(command)
        until(self._answers, f"{kind} answers")

    def _answers(self):
        assert self.process.running, self.process.output
        return ports.is_open(self.port, self.host)

    def tell(self, command):
        """One command to haproxy's runtime API."""
        with socket.socket(socket.AF_UNIX) as control:
            control.connect(str(self.control))
            control.sendall(command.encode() + b"\n")
            answer = b""
            while part := control.recv(4096):
                answer += part
        return answer.decode()

    def close(self):
        for player in self.players:
            player.vanish()
        self.process.kill()
