"""Calls of `Renders` as tests make them."""

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from reelray.proto.v1 import renders_pb2, renders_pb2_grpc, request_options_pb2, video_spec_pb2


def video(**said):
    return video_spec_pb2.VideoSpec(**{"prompt": "a disc", **said})


def submission(media=0, video_spec=None, **options):
    return renders_pb2.SubmitRenderRequest(
        video=video_spec or video(), media=media, options=request_options_pb2.RequestOptions(**options)
    )


class Caller:
    """The stub of one caller, with its token."""

    def __init__(self, channel, token=None):
        self._stub = renders_pb2_grpc.RendersStub(channel)
        self._metadata = None if token is None else (("authorization", f"Bearer {token}"),)

    def __getattr__(self, name):
        return lambda request: getattr(self._stub, name)(request, timeout=20, metadata=self._metadata)

    def submit(self, *args, **options):
        return self.Submit(submission(*args, **options)).render

    def get(self, render_id):
        return self.Get(renders_pb2.GetRenderRequest(id=render_id))

    def watching(self, render_id, after=0):
        return self.Watch(renders_pb2.WatchRenderRequest(id=render_id, after=after))

    def watch(self, render_id, after=0):
        return list(self.watching(render_id, after))

    def downloading(self, render_id, **wanted):
        return self.Download(renders_pb2.DownloadRenderRequest(id=render_id, **wanted))

    def download(self, render_id, **wanted):
        at, data = wanted.get("offset", 0), []
        for chunk in self.downloading(render_id, **wanted):
            assert chunk.offset == at
            assert 0 < len(chunk.data) <= 1_000_000
            at += len(chunk.data)
            data.append(chunk.data)
        return b"".join(data)


def refusal(call):
    """Code, text, reason, ids, and whether a retry is hinted at; of one answer, or of a stream's end."""

    def ask():
        answer = call()
        return list(answer) if hasattr(answer, "__next__") else answer

    with pytest.raises(grpc.RpcError) as raised:
        ask()
    details = {}
    for detail in rpc_status.from_call(raised.value).details:
        for kind in (error_details_pb2.ErrorInfo, error_details_pb2.RetryInfo):
            message = kind()
            if detail.Unpack(message):
                details[kind.__name__] = message
    info = details["ErrorInfo"]
    return raised.value.code(), raised.value.details(), info.reason, dict(info.metadata), "RetryInfo" in details
