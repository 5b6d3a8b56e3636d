"""Calls of `Assets` as tests make them, and files for them."""

import hashlib
import io
import json
import queue
import struct
from contextlib import contextmanager

from PIL import Image

from reelray.proto.v1 import assets_pb2, assets_pb2_grpc

GREEN = (9, 200, 30)


def png(colour=GREEN, size=(96, 64)):
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG")
    return file.getvalue()


def wav(count=1000):
    return b"RIFF" + struct.pack("<I", 36 + count) + b"WAVE" + b"\x05" * count


def tensors(count=16, **changed):
    head = json.dumps({"depth": {"dtype": "U8", "shape": [count], "data_offsets": [0, count], **changed}}).encode()
    return struct.pack("<Q", len(head)) + head + bytes(count)


def parts_of(data, *, piece=1000, **said):
    """Messages of an upload."""
    begin = {"size_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(), **said}
    yield assets_pb2.UploadAssetRequest(begin=begin)
    for at in range(0, len(data), piece):
        yield assets_pb2.UploadAssetRequest(data=data[at : at + piece])


class AssetCaller:
    """The stub of one caller, with its token."""

    def __init__(self, channel, token=None):
        self._stub = assets_pb2_grpc.AssetsStub(channel)
        self._metadata = None if token is None else (("authorization", f"Bearer {token}"),)

    def send(self, parts):
        return self._stub.Upload(parts, timeout=20, metadata=self._metadata)

    def upload(self, data, **said):
        return self.send(parts_of(data, **said)).asset

    def get(self, asset_id):
        return self._stub.Get(assets_pb2.GetAssetRequest(id=asset_id), timeout=20, metadata=self._metadata)

    def delete(self, asset_id):
        return self._stub.Delete(assets_pb2.DeleteAssetRequest(id=asset_id), timeout=20, metadata=self._metadata)

    def list(self, size=0):
        """Ids of all, page by page."""
        ids, token, more = [], "", True
        while more:
            said = assets_pb2.ListAssetsRequest(page_size=size, page_token=token)
            page = self._stub.List(said, timeout=20, metadata=self._metadata)
            ids += [asset.id for asset in page.assets]
            token, more = page.next_page_token, bool(page.next_page_token)
        return ids


@contextmanager
def holding_uploads(channel, count, metadata=None):
    """So many uploads over gRPC that have begun and do not go on; four of a tenant."""
    said, calls = queue.SimpleQueue(), []

    def parts(number):
        data = wav(100 + number)
        yield next(parts_of(data, tenant=f"tenant-{number // 4}"))
        yield assets_pb2.UploadAssetRequest(data=data[:20])
        said.get()

    stub = assets_pb2_grpc.AssetsStub(channel)
    try:
        calls = [stub.Upload.future(parts(number), metadata=metadata) for number in range(count)]
        yield
    finally:
        for call in calls:
            call.cancel()
            said.put(None)
