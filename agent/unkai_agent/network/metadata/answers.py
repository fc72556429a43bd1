"""The answer to one request of a guest: a pure function of it, of who asks, and of the tokens.

A token is asked for as EC2 does (IMDSv2), so that a program inside a guest that is talked into
fetching an address gives nothing away. Two trees are read without: OpenStack's, whose clients know
no tokens; and EC2's `meta-data` for guests that have no seed disk, which cloud-init reads besides
OpenStack's (it says no more than that). What comes by way of a proxy, or under another name, is
refused. Source: AWS, "Use IMDSv2".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from unkai_agent.network.guests import Guest
from unkai_agent.network.metadata.documents import EC2_VERSIONS, listing, look_up, tree_of
from unkai_agent.network.metadata.tokens import TTL_MAX_S, Tokens

TOKEN_PATH = ("latest", "api", "token")
TOKEN = "x-aws-ec2-metadata-token"  # noqa: S105 - a header's name
TTL = "x-aws-ec2-metadata-token-ttl-seconds"
_PROXIED = ("x-forwarded-for", "forwarded", "via")
_HOSTS = re.compile(
    r"(169\.254\.169\.254|\[fe80::a9fe:a9fe(%[^\]]*)?\]|instance-data(\.[a-z0-9.-]+)?)(:80)?",
    re.IGNORECASE,
)
"""The service's own: a name that somebody's server gave this address is none of them."""
_TYPES = {"json": "application/json", "user-data": "application/octet-stream"}


@dataclass(frozen=True, slots=True)
class Request:
    """A request, its headers by lower-case name."""

    method: str
    target: str
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer. `near`: it must not pass a router."""

    status: int
    body: bytes = b""
    content_type: str = "text/plain; charset=utf-8"
    headers: Mapping[str, str] = field(default_factory=dict)
    near: bool = False


def answer(request: Request, guest: Guest | None, tokens: Tokens) -> Answer:
    """Answer a request of a guest; None: nobody's address."""
    refusal = _refusal(request)
    if refusal is not None:
        return refusal
    path = tuple(name for name in request.target.partition("?")[0].split("/") if name)
    if guest is None:
        return _text(404, "no machine of this network has your address")
    subject = subject_of(guest)
    if path == TOKEN_PATH:
        return _token(request, subject, tokens)
    if request.method not in ("GET", "HEAD"):
        return _text(405, "only GET and HEAD", Allow="GET, HEAD")
    if not _may_read(request, path, guest, tokens):
        return _text(401, f"put /{'/'.join(TOKEN_PATH)} for a token first")
    return _document(path, guest)


def subject_of(guest: Guest) -> str:
    """Return whom a token is given to: a run of a machine, on one network."""
    spec = guest.spec
    return f"{guest.port.network_id}/{spec.instance_id}/{spec.run_epoch}"


def _refusal(request: Request) -> Answer | None:
    if any(name in request.headers for name in _PROXIED):
        return _text(403, "not by way of a proxy")
    if not _HOSTS.fullmatch(request.headers.get("host", "")):
        return _text(403, "not under this name")
    return None


def _token(request: Request, subject: str, tokens: Tokens) -> Answer:
    if request.method != "PUT":
        return _text(405, "only PUT", Allow="PUT")
    asked = request.headers.get(TTL, "")
    if not re.fullmatch(r"[0-9]{1,5}", asked) or not 1 <= int(asked) <= TTL_MAX_S:
        return _text(400, f"{TTL} must be 1 to {TTL_MAX_S}")
    token = tokens.give(subject, int(asked))
    return Answer(200, token.encode(), headers={TTL: asked}, near=True)


def _may_read(request: Request, path: tuple[str, ...], guest: Guest, tokens: Tokens) -> bool:
    token = request.headers.get(TOKEN)
    if token is not None:
        return tokens.is_good(token, subject_of(guest))
    if not path or path[0] == "openstack":
        return True
    return (
        guest.spec.metadata_seed
        and path[0] in EC2_VERSIONS
        and (len(path) == 1 or path[1] == "meta-data")
    )


def _document(path: tuple[str, ...], guest: Guest) -> Answer:
    found = look_up(tree_of(guest), path)
    if found is None:
        return _text(404, "there is no such document")
    if not isinstance(found, bytes):
        return Answer(200, listing(found, path))
    name = path[-1].replace("_", "-")
    kind = _TYPES.get(name.rpartition(".")[2])
    return Answer(200, found, kind) if kind else Answer(200, found)


def _text(status: int, text: str, **headers: str) -> Answer:
    return Answer(status, f"{text}\n".encode(), headers=headers)
