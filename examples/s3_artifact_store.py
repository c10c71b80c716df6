"""Artifacts in S3, here a server in this process: put, get, stream, head, delete."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import Any

from _common import claim, main, refusal, skip

from asm_core import S3ArtifactStore

BUCKET, SECRET = "agents", "not-a-real-secret-key"
PARTS = [b"part %d\n" % number for number in range(1_000)]


async def parts() -> AsyncIterator[bytes]:
    for part in PARTS:
        yield part


async def example(endpoint_url: str) -> None:
    access: dict[str, Any] = {"region": "us-east-1", "access_key_id": "AKIDEXAMPLE", "secret_access_key": SECRET}
    store = S3ArtifactStore(BUCKET, prefix="runs/", endpoint_url=endpoint_url, **access)

    info = await store.put("1/patch", "a patch", content_type="text/x-diff", metadata={"run_id": "run_1"})
    claim("what is put is got", await store.get("1/patch") == b"a patch")
    claim("and described", await store.head("1/patch") == info and info.byte_size == 7)
    await store.put("1/patch", "a better patch")
    claim("putting again replaces it", await store.get("1/patch") == b"a better patch")

    await store.put_stream("1/recording", parts())
    read = [chunk async for chunk in store.open_read("1/recording")]
    claim("what does not fit into memory is streamed both ways", b"".join(read) == b"".join(PARTS))
    plain = S3ArtifactStore(BUCKET, endpoint_url=endpoint_url, **access)
    claim("the prefix stands before the key", await plain.get("runs/1/patch") == b"a better patch")

    await store.delete("1/patch")
    await store.delete("1/patch")  # twice is fine
    claim("what is deleted is gone", await store.head("1/patch") is None)
    claim("and `get` says so", (await refusal(store.get("1/patch"))).code == "not_found")
    nowhere = S3ArtifactStore("no-such-bucket", endpoint_url=endpoint_url, **access)
    error = await refusal(nowhere.put("1/patch", b"x"))
    claim("a bucket that is not there is an error of storage", error.code == "storage_error")
    claim("that tells no secret", SECRET not in str(error.to_map()))


def serve() -> None:
    """With a bucket on a server of our own."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        url = f"http://{host}:{port}"
        access = {"aws_access_key_id": "AKIDEXAMPLE", "aws_secret_access_key": SECRET, "region_name": "us-east-1"}
        boto3.client("s3", endpoint_url=url, **access).create_bucket(Bucket=BUCKET)
        main(example(url))
    finally:
        server.stop()


try:
    import boto3  # type: ignore[import-untyped]
    import obstore  # noqa: F401 - what S3ArtifactStore needs: the extra `s3`
    from moto.server import ThreadedMotoServer
except ImportError as missing:
    skip(f"needs pip install 'agent-session-manager[s3]' 'moto[server]' ({missing.name} is missing)")
else:
    serve()
