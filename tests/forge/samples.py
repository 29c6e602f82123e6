"""
Webhooks as Forgejo sends them, signed with `s3cret`; made from its sources, not captured.
"""

import hashlib
import hmac
import json
from pathlib import Path

FOLDER = Path(__file__).parent.parent / "samples" / "forgejo"
SECRET = "s3cret"


def sample(name: str) -> tuple[dict[str, str], bytes]:
    """Return headers, with their names in lower case, and the raw body."""
    sent = json.loads((FOLDER / f"{name}.headers.json").read_text())["headers"]
    body = FOLDER / f"{name.removesuffix('.unsigned')}.json"
    raw = body if body.exists() else FOLDER / f"{name}.body.txt"
    return {key.lower(): value for key, value in sent.items()}, raw.read_bytes()


def signed(event: str, raw: bytes, secret: str = SECRET, delivery: str = "d-1") -> dict[str, str]:
    """Return the headers of a body of our own."""
    signature = hmac.new(secret.encode(), raw, hashlib.sha256).hexdigest()
    return {
        "x-forgejo-event": event,
        "x-forgejo-delivery": delivery,
        "x-hub-signature-256": f"sha256={signature}",
    }
