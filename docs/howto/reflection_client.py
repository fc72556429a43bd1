"""Create, watch and delete an instance, knowing the cloud only by gRPC reflection.

Needs grpcio, grpcio-reflection and protobuf, and nothing of unkai:

    python reflection_client.py unix:/run/unkai/scheduler.sock tiny nano hello
"""

import sys
import time

import grpc
from google.protobuf import descriptor_pool, message_factory
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

TARGET, IMAGE, FLAVOR, NAME = sys.argv[1:5]
channel = grpc.insecure_channel(TARGET)
pool = descriptor_pool.DescriptorPool(ProtoReflectionDescriptorDatabase(channel))


def method(service, name):
    """Return a function that calls a method, made from what the server says of it."""
    described = pool.FindServiceByName(service).FindMethodByName(name)
    request = message_factory.GetMessageClass(described.input_type)
    response = message_factory.GetMessageClass(described.output_type)
    kind = channel.unary_stream if described.server_streaming else channel.unary_unary
    call = kind(
        f"/{service}/{name}",
        request_serializer=request.SerializeToString,
        response_deserializer=response.FromString,
    )
    return lambda timeout=70, **fields: call(request(**fields), timeout=timeout)


INSTANCES = "unkai.compute.v1.InstanceService"
events = method("unkai.event.v1.EventService", "WatchEvents")
wait = method("unkai.operation.v1.OperationService", "WaitOperation")
images = method("unkai.storage.v1.ImageService", "ListImages")(name=IMAGE).images
flavors = method("unkai.compute.v1.FlavorService", "ListFlavors")(name=FLAVOR).flavors
SUCCEEDED = 3


def finish(operation):
    """Wait until an operation has ended well."""
    while operation.state < SUCCEEDED:
        operation = wait(operation_id=operation.id).operation
    if operation.state != SUCCEEDED:
        sys.exit(f"{operation.resource_id}: {operation.error.message}")


# Begin to watch before anything is done: the first answer names the revision to go on from.
start = next(iter(events(resource_kinds=["instance"]))).revision
created = method(INSTANCES, "CreateInstance")(
    instance={"name": NAME, "image_id": images[0].id, "flavor_id": flavors[0].id},
    request_id=f"{NAME}-{time.time_ns()}",
)
finish(created.operation)
finish(method(INSTANCES, "DeleteInstance")(instance_id=created.instance.id).operation)

stream = events(resource_id=created.instance.id, after_revision=start)
for answer in stream:
    event = answer.event
    if event.resource_id:
        kind = event.DESCRIPTOR.fields_by_name["type"].enum_type.values_by_number[event.type].name
        print(event.revision, kind.removeprefix("TYPE_"), event.state, event.message)
        if kind == "TYPE_DELETED":
            break
stream.cancel()
