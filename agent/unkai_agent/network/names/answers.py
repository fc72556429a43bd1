"""The answer to one name query: a pure function of it and of the network's names.

Ours are the names in the network's domain, single words that are names here, and the reverse names
of addresses that have a name here. Only in our own domain is it said that a name is not there; all
else is somebody else's to answer. Sources: RFC 1035, RFC 2308 (negative answers), RFC 6891 (EDNS).
"""

from __future__ import annotations

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.reversename
import dns.rrset

from unkai_agent.network.names.table import NameTable

TTL_S = 5
"""An instance that is made anew has another address: guests ask again soon."""
UDP_BYTES = 1232
"""Largest answer that is sent as one packet where the guest takes it (DNS flag day 2020)."""
_KINDS = {dns.rdatatype.A: (4,), dns.rdatatype.AAAA: (6,), dns.rdatatype.ANY: (4, 6)}
_TYPES = {4: dns.rdatatype.A, 6: dns.rdatatype.AAAA}


def answer(query: dns.message.Message, table: NameTable) -> dns.message.Message | None:
    """Answer a query; None: it is not ours to answer."""
    if query.opcode() != dns.opcode.QUERY:
        return refusal(query, dns.rcode.NOTIMP)
    if len(query.question) != 1:
        return refusal(query, dns.rcode.FORMERR)
    question = query.question[0]
    if question.rdclass != dns.rdataclass.IN:
        return refusal(query, dns.rcode.REFUSED)
    domain = _domain(table)
    if domain is not None and question.name.is_subdomain(domain):
        return _in_domain(query, table, domain)
    if len(question.name) == 2:  # one label and the root
        return _single(query, table)
    return _reverse(query, table, domain)


def refusal(query: dns.message.Message, rcode: dns.rcode.Rcode) -> dns.message.Message:
    """Return an answer that says nothing but why."""
    response = dns.message.make_response(query, recursion_available=True, our_payload=UDP_BYTES)
    response.set_rcode(rcode)
    return response


def packet(response: dns.message.Message, query: dns.message.Message) -> bytes:
    """Write an answer as one packet: what is too long asks the guest to come by TCP."""
    most = min(max(query.payload, 512), UDP_BYTES) if query.edns >= 0 else 512
    try:
        return response.to_wire(max_size=most)
    except dns.exception.TooBig:
        cut = refusal(query, response.rcode())
        cut.flags |= dns.flags.TC
        return cut.to_wire(max_size=most)


def _domain(table: NameTable) -> dns.name.Name | None:
    return dns.name.from_text(table.domain) if table.domain else None


def _in_domain(
    query: dns.message.Message, table: NameTable, domain: dns.name.Name
) -> dns.message.Message:
    name, kind = query.question[0].name, query.question[0].rdtype
    response = _ours(query)
    labels = name.relativize(domain).labels
    known = not labels or (len(labels) == 1 and _label(labels[0]) in table.names)
    if not known:
        response.set_rcode(dns.rcode.NXDOMAIN)
    elif labels:
        _add(response, name, kind, table, _label(labels[0]))
    if not response.answer:
        section = response.answer if not labels and kind == dns.rdatatype.SOA else None
        (response.authority if section is None else section).append(_soa(domain))
    return response


def _single(query: dns.message.Message, table: NameTable) -> dns.message.Message | None:
    name, kind = query.question[0].name, query.question[0].rdtype
    label = _label(name.labels[0])
    if label not in table.names:
        return None
    response = _ours(query)
    _add(response, name, kind, table, label)
    return response


def _reverse(
    query: dns.message.Message, table: NameTable, domain: dns.name.Name | None
) -> dns.message.Message | None:
    name = query.question[0].name
    try:
        address = dns.reversename.to_address(name)
    except (dns.exception.DNSException, ValueError):
        return None
    label = table.name_of(address)
    if label is None or domain is None:
        return None
    response = _ours(query)
    if query.question[0].rdtype in (dns.rdatatype.PTR, dns.rdatatype.ANY):
        full = dns.name.from_text(label, domain)
        response.answer.append(
            dns.rrset.from_text(name, TTL_S, dns.rdataclass.IN, dns.rdatatype.PTR, full.to_text())
        )
    else:
        response.authority.append(_soa(domain))
    return response


def _ours(query: dns.message.Message) -> dns.message.Message:
    response = refusal(query, dns.rcode.NOERROR)
    response.flags |= dns.flags.AA
    return response


def _add(
    response: dns.message.Message,
    name: dns.name.Name,
    kind: dns.rdatatype.RdataType,
    table: NameTable,
    label: str,
) -> None:
    for version in _KINDS.get(kind, ()):
        addresses = table.addresses(label, version)
        if addresses:
            response.answer.append(
                dns.rrset.from_text(name, TTL_S, dns.rdataclass.IN, _TYPES[version], *addresses)
            )


def _soa(domain: dns.name.Name) -> dns.rrset.RRset:
    """Return what says how long a name may be remembered as missing."""
    text = f"{domain} nobody.{domain} 1 3600 600 86400 {TTL_S}"
    return dns.rrset.from_text(domain, TTL_S, dns.rdataclass.IN, dns.rdatatype.SOA, text)


def _label(label: bytes) -> str:
    return label.decode("latin-1").lower()
