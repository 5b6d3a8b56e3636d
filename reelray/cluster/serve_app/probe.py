"""`python -m reelray.cluster.serve_app.probe HOST:PORT`: does a gateway take calls? For containers."""

import argparse
import sys
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc


def takes_calls(address: str, *, certificate: Path | None = None, name: str = "", within_s: float = 4.0) -> bool:
    """Ask the standard health service.

    Args:
        address: ``HOST:PORT``.
        certificate: PEM file by which the gateway is known, where it speaks TLS.
        name: That the certificate is for, where it is not the address's host.
        within_s: Longest wait.

    Raises:
        OSError: The certificate cannot be read.
    """
    if certificate is None:
        channel = grpc.insecure_channel(address)
    else:
        options = (("grpc.ssl_target_name_override", name),) if name else ()
        channel = grpc.secure_channel(address, grpc.ssl_channel_credentials(certificate.read_bytes()), options)
    with channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=within_s)
        except grpc.RpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def main() -> int:
    """Return 0 if it takes calls."""
    parser = argparse.ArgumentParser("python -m reelray.cluster.serve_app.probe", description="Does a gateway answer?")
    parser.add_argument("address", metavar="HOST:PORT")
    parser.add_argument("--tls-ca", type=Path, metavar="FILE", help="certificate (PEM) by which it is known")
    parser.add_argument("--tls-name", default="", metavar="NAME", help="that the certificate is for, if not HOST")
    asked = parser.parse_args()
    try:
        return 0 if takes_calls(asked.address, certificate=asked.tls_ca, name=asked.tls_name) else 1
    except OSError as error:
        sys.stderr.write(f"error: '{asked.tls_ca}' cannot be read: {error.strerror}\n")
        return 2


if __name__ == "__main__":
    sys.exit(main())
