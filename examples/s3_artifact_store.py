"""Artifacts in S3, here MinIO at MINIO_ENDPOINT or a server in this process: put, get, stream, head, delete."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

from _common import claim, main, refusal, skip

from asm_core import S3ArtifactStore

BUCKET = f"asm-example-{uuid4().hex[:12]}"
PARTS = [b"part %d\n" % number for number in range(1_000)]


async def parts() -> AsyncIterator[bytes]:
    for part in PARTS:
        yield part


async def example() -> None:
    if missing := [package for package in ("obstore", "boto3", "moto") if find_spec(package) is None]:
        skip(f"needs pip install 'agent-session-manager[s3]' 'moto[server]' ({missing[0]} is missing)")
        return
    with a_server() as access, a_bucket(access):
        await use(access)


async def use(access: dict[str, Any]) -> None:
    store = S3ArtifactStore(BUCKET, prefix="runs/", **access)

    info = await store.put("1/patch", "a patch", content_type="text/x-diff", metadata={"run_id": "run_1"})
    claim("what is put is got", await store.get("1/patch") == b"a patch")
    claim("and described", await store.head("1/patch") == info and info.byte_size == 7)
    await store.put("1/patch", "a better patch")
    claim("putting again replaces it", await store.get("1/patch") == b"a better patch")

    await store.put_stream("1/recording", parts())
    read = [chunk async for chunk in store.open_read("1/recording")]
    claim("what does not fit into memory is streamed both ways", b"".join(read) == b"".join(PARTS))
    plain = S3ArtifactStore(BUCKET, **access)
    claim("the prefix stands before the key", await plain.get("runs/1/patch") == b"a better patch")

    await store.delete("1/patch")
    await store.delete("1/patch")  # twice is fine
    await store.delete("1/recording")
    claim("what is deleted is gone", await store.head("1/patch") is None)
    claim("and `get` says so", (await refusal(store.get("1/patch"))).code == "not_found")
    nowhere = S3ArtifactStore("no-such-bucket", **access)
    error = await refusal(nowhere.put("1/patch", b"x"))
    claim("a bucket that is not there is an error of storage", error.code == "storage_error")
    claim("that tells no secret", access["secret_access_key"] not in str(error.to_map()))


@contextmanager
def a_server() -> Iterator[dict[str, Any]]:
    """How one is reached: MinIO, where the environment names one that answers, else one of our own."""
    url = os.environ.get("MINIO_ENDPOINT", "")
    if url and answers(url):
        yield access_to(url, os.environ.get("MINIO_ROOT_USER"), os.environ.get("MINIO_ROOT_PASSWORD"))
        return
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield access_to(f"http://{host}:{port}")
    finally:
        server.stop()


def access_to(url: str, user: str | None = None, password: str | None = None) -> dict[str, Any]:
    print(f"  S3 at {url}")
    keys = {"access_key_id": user or "minioadmin", "secret_access_key": password or "minioadmin"}
    return {"endpoint_url": url, "region": "us-east-1", **keys}


def answers(url: str) -> bool:
    place = urlsplit(url)
    try:
        socket.create_connection((place.hostname, place.port or 443), timeout=2).close()
    except OSError:
        print(f"  nobody answers at {url}")
        return False
    return True


@contextmanager
def a_bucket(access: dict[str, Any]) -> Iterator[None]:
    """There as long as it is needed."""
    import boto3  # type: ignore[import-untyped]

    keys = {"aws_access_key_id": access["access_key_id"], "aws_secret_access_key": access["secret_access_key"]}
    client = boto3.client("s3", endpoint_url=access["endpoint_url"], region_name=access["region"], **keys)
    client.create_bucket(Bucket=BUCKET)
    try:
        yield
    finally:
        for entry in client.list_objects_v2(Bucket=BUCKET).get("Contents", ()):
            client.delete_object(Bucket=BUCKET, Key=entry["Key"])
        client.delete_bucket(Bucket=BUCKET)


if __name__ == "__main__":
    main(example)
