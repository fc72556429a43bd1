"""What answers in the cell `external`: HTTP that says who asked, and echoes of TCP and UDP.

Run as `python -m unkai_lab.internet`. It listens on all addresses of its namespace, both families.
"""

from __future__ import annotations

import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import IPv4Address, IPv6Address, ip_address
from socketserver import BaseRequestHandler, ThreadingTCPServer, UDPServer

from unkai_lab.spec import EXTERNAL_RANGE, EXTERNAL_RANGE_V6, FAR_ADDRESS, FAR_ADDRESS_V6

HTTP_PORT, ECHO_PORT = 80, 7
ADDRESSES = (EXTERNAL_RANGE[1], EXTERNAL_RANGE_V6[1], FAR_ADDRESS, FAR_ADDRESS_V6)
_IDLE_S = 60.0


def plain(address: str) -> str:
    """Return an address as its own family writes it: both come by one socket."""
    found = ip_address(address.partition("%")[0])
    mapped = getattr(found, "ipv4_mapped", None)
    return str(mapped or found)


class Http(ThreadingHTTPServer):
    """HTTP on both families."""

    address_family = socket.AF_INET6
    daemon_threads = True

    def server_bind(self) -> None:
        """Listen; IPv4 comes as mapped addresses."""
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


class Says(BaseHTTPRequestHandler):
    """Answers every GET with the asker's address."""

    timeout = _IDLE_S

    def do_GET(self) -> None:
        """Say who asked."""
        body = f"you are {plain(self.client_address[0])}\n".encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class TcpEcho(ThreadingTCPServer):
    """Echo (RFC 862) over TCP."""

    address_family = socket.AF_INET6
    allow_reuse_address = True
    daemon_threads = True


class UdpEcho(UDPServer):
    """Echo over UDP, on one address: an answer must come from the one that was asked."""

    def __init__(self, address: IPv4Address | IPv6Address) -> None:
        family = {4: socket.AF_INET, 6: socket.AF_INET6}
        self.address_family = family[address.version]
        super().__init__((str(address), ECHO_PORT), EchoPacket)


class EchoStream(BaseRequestHandler):
    """Sends back what comes in."""

    def handle(self) -> None:
        """Echo until the other side ends."""
        self.request.settimeout(_IDLE_S)
        while piece := self.request.recv(65536):
            self.request.sendall(piece)


class EchoPacket(BaseRequestHandler):
    """Sends a packet back."""

    def handle(self) -> None:
        """Echo one packet."""
        packet, own = self.request
        own.sendto(packet, self.client_address)


def main() -> None:
    """Serve until killed."""
    servers = (
        Http(("::", HTTP_PORT), Says),
        TcpEcho(("::", ECHO_PORT), EchoStream),
        *(UdpEcho(address) for address in ADDRESSES),
    )
    threads = [threading.Thread(target=each.serve_forever) for each in servers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
