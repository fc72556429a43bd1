"""Malformed requests, images and orders: each is refused with its exact words, and changes nothing.

The words (code, reason, fields, message, fix) stand in `tests/golden/bad_input/`, one file a table,
for people to read: UNKAI_RENEW_GOLDEN=1 writes them anew. Ids of things that exist are shown as
their kind. After each refusal every row of the database and every object of the image store, or the
agent's ledger and machines, are as before.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import os
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import json_format
from google.protobuf.message_factory import GetMessageClass

from tests.contract.api.test_any_request import everything, furnish
from tests.support.acceptance import Shows
from tests.support.agent import IMAGE, an_instance_id
from tests.support.any_call import check_refusal, send
from tests.support.api import MAX_IMAGE_BYTES, MIB, an_ssh_key
from tests.support.contracts import methods
from tests.support.images import qcow2_bytes
from tests.support.served_agent import HOST_ID, ServedAgent
from tests.support.served_api import ServedApi
from unkai.storage.v1 import image_pb2, image_service_pb2
from unkai_scheduler.images.obstore_adapter import open_image_store
from unkai_wire.errors import InvalidArgument
from unkai_wire.ids import encode, uuid7
from unkai_wire.rpc_errors import from_rpc_error

GOLDEN = Path(__file__).parents[2] / "golden" / "bad_input"
UPDATE_VARIABLE = "UNKAI_RENEW_GOLDEN"
METHODS = methods()
HUGE = (1 << 63) - 1
Fields = dict[str, Any]


def b64(content: bytes) -> str:
    return base64.b64encode(content).decode()


GOOD: Fields = {"name": "db", "image_id": "{image}", "vcpus": 1, "memory_bytes": 64 * MIB}


def create(**changes: Any) -> tuple[str, Fields]:
    """Make the creation of an instance that is right but for what is said."""
    return "InstanceService.CreateInstance", {"instance": {**GOOD, **changes}}


def host_change(**host: Any) -> Fields:
    return {"host": {"id": "{host}", **host}, "update_mask": "zone"}


def batch(count: int, **changes: Any) -> tuple[str, Fields]:
    """Make the creation of a batch that is right but for what is said."""
    request = {key: changes.pop(key) for key in ("capacity_wait",) if key in changes}
    fields = {"instance": {**GOOD, **changes}, "count": count, **request}
    return "InstanceService.BatchCreateInstances", fields


def simulation(*steps: Fields, **more: Any) -> tuple[str, Fields]:
    return "PlacementService.Simulate", {"steps": list(steps), **more}


def placing(**said: Any) -> tuple[str, Fields]:
    return simulation({"place_instances": {"count": 1, "instance": GOOD, **said}})


def aggregate_change(path: str, **aggregate: Any) -> Fields:
    return {"aggregate": {"id": "{aggregate}", **aggregate}, "update_mask": path}


def placement_group(**changes: Any) -> tuple[str, Fields]:
    """Make the creation of a placement group that is right but for what is said."""
    wanted = {"name": "near", "policy": "POLICY_ANTI_AFFINITY", **changes}
    return "PlacementGroupService.CreatePlacementGroup", {"placement_group": wanted}


def named(name: str) -> tuple[str, Fields]:
    return create(name=name)


REQUESTS: dict[str, tuple[str, Fields]] = {
    # Batches.
    "batch: 0": batch(0),
    "batch: -1": batch(-1),
    "batch: 501": batch(501),
    "batch: largest": batch((1 << 31) - 1),
    "batch: nothing": ("InstanceService.BatchCreateInstances", {}),
    "batch: a name that is too long with its number": batch(10, name="x" * 61),
    "batch: no name": batch(3, name=""),
    "batch: a name that ends with a dash": batch(3, name="web-"),
    "batch: all wrong at once": batch(0, name="", image_id="", vcpus=0, capacity_wait="-1s"),
    "batch: a port for several": batch(
        2, interfaces=[{"port_id": "prt-01hf7yat00e008000000000001"}]
    ),
    "batch: an address for several": batch(
        2, interfaces=[{"fixed_addresses": [{"address": "10.0.0.9"}]}]
    ),
    "batch: an unknown image": batch(2, image_id="img-01hf7yat00e008000000000001"),
    "batch: negative wait": batch(2, capacity_wait="-1s"),
    "priority: -1": create(priority=-1),
    "priority: 1001": create(priority=1001),
    # Names.
    "name: empty": named(""),
    "name: capital": named("Web"),
    "name: 64 long": named("x" * 64),
    "name: 100,000 long": named("x" * 100_000),
    "name: digit first": named("1web"),
    "name: dash first": named("-web"),
    "name: dash last": named("web-"),
    "name: dot": named("web.example"),
    "name: dots": named(".."),
    "name: slash": named("../../etc/passwd"),
    "name: space": named("my web"),
    "name: line end": named("web\n"),
    "name: NUL": named("web\0"),
    "name: escape": named("\x1b[31mweb"),
    "name: Cyrillic lookalike": named("wеb"),
    "name: full width": named("ｗｅｂ"),
    "name: combining": named("e\u0301a"),
    "name: emoji": named("web😀"),
    "name: right to left": named("\u202ebew"),
    "name: zero width": named("we\u200bb"),
    "name: byte order mark": named("\ufeffweb"),
    "name: digits of another script": named("web٣"),
    "name: SQL": named("x'; DROP TABLE instances;--"),
    "name: an id": named("{instance}"),
    "name: taken": named("web"),
    # Figures.
    "vcpus: 0": create(vcpus=0),
    "vcpus: -1": create(vcpus=-1),
    "vcpus: largest": create(vcpus=(1 << 31) - 1),
    "vcpus: smallest": create(vcpus=-(1 << 31)),
    "memory: 0": create(memory_bytes=0),
    "memory: 1": create(memory_bytes=1),
    "memory: no whole MiB": create(memory_bytes=64 * MIB + 1),
    "memory: largest": create(memory_bytes=HUGE),
    "memory: smallest": create(memory_bytes=-HUGE - 1),
    "disk: 1 byte": create(disk_bytes=1),
    "disk: -1": create(disk_bytes=-1),
    "disk: 1 EiB": create(disk_bytes=1 << 60),
    "disk: below the image's": create(disk_bytes=MIB),
    "figures beside a flavor": create(flavor_id="{flavor}", vcpus=2),
    "all wrong at once": create(name="", image_id="", vcpus=0, memory_bytes=1, disk_bytes=1),
    # References.
    "image: none": create(image_id=""),
    "image: a name": create(image_id="tiny"),
    "image: an instance's id": create(image_id="{instance}"),
    "image: wrong length": create(image_id="img-1"),
    "image: capital letters": create(image_id="IMG-01HF7YAT00E008000000000001"),
    "image: letters never used": create(image_id="img-01hf7yat00e00800000000000u"),
    "image: unknown": create(image_id="img-01hf7yat00e008000000000001"),
    "image: not ready": create(image_id="{empty image}"),
    "flavor: a key's id": create(flavor_id="{key_pair}"),
    "flavor: unknown": create(flavor_id="flv-01hf7yat00e008000000000001"),
    "keys: twice the same": create(key_pair_ids=["{key_pair}", "{key_pair}"]),
    "keys: 17": create(key_pair_ids=[f"key-01hf7yat00e0080000000000{n:02}" for n in range(17)]),
    "keys: unknown": create(key_pair_ids=["key-01hf7yat00e008000000000001"]),
    "keys: empty": create(key_pair_ids=[""]),
    "traits: small letters": create(required_traits=["avx"]),
    "traits: twice": create(required_traits=["AVX", "AVX"]),
    "traits: 65": create(required_traits=[f"T{n}" for n in range(65)]),
    "traits: empty": create(required_traits=[""]),
    "traits: preferred in small letters": create(preferred_traits=["ssd"]),
    "traits: 17 forbidden": create(forbidden_traits=[f"T{n}" for n in range(17)]),
    "traits: a word of the fleet": create(required_traits=["zone:a"]),
    "traits: required and forbidden": create(required_traits=["SSD"], forbidden_traits=["SSD"]),
    "traits: all three": create(
        required_traits=["A", "B"], preferred_traits=["C"], forbidden_traits=["A", "B", "C"]
    ),
    "zone: a space": create(zone="room 2"),
    "zone: 64 long": create(zone="x" * 64),
    # Labels.
    "labels: empty key": create(labels={"": "x"}),
    "labels: space in a key": create(labels={"a b": "x"}),
    "labels: key of 64": create(labels={"k" * 64: "x"}),
    "labels: line end in a value": create(labels={"a": "x\ny"}),
    "labels: value of 256": create(labels={"a": "v" * 256}),
    "labels: bidi in a value": create(labels={"a": "\u202ex"}),
    "labels: 65": create(labels={f"k{n}": "v" for n in range(65)}),
    # User data.
    "user data: 1 byte too long": create(user_data=b64(b"x" * 65_537)),
    "user data: 1 MiB": create(user_data=b64(b"\0" * MIB)),
    # Enums and durations.
    "policy: unknown number": create(placement_policy=99),
    "policy: negative number": create(placement_policy=-1),
    "wait: negative": (
        "InstanceService.CreateInstance",
        {"instance": GOOD, "capacity_wait": "-1s"},
    ),
    "wait: 8 days": (
        "InstanceService.CreateInstance",
        {"instance": GOOD, "capacity_wait": "691200s"},
    ),
    "no instance": ("InstanceService.CreateInstance", {}),
    "project: a name": ("InstanceService.CreateInstance", {"instance": GOOD, "project_id": "lab"}),
    "project: unknown": (
        "InstanceService.CreateInstance",
        {"instance": GOOD, "project_id": "prj-01hf7yat00e008000000000001"},
    ),
    # Request ids.
    "request id: 65 long": (
        "InstanceService.CreateInstance",
        {"instance": GOOD, "request_id": "r" * 65},
    ),
    "request id: space": (
        "InstanceService.CreateInstance",
        {"instance": GOOD, "request_id": "a b"},
    ),
    "request id: not ASCII": (
        "InstanceService.CreateInstance",
        {"instance": GOOD, "request_id": "é"},
    ),
    "request id: used for another": (
        "InstanceService.CreateInstance",
        {"instance": GOOD, "request_id": "{used}"},
    ),
    # One instance.
    "get: no id": ("InstanceService.GetInstance", {}),
    "get: a host's id": ("InstanceService.GetInstance", {"instance_id": "{host}"}),
    "get: unknown": (
        "InstanceService.GetInstance",
        {"instance_id": "ins-01hf7yat00e008000000000001"},
    ),
    "get: NUL in an id": ("InstanceService.GetInstance", {"instance_id": "ins-\0"}),
    "get: 5,000 long": ("InstanceService.GetInstance", {"instance_id": "ins-" + "é" * 5000}),
    "start: while it is made": ("InstanceService.StartInstance", {"instance_id": "{instance}"}),
    "stop: while it is made": ("InstanceService.StopInstance", {"instance_id": "{instance}"}),
    "stop: negative grace": (
        "InstanceService.StopInstance",
        {"instance_id": "{instance}", "grace": "-5s"},
    ),
    "stop: grace of a day": (
        "InstanceService.StopInstance",
        {"instance_id": "{instance}", "grace": "86400s"},
    ),
    "reboot: while it is made": ("InstanceService.RebootInstance", {"instance_id": "{instance}"}),
    "delete: another etag": (
        "InstanceService.DeleteInstance",
        {"instance_id": "{instance}", "etag": "old"},
    ),
    "delete: unknown": (
        "InstanceService.DeleteInstance",
        {"instance_id": "ins-01hf7yat00e008000000000001"},
    ),
    "update: no mask": ("InstanceService.UpdateInstance", {"instance": {"id": "{instance}"}}),
    "update: a field that stays": (
        "InstanceService.UpdateInstance",
        {"instance": {"id": "{instance}", "vcpus": 2}, "update_mask": "vcpus"},
    ),
    "update: a field there is not": (
        "InstanceService.UpdateInstance",
        {"instance": {"id": "{instance}"}, "update_mask": "colour"},
    ),
    "update: a bad name": (
        "InstanceService.UpdateInstance",
        {"instance": {"id": "{instance}", "name": "Web"}, "update_mask": "name"},
    ),
    "update: another etag": (
        "InstanceService.UpdateInstance",
        {"instance": {"id": "{instance}", "name": "new", "etag": "old"}, "update_mask": "name"},
    ),
    "console log: negative tail": (
        "InstanceService.ReadConsoleLog",
        {"instance_id": "{instance}", "tail_bytes": -1},
    ),
    "console log: huge tail": (
        "InstanceService.ReadConsoleLog",
        {"instance_id": "{instance}", "tail_bytes": HUGE},
    ),
    "console log: on no host": ("InstanceService.ReadConsoleLog", {"instance_id": "{instance}"}),
    "console: input first": ("InstanceService.AttachConsole", {"input": b64(b"x")}),
    "console: nothing said": ("InstanceService.AttachConsole", {}),
    # Lists.
    "list: page of -1": ("InstanceService.ListInstances", {"page_size": -1}),
    "list: a token of ours no more": ("InstanceService.ListInstances", {"page_token": "W10"}),
    "list: a token of junk": ("InstanceService.ListInstances", {"page_token": "%%%"}),
    "list: a token of another list": ("FlavorService.ListFlavors", {"page_token": "{token}"}),
    "list: long name": ("InstanceService.ListInstances", {"name": "x" * 65}),
    "list: NUL in a name": ("InstanceService.ListInstances", {"name": "\0"}),
    "list: unknown state": ("InstanceService.ListInstances", {"states": [99]}),
    "list: no state": ("InstanceService.ListInstances", {"states": [0]}),
    "list: a project's name": ("InstanceService.ListInstances", {"project_id": "default"}),
    "list: bad selector": ("InstanceService.ListInstances", {"label_selector": {" ": ""}}),
    "operations: a project's name": ("OperationService.ListOperations", {"project_id": "default"}),
    "operations: long resource": ("OperationService.ListOperations", {"resource_id": "x" * 65}),
    # Operations.
    "operation: none": ("OperationService.GetOperation", {}),
    "operation: an instance's id": (
        "OperationService.GetOperation",
        {"operation_id": "{instance}"},
    ),
    "wait for: a minute too long": (
        "OperationService.WaitOperation",
        {"operation_id": "{operation}", "timeout": "100000s"},
    ),
    "wait for: negative": (
        "OperationService.WaitOperation",
        {"operation_id": "{operation}", "timeout": "-1s"},
    ),
    "wait for: no time": (
        "OperationService.WaitOperation",
        {"operation_id": "{operation}", "seen_update_time": "yesterday"},
    ),
    "wait for: a time without zone": (
        "OperationService.WaitOperation",
        {"operation_id": "{operation}", "seen_update_time": "2030-01-31T12:00:00"},
    ),
    "cancel: unknown": (
        "OperationService.CancelOperation",
        {"operation_id": "opr-01hf7yat00e008000000000001"},
    ),
    # Events.
    "events: no revision": ("EventService.WatchEvents", {"after_revision": "soon"}),
    "events: another epoch": ("EventService.WatchEvents", {"after_revision": "7.1"}),
    "events: digits of another script": ("EventService.WatchEvents", {"after_revision": "1.٣"}),
    "events: the future": ("EventService.WatchEvents", {"after_revision": "1.99999999"}),
    # Placement groups, and instances in them.
    "group: nothing": ("PlacementGroupService.CreatePlacementGroup", {}),
    "group: no policy": placement_group(policy="POLICY_UNSPECIFIED"),
    "group: unknown policy": placement_group(policy=9),
    "group: unknown strictness": placement_group(strictness=9),
    "group: unknown scope": placement_group(scope=-1),
    "group: bad name": placement_group(name="Apart"),
    "group: taken": placement_group(name="apart"),
    "group: negative most": placement_group(max_per_place=-1),
    "group: 1001 a host": placement_group(max_per_place=1001),
    "group: a most of those near each other": placement_group(
        policy="POLICY_AFFINITY", max_per_place=2
    ),
    "group: all wrong at once": (
        "PlacementGroupService.CreatePlacementGroup",
        {"placement_group": {"name": "", "max_per_place": 5000, "labels": {"": "x"}}},
    ),
    "group: no id": ("PlacementGroupService.GetPlacementGroup", {}),
    "group: a key's id": (
        "PlacementGroupService.GetPlacementGroup",
        {"placement_group_id": "{key_pair}"},
    ),
    "group: unknown": (
        "PlacementGroupService.DeletePlacementGroup",
        {"placement_group_id": "pgr-01hf7yat00e008000000000001"},
    ),
    "group: has members": (
        "PlacementGroupService.DeletePlacementGroup",
        {"placement_group_id": "{placement_group}"},
    ),
    "group: another etag": (
        "PlacementGroupService.DeletePlacementGroup",
        {"placement_group_id": "{placement_group}", "etag": "old"},
    ),
    "group: change its policy": (
        "PlacementGroupService.UpdatePlacementGroup",
        {"placement_group": {"id": "{placement_group}"}, "update_mask": "policy"},
    ),
    "group: change nothing": (
        "PlacementGroupService.UpdatePlacementGroup",
        {"placement_group": {"id": "{placement_group}"}},
    ),
    "into a group: a name": create(placement_group_id="apart"),
    "into a group: unknown": create(placement_group_id="pgr-01hf7yat00e008000000000001"),
    "into a group: batch": batch(3, placement_group_id="pgr-01hf7yat00e008000000000001"),
    # Flavors, projects, keys, images, hosts.
    "flavor: no name": (
        "FlavorService.CreateFlavor",
        {"flavor": {"vcpus": 1, "memory_bytes": 64 * MIB}},
    ),
    "flavor: taken": (
        "FlavorService.CreateFlavor",
        {"flavor": {"name": "mini", "vcpus": 1, "memory_bytes": 64 * MIB}},
    ),
    "flavor: no figures": ("FlavorService.CreateFlavor", {"flavor": {"name": "big"}}),
    "flavor: nothing": ("FlavorService.CreateFlavor", {}),
    "flavor: another etag": (
        "FlavorService.DeleteFlavor",
        {"flavor_id": "{flavor}", "etag": "old"},
    ),
    "project: taken": ("ProjectService.CreateProject", {"project": {"name": "default"}}),
    "project: long description": (
        "ProjectService.CreateProject",
        {"project": {"name": "new", "description": "x" * 2000}},
    ),
    "project: control in a description": (
        "ProjectService.CreateProject",
        {"project": {"name": "new", "description": "\x07"}},
    ),
    "project: in use": ("ProjectService.DeleteProject", {"project_id": "{default}"}),
    "key: empty": ("KeyPairService.CreateKeyPair", {"key_pair": {"name": "k"}}),
    "key: a private one": (
        "KeyPairService.CreateKeyPair",
        {"key_pair": {"name": "k", "public_key": "-----BEGIN OPENSSH PRIVATE KEY-----\nx"}},
    ),
    "key: unknown type": (
        "KeyPairService.CreateKeyPair",
        {"key_pair": {"name": "k", "public_key": "ssh-magic AAAA"}},
    ),
    "key: no base64": (
        "KeyPairService.CreateKeyPair",
        {"key_pair": {"name": "k", "public_key": "ssh-ed25519 %%%%"}},
    ),
    "key: cut": (
        "KeyPairService.CreateKeyPair",
        {"key_pair": {"name": "k", "public_key": an_ssh_key()[:40]}},
    ),
    "key: two lines": (
        "KeyPairService.CreateKeyPair",
        {"key_pair": {"name": "k", "public_key": an_ssh_key() + "\n" + an_ssh_key("two")}},
    ),
    "key: options before it": (
        "KeyPairService.CreateKeyPair",
        {"key_pair": {"name": "k", "public_key": 'command="x" ' + an_ssh_key()}},
    ),
    "key: taken": (
        "KeyPairService.CreateKeyPair",
        {"key_pair": {"name": "me", "public_key": an_ssh_key("two")}},
    ),
    "image: taken": ("ImageService.CreateImage", {"image": {"name": "tiny"}}),
    "image: bad name": ("ImageService.CreateImage", {"image": {"name": "tiny/1"}}),
    "image: unknown format": ("ImageService.CreateImage", {"image": {"name": "i", "format": 99}}),
    "image: unknown visibility": (
        "ImageService.CreateImage",
        {"image": {"name": "i", "visibility": 9}},
    ),
    "image: in use": ("ImageService.DeleteImage", {"image_id": "{image}", "etag": "old"}),
    "download: not ready": ("ImageService.DownloadImage", {"image_id": "{empty image}"}),
    "download: negative offset": (
        "ImageService.DownloadImage",
        {"image_id": "{image}", "offset_bytes": -1},
    ),
    "download: beyond the end": (
        "ImageService.DownloadImage",
        {"image_id": "{image}", "offset_bytes": HUGE},
    ),
    "upload: a chunk first": ("ImageService.UploadImage", {"chunk": b64(b"x")}),
    "upload: nothing said": ("ImageService.UploadImage", {}),
    "upload: to a ready image": ("ImageService.UploadImage", {"open": {"image_id": "{image}"}}),
    "upload: no hash": (
        "ImageService.UploadImage",
        {"open": {"image_id": "{empty image}", "sha256": "abc"}},
    ),
    "upload: negative size": (
        "ImageService.UploadImage",
        {"open": {"image_id": "{empty image}", "size_bytes": -1}},
    ),
    "upload: announced too large": (
        "ImageService.UploadImage",
        {"open": {"image_id": "{empty image}", "size_bytes": 1 << 60}},
    ),
    "host: a name": ("HostService.GetHost", {"host_id": "h1"}),
    "host: no zone": ("HostService.UpdateHost", host_change(zone="")),
    "host: an odd zone": ("HostService.UpdateHost", host_change(zone="Room 2")),
    "host: what is its agent's": (
        "HostService.UpdateHost",
        {"host": {"id": "{host}", "cpus": 9}, "update_mask": "cpus"},
    ),
    "host: nothing to change": (
        "HostService.UpdateHost",
        {"host": {"id": "{host}", "zone": "a"}},
    ),
    "host: another etag": ("HostService.UpdateHost", host_change(zone="a", etag="old")),
    "aggregate: no name": ("AggregateService.CreateAggregate", {}),
    "aggregate: taken": ("AggregateService.CreateAggregate", {"aggregate": {"name": "fast"}}),
    "aggregate: all wrong at once": (
        "AggregateService.CreateAggregate",
        {
            "aggregate": {
                "name": "Fast",
                "host_ids": ["h1"],
                "project_ids": ["shop"],
                "traits": ["zone:a"],
                "cpu_ratio": 65,
                "memory_ratio": "NaN",
                "disk_ratio": -1,
            }
        },
    ),
    "aggregate: unknown host": (
        "AggregateService.CreateAggregate",
        {"aggregate": {"name": "slow", "host_ids": ["hst-01hf7yat00e008000000000001"]}},
    ),
    "aggregate: unknown project": (
        "AggregateService.UpdateAggregate",
        aggregate_change("projectIds", project_ids=["prj-01hf7yat00e008000000000001"]),
    ),
    "aggregate: hosts by an update": (
        "AggregateService.UpdateAggregate",
        aggregate_change("hostIds", host_ids=[]),
    ),
    "aggregate: another etag": (
        "AggregateService.UpdateAggregate",
        aggregate_change("name", name="slow", etag="old"),
    ),
    "aggregate: a name by an update": (
        "AggregateService.UpdateAggregate",
        {"aggregate": {"id": "fast", "traits": ["SSD"]}, "update_mask": "traits"},
    ),
    "aggregate: no hosts to add": (
        "AggregateService.AddAggregateHosts",
        {"aggregate_id": "{aggregate}"},
    ),
    "aggregate: a host's name to add": (
        "AggregateService.AddAggregateHosts",
        {"aggregate_id": "{aggregate}", "host_ids": ["h1"]},
    ),
    "aggregate: 1001 hosts to remove": (
        "AggregateService.RemoveAggregateHosts",
        {"aggregate_id": "{aggregate}", "host_ids": ["{host}"] * 1001},
    ),
    "aggregate: in use": ("AggregateService.DeleteAggregate", {"aggregate_id": "{aggregate}"}),
    "aggregate: unknown": (
        "AggregateService.GetAggregate",
        {"aggregate_id": "agg-01hf7yat00e008000000000001"},
    ),
    "aggregate: asked for by its name": create(aggregate_id="fast"),
    "aggregate: asked for, unknown": create(aggregate_id="agg-01hf7yat00e008000000000001"),
    "aggregate: asked for, dedicated to others": create(aggregate_id="{closed}"),
    "host: long reason": ("HostService.CordonHost", {"host_id": "{host}", "reason": "x" * 256}),
    "host: removed without a word": (
        "HostService.RemoveHost",
        {"host_id": "{host}", "statement": " \n"},
    ),
    "host: removed while it is there": (
        "HostService.RemoveHost",
        {"host_id": "{host}", "statement": "burnt"},
    ),
    "explain: a flavor": ("PlacementService.Explain", {"instance_id": "{flavor}"}),
    "simulate: nothing": ("PlacementService.Simulate", {}),
    "simulate: a step without a kind": simulation({}),
    "simulate: 17 steps": simulation(*[{"lose_hosts": {"host_ids": ["{host}"]}}] * 17),
    "simulate: no host lost": simulation({"lose_hosts": {}}),
    "simulate: a host's name": simulation({"lose_hosts": {"host_ids": ["h1"]}}),
    "simulate: a host lost twice": simulation(*[{"lose_hosts": {"host_ids": ["{host}"]}}] * 2),
    "simulate: an unknown host": simulation(
        {"lose_hosts": {"host_ids": ["hst-01hf7yat00e008000000000001"]}}
    ),
    "simulate: no hosts added": simulation({"add_hosts": {"like_host_id": "{host}"}}),
    "simulate: hosts like one, and of figures": simulation(
        {"add_hosts": {"count": 1, "like_host_id": "{host}", "cpus": 4}}
    ),
    "simulate: hosts of no figures": simulation({"add_hosts": {"count": 1}}),
    "simulate: hosts of absurd figures": simulation(
        {"add_hosts": {"count": -1, "cpus": -1, "memory_bytes": HUGE, "disk_bytes": HUGE}}
    ),
    "simulate: hosts in an odd zone, with odd traits": simulation(
        {
            "add_hosts": {
                "count": 1,
                "cpus": 4,
                "memory_bytes": 64 * MIB,
                "disk_bytes": 64 * MIB,
                "zone": "Room 2",
                "traits": ["avx"],
            }
        }
    ),
    "simulate: nothing placed": simulation({"place_instances": {}}),
    "simulate: 10,001 placed": placing(count=10_001),
    "simulate: 12,000 placed in all": simulation(
        *[{"place_instances": {"count": 6000, "instance": GOOD}}] * 2
    ),
    "simulate: no disk said": placing(instance={"vcpus": 1, "memory_bytes": 64 * MIB}),
    "simulate: figures beside a flavor": placing(instance={"flavor_id": "{flavor}", "vcpus": 2}),
    "simulate: an unknown flavor": placing(
        instance={"flavor_id": "flv-01hf7yat00e008000000000001"}
    ),
    "simulate: an odd zone": placing(instance={**GOOD, "zone": "Room 2"}),
    "simulate: another's project": simulation(
        {"place_instances": {"count": 1, "instance": GOOD}}, project_id="{host}"
    ),
    "losses: a host's name": ("PlacementService.SimulateLosses", {"host_id": "h1"}),
    "losses: a page below 0": ("PlacementService.SimulateLosses", {"page_size": -1}),
    "losses: an odd token": ("PlacementService.SimulateLosses", {"page_token": "x"}),
}


def qcow2(**changes: Any) -> bytes:
    """Make a qcow2 file whose header is right but for what is said."""
    return qcow2_bytes(**changes).ljust(6 << 16, b"\0")


def patched(offset: int, layout: str, value: int, **changes: Any) -> bytes:
    """Make one with a field of its header overwritten."""
    content = bytearray(qcow2(**changes))
    struct.pack_into(layout, content, offset, value)
    return bytes(content)


RAW = b"\1" * 4096
IMAGES: dict[str, tuple[bytes, Fields, Fields]] = {
    "empty": (b"", {}, {}),
    "1 byte": (b"x", {}, {}),
    "half a sector": (b"\1" * 256, {}, {}),
    "backing file": (qcow2(backing=b"/etc/passwd"), {}, {}),
    "backing file in another format": (qcow2(backing=b"x", backing_format=b"raw"), {}, {}),
    "backing file of no length": (qcow2(backing_offset=512), {}, {}),
    "data file": (qcow2(features=1 << 2), {}, {}),
    "encrypted, AES": (qcow2(encryption=1), {}, {}),
    "encrypted, LUKS": (qcow2(encryption=2), {}, {}),
    "version 1": (patched(4, ">I", 1), {}, {}),
    "version 4": (patched(4, ">I", 4), {}, {}),
    "version 0": (patched(4, ">I", 0), {}, {}),
    "header cut": (qcow2()[:50], {}, {}),
    "header alone": (qcow2()[:104], {}, {}),
    "cluster bits 0": (qcow2(cluster_bits=0), {}, {}),
    "cluster bits 8": (qcow2(cluster_bits=8), {}, {}),
    "cluster bits 22": (qcow2(cluster_bits=22), {}, {}),
    "cluster bits 2^32-1": (qcow2(cluster_bits=(1 << 32) - 1), {}, {}),
    "claims 1 EiB": (qcow2(virtual_size_bytes=1 << 60), {}, {}),
    "claims 2^64-1": (qcow2(virtual_size_bytes=(1 << 64) - 1), {}, {}),
    "claims nothing": (qcow2(virtual_size_bytes=0), {}, {}),
    "L1 of 2^32-1": (patched(36, ">I", (1 << 32) - 1), {}, {}),
    "L1 too small": (patched(36, ">I", 0), {}, {}),
    "L1 beyond the end": (patched(40, ">Q", 1 << 40), {}, {}),
    "L1 in no cluster": (patched(40, ">Q", 7), {}, {}),
    "refcounts beyond the end": (patched(48, ">Q", 1 << 40), {}, {}),
    "refcounts of 2^32-1 clusters": (patched(56, ">I", (1 << 32) - 1), {}, {}),
    "snapshots": (patched(60, ">I", 3), {}, {}),
    "unknown feature": (qcow2(features=1 << 40), {}, {}),
    "corrupt": (qcow2(features=1 << 1), {}, {}),
    "dirty": (qcow2(features=1), {}, {}),
    "extended L2, small clusters": (qcow2(features=1 << 4, cluster_bits=12), {}, {}),
    "refcount order 7": (patched(96, ">I", 7), {}, {}),
    "header length 50": (patched(100, ">I", 50), {}, {}),
    "header length 2^32-1": (patched(100, ">I", (1 << 32) - 1), {}, {}),
    "extension without end": (patched(104, ">Q", (0x1234 << 32) | 0xFFFFFFFF), {}, {}),
    "data file's name": (patched(104, ">Q", (0x44415441 << 32) | 8), {}, {}),
    "encryption header": (patched(104, ">Q", (0x0537BE77 << 32) | 16), {}, {}),
    "vmdk": (b"KDMV".ljust(4096, b"\0"), {}, {}),
    "vmdk descriptor": (b"# Disk DescriptorFile\n".ljust(4096, b"\0"), {}, {}),
    "vmdk of ESX": (b"COWD".ljust(4096, b"\0"), {}, {}),
    "vhdx": (b"vhdxfile".ljust(4096, b"\0"), {}, {}),
    "vhd, fixed": (bytes(4096) + b"conectix".ljust(512, b"\0"), {}, {}),
    "vdi": (bytes(64) + b"\x7f\x10\xda\xbe".ljust(4096, b"\0"), {}, {}),
    "qed": (b"QED\0".ljust(4096, b"\0"), {}, {}),
    "qcow of the first version": (b"QFI\xfb\0\0\0\1".ljust(4096, b"\0"), {}, {}),
    "luks": (b"LUKS\xba\xbe".ljust(4096, b"\0"), {}, {}),
    "dmg": (bytes(4096) + b"koly".ljust(512, b"\0"), {}, {}),
    "gzip": (gzip.compress(RAW, mtime=0), {}, {}),
    "xz": (b"\xfd7zXZ\0".ljust(4096, b"\0"), {}, {}),
    "zstd": (b"\x28\xb5\x2f\xfd".ljust(4096, b"\0"), {}, {}),
    "bzip2": (b"BZh9".ljust(4096, b"\0"), {}, {}),
    "raw said to be qcow2": (RAW, {}, {"format": image_pb2.Image.FORMAT_QCOW2}),
    "qcow2 said to be raw": (qcow2(), {}, {"format": image_pb2.Image.FORMAT_RAW}),
    "another hash": (RAW, {"sha256": "0" * 64}, {}),
    "a byte less than said": (RAW, {"size_bytes": 4097}, {}),
    "a byte more than said": (RAW, {"size_bytes": 4095}, {}),
    "too large": (b"\1" * (MAX_IMAGE_BYTES + 1), {}, {}),
}


@dataclass
class World:
    """A served scheduler with one of each resource, and what each is called here."""

    served: ServedApi
    channel: grpc.Channel
    names: dict[str, str]

    def state(self) -> tuple[str, list[str]]:
        store = open_image_store(self.served.api.settings.images.url)
        return everything(self.served), self.served.do(_listed(store))

    def filled(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.names.get(value, value)
        if isinstance(value, list):
            return [self.filled(one) for one in value]
        if isinstance(value, dict):
            return {key: self.filled(one) for key, one in value.items()}
        return value


async def _listed(store: Any) -> list[str]:
    return sorted(await store.list())


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with ServedApi(tmp_path_factory.mktemp("bad") / "a") as served:
        served.leader.idle = True
        known = served.do(furnish(served))
        names = {
            f"{{{key.removesuffix('_id')}}}": values[0]
            for key, values in known.items()
            if key.endswith("_id") and key not in {"request_id", "vlan_id"}
        }
        with grpc.insecure_channel(f"unix:{served.socket}") as channel:
            world = World(served, channel, names)
            empty = call(world, "ImageService.CreateImage", {"image": {"name": "empty"}}).image
            used = {"project": {"name": "other"}, "request_id": "used-before"}
            call(world, "ProjectService.CreateProject", used)
            lab = {"name": "closed", "project_ids": ["{project}"]}
            closed = call(world, "AggregateService.CreateAggregate", {"aggregate": lab}).aggregate
            page = call(world, "InstanceService.ListInstances", {})
            projects = call(world, "ProjectService.ListProjects", {"name": "default"}).projects
            token = call(world, "ProjectService.ListProjects", {"page_size": 1}).next_page_token
            assert page.instances
            assert token
            names |= {
                "{empty image}": empty.id,
                "{closed}": closed.id,
                "{used}": "used-before",
                "{default}": projects[0].id,
                "{token}": token,
            }
            yield world


def message(method: str, fields: Fields) -> Any:
    kind = GetMessageClass(METHODS[method].input_type)
    return json_format.ParseDict(fields, kind())


def call(world: World, method: str, fields: Fields) -> Any:
    answer = send(world.channel, METHODS[method], [message(method, world.filled(fields))])
    assert answer.error is None, answer.error
    return answer.responses[0]


def words(error: Any, names: Mapping[str, str]) -> Fields:
    """Return what a refusal says, as its golden file has it."""
    check_refusal(error)
    ours = from_rpc_error(error)
    said: Fields = {"code": error.code().name, "reason": ours.reason, "message": ours.message}
    if isinstance(ours, InvalidArgument):
        said["fields"] = [list(violation) for violation in ours.violations]
    if ours.fix:
        said["fix"] = ours.fix
    text = json.dumps(said, ensure_ascii=False)
    for name, ident in sorted(names.items(), key=lambda pair: -len(pair[1])):
        text = text.replace(ident, name)
    return dict(json.loads(text))


class Golden:
    """A golden file: the words of each case by its name."""

    def __init__(self, name: str) -> None:
        self._path = GOLDEN / f"{name}.json"
        self._update = bool(os.environ.get(UPDATE_VARIABLE))
        text = self._path.read_text() if self._path.exists() else "{}"
        self.cases: dict[str, Fields] = json.loads(text)

    def check(self, case: str, said: Fields) -> None:
        """Compare, or write anew when asked to."""
        if self._update:
            self.cases[case] = said
            self._path.parent.mkdir(exist_ok=True)
            text = json.dumps(self.cases, ensure_ascii=False, indent=1, sort_keys=True)
            self._path.write_text(text + "\n")
        assert said == self.cases.get(case), case


@pytest.mark.parametrize("case", REQUESTS)
def test_a_malformed_request_is_refused_in_its_words_and_changes_nothing(
    world: World, case: str
) -> None:
    method, fields = REQUESTS[case]
    before = world.state()
    error = send(world.channel, METHODS[method], [message(method, world.filled(fields))]).error
    assert error is not None, f"{case} was accepted"
    Golden("requests").check(case, words(error, world.names))
    assert world.state() == before


@pytest.mark.parametrize("case", IMAGES)
def test_a_malformed_image_is_refused_in_its_words_and_no_byte_is_kept(
    world: World, case: str
) -> None:
    content, opened, stated = IMAGES[case]
    name = "i" + hashlib.sha256(case.encode()).hexdigest()[:8]
    made = call(world, "ImageService.CreateImage", {"image": {"name": name, **stated}}).image
    kept = world.state()[1]
    kind = image_service_pb2.UploadImageRequest
    requests = [kind(open=kind.Open(image_id=made.id, **opened))]
    requests += [kind(chunk=content[n : n + MIB]) for n in range(0, len(content), MIB)]
    error = send(world.channel, METHODS["ImageService.UploadImage"], requests).error
    assert error is not None, f"{case} was accepted"
    said = words(error, {**world.names, "{this image}": made.id})
    Golden("images").check(case, said)
    assert world.state()[1] == kept
    shown = call(world, "ImageService.GetImage", {"image_id": made.id}).image
    assert shown.state == image_pb2.Image.STATE_FAILED
    assert shown.state_reason.message == from_rpc_error(error).message


SPEC: Fields = {
    "instance": {
        "id": an_instance_id(),
        "name": "web",
        "project_id": encode("prj", uuid7(0, 1)),
        "vcpus": 1,
        "memory_bytes": 1 << 30,
        "desired_power": 1,
    },
    "disks": [
        {
            "name": "root",
            "size_bytes": 2 << 30,
            "existence": 1,
            "image": {
                "id": IMAGE.image_id,
                "sha256": IMAGE.sha256,
                "format": 1,
                "size_bytes": 1 << 20,
                "virtual_size_bytes": 1 << 20,
            },
        }
    ],
}
FENCE: Fields = {"term": 1, "generation": 1, "run_epoch": 1}


def order(change: Callable[[Fields], None], **fence: int) -> tuple[str, Fields]:
    """Make an order that is right but for one change."""
    spec = json.loads(json.dumps(SPEC))
    change(spec)
    return "MachineService.EnsureMachine", {"fence": {**FENCE, **fence}, "spec": spec}


def to(*path: Any, value: Any) -> Callable[[Fields], None]:
    def change(spec: Any) -> None:
        for step in path[:-1]:
            spec = spec[step]
        spec[path[-1]] = value

    return change


SAME = to("reboot_serial", value=0)
ORDERS: dict[str, tuple[str, Fields]] = {
    "term 0": order(SAME, term=0),
    "term -1": order(SAME, term=-1),
    "generation 0": order(SAME, generation=0),
    "run epoch 0": order(SAME, run_epoch=0),
    "another host": ("HostService.AnnounceTerm", {"host_id": "hst-x", "fence": FENCE}),
    "no instance id": order(to("instance", "id", value="")),
    "an image's id": order(to("instance", "id", value=IMAGE.image_id)),
    "a path for an id": order(to("instance", "id", value="../../etc")),
    "a capital name": order(to("instance", "name", value="Web")),
    "a name of markup": order(to("instance", "name", value="<x/>")),
    "no project": order(to("instance", "project_id", value="")),
    "vcpus 0": order(to("instance", "vcpus", value=0)),
    "vcpus 257": order(to("instance", "vcpus", value=257)),
    "memory 1": order(to("instance", "memory_bytes", value=1)),
    "memory -1": order(to("instance", "memory_bytes", value=-1)),
    "power unknown": order(to("instance", "desired_power", value=99)),
    "power unset": order(to("instance", "desired_power", value=0)),
    "no disk": order(to("disks", value=[])),
    "two disks of one name": order(to("disks", value=SPEC["disks"] * 2)),
    "a disk's path": order(to("disks", 0, "name", value="../root")),
    "a disk of 0 bytes": order(to("disks", 0, "size_bytes", value=0)),
    "a disk of existence 0": order(to("disks", 0, "existence", value=0)),
    "an image without hash": order(to("disks", 0, "image", "sha256", value="")),
    "a hash of capitals": order(to("disks", 0, "image", "sha256", value="AB" * 32)),
    "an image of no format": order(to("disks", 0, "image", "format", value=0)),
    "an image of 0 bytes": order(to("disks", 0, "image", "size_bytes", value=0)),
    "user data of 64 KiB and 1": order(to("seed", value={"user_data": b64(b"x" * 65_537)})),
    "reboot -1": order(to("reboot_serial", value=-1)),
    "grace -1 s": order(to("stop_grace", value="-1s")),
    "remove: no id": ("MachineService.RemoveMachine", {"fence": FENCE}),
    "remove: a path": ("MachineService.RemoveMachine", {"fence": FENCE, "instance_id": "../x"}),
    "acknowledge: no id": (
        "MachineService.AcknowledgeTombstones",
        {"fence": FENCE, "tombstones": [{"generation": 1}]},
    ),
    "log: unknown machine": ("MachineService.ReadConsoleLog", {"instance_id": "x"}),
    "log: negative tail": ("MachineService.ReadConsoleLog", {"instance_id": "x", "tail_bytes": -1}),
    "console: nothing said": ("MachineService.AttachConsole", {}),
    "prefetch: no image": ("StorageService.PrefetchImage", {"fence": FENCE}),
    "evict: a path": ("StorageService.EvictImage", {"fence": FENCE, "sha256": "../../x"}),
}


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ServedAgent, grpc.Channel]]:
    with (
        ServedAgent(tmp_path_factory.mktemp("orders") / "agent") as served,
        served.channel() as channel,
    ):
        yield served, channel


@pytest.mark.parametrize("case", ORDERS)
def test_a_malformed_order_is_refused_in_its_words_and_changes_nothing(
    agent: tuple[ServedAgent, grpc.Channel], case: str
) -> None:
    served, channel = agent
    method, fields = ORDERS[case]
    if "host_id" in METHODS[method].input_type.fields_by_name:
        fields = {"host_id": HOST_ID, **fields}
    before = served.kept()
    error = send(channel, METHODS[method], [message(method, fields)]).error
    assert error is not None, f"{case} was accepted"
    Golden("orders").check(case, words(error, {"{instance}": an_instance_id()}))
    assert served.kept() == before


def test_every_table_is_large_enough_and_has_no_word_too_many(shows: Shows) -> None:
    tables = {"requests": REQUESTS, "images": IMAGES, "orders": ORDERS}
    for name, table in tables.items():
        assert set(Golden(name).cases) == set(table), name
    sizes = {name: len(table) for name, table in tables.items()}
    assert sum(sizes.values()) >= 100
    shows("solid 7 bad input", ", ".join(f"{count} {name}" for name, count in sizes.items()))
