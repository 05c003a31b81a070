"""Pictures and questions as the page of the demo sends them, and requests to its server."""

import base64
import http.client
import io
import json

import numpy as np
from PIL import Image

from episodic.assemble.model_choice import with_parts
from episodic.config.compose import compose_config
from episodic.demo.server import TOKEN

TONES = {"dark": 40, "gray": 128, "bright": 220}


def png(tone: int, seed: int, size: int = 20) -> bytes:
    pixels = np.random.default_rng(seed).normal(tone, 25, size=(size, size)).clip(0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def picture(data: bytes, name: str = "a.png") -> dict[str, str]:
    return {"name": name, "data": base64.b64encode(data).decode()}


SHOTS = {name: [png(tone, 10 * i + tone) for i in range(2)] for name, tone in TONES.items()}
QUERIES = [png(tone, 7 + tone + i) for tone in TONES.values() for i in range(2)]
UNLABELED = [png(tone, 900 + tone + i) for tone in TONES.values() for i in range(3)]


def question(**changes) -> dict:
    asked = {
        "classes": [{"name": name, "pictures": [picture(p) for p in shots]} for name, shots in SHOTS.items()],
        "queries": [picture(p) for p in QUERIES],
        "unlabeled": [],
        "invert": False,
        "abstain": None,
    }
    return asked | changes


def configured(run, *options):
    arguments = [f"run={run}", "device=cpu", "port=0", *options]
    return compose_config("demo", with_parts(arguments))


def request(server, method="POST", path="/answer", body=b"", **headers):
    """`(status, headers, body)` of a request with the right token and host; a header that is None is left out."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    right = {"Host": f"127.0.0.1:{server.server_port}", TOKEN: server.token, "Content-Length": str(len(body))}
    connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
    for name, value in (right | {name.replace("_", "-"): value for name, value in headers.items()}).items():
        for one in value if isinstance(value, list) else [value]:
            if one is not None:
                connection.putheader(name, one)
    connection.endheaders(body)
    response = connection.getresponse()
    found = response.status, response.headers, response.read()
    connection.close()
    return found


def ask(server, **changes):
    status, _, body = request(server, body=question(**changes))
    return status, json.loads(body)


def refused(server, **how):
    status, headers, body = request(server, **how)
    assert headers["Content-Type"] == "application/json"
    assert headers["Cache-Control"] == "no-store"
    return status, json.loads(body)["error"]


def saved(folder, pictures):
    folder.mkdir(exist_ok=True)
    for i, data in enumerate(pictures):
        (folder / f"{i}.png").write_bytes(data)
    return [folder / f"{i}.png" for i in range(len(pictures))]
