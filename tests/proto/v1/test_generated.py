"""The generated messages are those of the `.proto` files beside them (`make protos`), and of old enough tools."""

import re
from pathlib import Path

import pytest

from reelray.proto.v1 import (
    assets_pb2,
    cluster_pb2,
    converse_pb2,
    renders_pb2,
    request_options_pb2,
    video_spec_pb2,
    videos_pb2,
)

FOLDER = Path(videos_pb2.__file__).parent


def numbered(message):
    """Names and numbers of all fields of a message and of what is inside it."""
    yield from ((field.name, field.number) for field in message.fields)
    for enum in message.enum_types:
        yield from ((value.name, value.number) for value in enum.values)
    for inner in message.nested_types:
        if not inner.GetOptions().map_entry:
            yield from numbered(inner)


MODULES = [assets_pb2, cluster_pb2, converse_pb2, renders_pb2, request_options_pb2, video_spec_pb2, videos_pb2]


def test_no_file_is_left_out():
    assert sorted(f"{file.stem}.proto" for file in FOLDER.glob("*.proto")) == sorted(
        Path(module.DESCRIPTOR.name).name for module in MODULES
    )


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_generated_code_is_of_the_proto_file(module):
    file = module.DESCRIPTOR
    text = re.sub(r"//.*", "", (FOLDER / Path(file.name).name).read_text())
    written = sorted((name, int(number)) for name, number in re.findall(r"(\w+) = (\d+);", text))
    generated = [pair for message in file.message_types_by_name.values() for pair in numbered(message)]
    generated += [(value.name, value.number) for enum in file.enum_types_by_name.values() for value in enum.values]
    assert sorted(generated) == written
    calls = [method.name for service in file.services_by_name.values() for method in service.methods]
    assert sorted(calls) == sorted(re.findall(r"rpc (\w+)", text))


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*_pb2.py")), ids=lambda file: file.name)
def test_generated_code_runs_on_old_protobuf(file):
    """Newer tools ask for the protobuf of their own year at least."""
    assert "Protobuf Python Version: 4.25" in file.read_text()
