"""requests and httpx against httpbin, directly or through Tollgate: what they got, as JSON on standard output.

Standard input: {"base": URL, "host": Host header, "headers": {...}, "says_keep_alive": bool,
"part": "requests" | "httpx" | "refused"}.
Output: [{"name", "method", "path", "status", "headers": [[name, value]], "body": base64, "notes": {...}}].
"""

import asyncio
import base64
import json
import sys
import time

import httpx
import requests
import urllib3.filepost
from requests.auth import HTTPBasicAuth, HTTPDigestAuth

given = json.load(sys.stdin)
BASE = given["base"]
HEADERS = {"Host": given["host"], **given["headers"]}
MEBIBYTE = bytes(n * 7 % 256 for n in range(1024)) * 1024
FILES = {"file": ("ärger.bin", b"\x00\x01\r\n--\xff", "application/octet-stream"), "note": (None, "ü")}
# Chosen at random otherwise, and httpbin repeats it.
urllib3.filepost.choose_boundary = lambda: "boundary-of-the-test"

exchanges = []


def record(name, response, body=None, **notes):
    """Notes one answer of either library."""
    request = response.request
    if isinstance(response, httpx.Response):
        headers, path = response.headers.multi_items(), request.url.path
        body = response.content if body is None else body
    else:
        headers = [[k, v] for k, v in response.raw.headers.iteritems()]
        path = requests.utils.urlparse(request.url).path
        body = response.content if body is None else body
    exchanges.append({
        "name": name,
        "method": request.method,
        "path": path,
        "status": response.status_code,
        "headers": headers,
        "body": base64.b64encode(body).decode(),
        "notes": notes,
    })
    return response


def record_all(name, response):
    """An answer and the redirects and challenges before it."""
    for n, before in enumerate(response.history):
        record(f"{name} hop {n}", before)
    return record(name, response)


def arrival(chunks):
    """The body, and whether its parts came as they were made rather than all at the end."""
    parts, times = [], []
    for chunk in chunks:
        parts.append(chunk)
        times.append(time.monotonic())
    return b"".join(parts), times[-1] - times[0] > 0.3


async def arrival_async(chunks):
    parts, times = [], []
    async for chunk in chunks:
        parts.append(chunk)
        times.append(time.monotonic())
    return b"".join(parts), times[-1] - times[0] > 0.3


def silence(client):
    if not given["says_keep_alive"]:
        del client.headers["Connection"]


def with_requests():
    session = requests.Session()
    session.trust_env = False
    session.headers.update(HEADERS)
    silence(session)
    for n in range(10):
        record(f"keep-alive {n}", session.get(f"{BASE}/get", params={"n": n, "q": "a b&ü"}))
    pools = session.get_adapter(BASE).poolmanager.pools
    connections = [pools[key].num_connections for key in pools.keys()]
    record("one connection", session.get(f"{BASE}/bytes/3?seed=1"), connections=connections)
    record("json", session.post(f"{BASE}/post", json={"ü": [1, None, True]}))
    record("form", session.post(f"{BASE}/post", data={"a": ["1", "2"], "b": "&="}))
    record("multipart", session.post(f"{BASE}/post", files=FILES))
    record("upload", session.put(f"{BASE}/put", data=MEBIBYTE * 2))
    record("chunked upload", session.put(f"{BASE}/put", data=(MEBIBYTE[:5000] for _ in range(20))))
    record("head", session.head(f"{BASE}/image/png"))
    record("image", session.get(f"{BASE}/image", headers={"Accept": "image/svg+xml"}))
    for encoding in ("gzip", "deflate", "brotli"):
        record(encoding, session.get(f"{BASE}/{encoding}"))
    record_all("redirects", session.get(f"{BASE}/redirect/2"))
    record_all("post redirected", session.post(f"{BASE}/redirect-to?url=/post&status_code=307", data=b"again"))
    record_all("cookies", session.get(f"{BASE}/cookies/set?flavor=oat&size=2"))
    record_all("cookie gone", session.get(f"{BASE}/cookies/delete?flavor"))
    record("basic", session.get(f"{BASE}/basic-auth/user/pass", auth=HTTPBasicAuth("user", "pass")))
    for algorithm in ("MD5", "SHA-256"):
        auth = HTTPDigestAuth("user", "pass")
        record_all(f"digest {algorithm}", session.get(f"{BASE}/digest-auth/auth/user/pass/{algorithm}", auth=auth))
    for code in (200, 204, 304, 400, 418, 500):
        record(f"status {code}", session.get(f"{BASE}/status/{code}"))
    with session.get(f"{BASE}/stream/20", stream=True) as response:
        lines = list(response.iter_lines())
        record("stream", response, b"\n".join(lines), lines=len(lines))
    with session.get(f"{BASE}/drip?duration=0.8&numbytes=8", stream=True) as response:
        body, dripped = arrival(response.iter_content(1))
        record("drip", response, body, dripped=dripped)
    try:
        session.get(f"{BASE}/delay/1", timeout=0.3)
    except requests.exceptions.ReadTimeout:
        exchanges.append({"name": "timeout", "notes": {"timed_out": True}})
    record("after the timeout", session.get(f"{BASE}/get"))


async def with_httpx():
    limits = httpx.Limits(max_connections=100, max_keepalive_connections=100)
    options = {"base_url": BASE, "headers": HEADERS, "trust_env": False, "timeout": 60}
    with httpx.Client(**options) as client:
        silence(client)
        for n in range(5):
            record(f"keep-alive {n}", client.get("/get", params={"n": n}))
        content_type = {"Content-Type": "multipart/form-data; boundary=boundary-of-the-test"}
        files = {"file": FILES["file"]}
        record("multipart", client.post("/post", files=files, data={"note": "ü"}, headers=content_type))
        record_all("digest", client.get("/digest-auth/auth/user/pass", auth=httpx.DigestAuth("user", "pass")))
        record_all("redirects", client.get("/redirect/2", follow_redirects=True))
        record("chunked upload", client.put("/put", content=(b"part %d\n" % n for n in range(50))))
        with client.stream("GET", "/drip?duration=0.8&numbytes=8") as response:
            body, dripped = arrival(response.iter_raw())
            record("drip", response, body, dripped=dripped)
        with client.stream("GET", "/drip?duration=1&numbytes=10") as response:
            # Leaves in the middle, as a page that is closed.
            first = next(response.iter_raw())
            record("leaves", response, first[:1])
        try:
            client.get("/delay/1", timeout=0.3)
        except httpx.ReadTimeout:
            exchanges.append({"name": "timeout", "notes": {"timed_out": True}})
    async with httpx.AsyncClient(limits=limits, **options) as client:
        silence(client)
        # Not /bytes with a seed: httpbin's threads share one generator.
        paths = [f"/anything/{n}?n={n}" if n % 2 else f"/range/{2000 + n}" for n in range(100)]
        for n, response in enumerate(await asyncio.gather(*map(client.get, paths))):
            record(f"concurrent {n}", response)
        for round in range(2):
            for n, response in enumerate(await asyncio.gather(*(client.get(f"/stream/{n}") for n in range(1, 11)))):
                record(f"concurrent stream {round} {n}", response)
        async with client.stream("GET", "/stream/20") as response:
            lines = [line async for line in response.aiter_lines()]
            record("stream", response, "\n".join(lines).encode(), lines=len(lines))
        async with client.stream("GET", "/drip?duration=0.8&numbytes=8") as response:
            body, dripped = await arrival_async(response.aiter_raw())
            record("async drip", response, body, dripped=dripped)


async def refused():
    """A tenant who has spent everything: libraries raise what their users catch."""
    session = requests.Session()
    session.trust_env = False
    session.headers.update(HEADERS)
    response = record("requests", session.get(f"{BASE}/get"))
    try:
        response.raise_for_status()
    except requests.HTTPError as error:
        exchanges[-1]["notes"]["raised"] = str(error.response.json()["code"])
    record("requests upload", session.put(f"{BASE}/put", data=MEBIBYTE * 2))
    record("requests again", session.get(f"{BASE}/get"))
    async with httpx.AsyncClient(base_url=BASE, headers=HEADERS, trust_env=False) as client:
        response = record("httpx", await client.get("/get"))
        try:
            response.raise_for_status()
        except httpx.HTTPStatusError as error:
            exchanges[-1]["notes"]["raised"] = str(error.response.json()["code"])
        record("httpx upload", await client.put("/put", content=MEBIBYTE * 2))


if given["part"] == "requests":
    with_requests()
else:
    asyncio.run({"httpx": with_httpx, "refused": refused}[given["part"]]())
json.dump(exchanges, sys.stdout)
