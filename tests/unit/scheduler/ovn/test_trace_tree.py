"""What ovn-trace of OVN 23.03 printed, read as a packet's way."""

from __future__ import annotations

from pathlib import Path

import pytest

from unkai_scheduler.ovn.trace_tree import End, read

FOLDER = Path(__file__).parents[3] / "golden" / "traces"


@pytest.mark.parametrize(
    ("name", "end", "port_type", "last", "changes"),
    [
        ("arrived", End.ARRIVED, "", "ls_out_apply_port_sec", []),
        ("ipv6", End.ARRIVED, "", "ls_out_apply_port_sec", []),
        ("router", End.ARRIVED, "", "ls_out_apply_port_sec", []),
        ("balanced", End.ARRIVED, "", "ls_out_apply_port_sec", []),
        ("from-outside", End.ARRIVED, "", "ls_out_apply_port_sec", ["ip4.dst=10.2.0.10"]),
        (
            "hairpin",
            End.ARRIVED,
            "",
            "ls_out_apply_port_sec",
            ["ip4.src=192.0.2.10", "ip4.dst=10.2.0.10"],
        ),
        ("rule-missing", End.DROPPED, "", "ls_out_acl", []),
        ("spoofed", End.DROPPED, "", "ls_in_apply_port_sec", []),
        ("no-route", End.DROPPED, "", "lr_in_ip_routing", []),
        ("refused", End.REFUSED, "", "ls_in_lb", []),
        ("neighbour-asked", End.NEIGHBOUR_ASKED, "", "lr_in_arp_request", []),
    ],
)
def test_each_way_ends_where_it_does(
    name: str, end: End, port_type: str, last: str, changes: list[str]
) -> None:
    way = read((FOLDER / f"{name}.txt").read_text())
    assert (way.end, way.port_type) == (end, port_type)
    assert way.steps[-1].stage == last
    assert [step.changes for step in way.steps if step.changes] == changes


def test_a_step_knows_its_flow_and_where_it_is() -> None:
    way = read((FOLDER / "rule-missing.txt").read_text())
    first, last = way.steps[0], way.steps[-1]
    assert (first.stage, first.priority, first.match) == ("ls_in_check_port_sec", 50, "1")
    assert first.actions == ("reg0[15] = check_in_port_sec();", "next;")
    assert first.inport
    assert not first.outport
    assert last.actions == ("drop;",)
    assert last.match.endswith("(outport == @unkai_drop && ip)")
    assert len(last.uuid) == 8
    assert last.datapath == first.datapath
    assert last.outport != last.inport


def test_flows_that_no_stage_has_drop() -> None:
    way = read(
        '# icmp\n\ningress(dp="d", inport="p")\n---------------------------\n'
        " 0. ls_in_check_port_sec: no match (implicit drop)\n"
    )
    assert (way.end, way.steps[-1].stage) == (End.DROPPED, "ls_in_check_port_sec")


def test_a_branch_that_is_another_packet_is_not_the_packets_own_way() -> None:
    """The question for a neighbour reaches every port of the outside; the packet none."""
    text = (FOLDER / "neighbour-asked.txt").read_text()
    assert 'type "localnet"' in text
    assert read(text).port == ""


@pytest.mark.parametrize("text", ["", "# icmp\n", "# icmp\n\n\n"])
def test_an_output_without_a_step_is_a_packet_that_went_nowhere(text: str) -> None:
    way = read(text)
    assert (way.end, way.steps) == (End.DROPPED, ())
