"""Who may ask, and which videos a request may refer to. Everything is closed unless opened."""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass, field
from pathlib import Path

from timeexpert.errors import UserError

from .limits import ServingLimits

_DOMAIN = re.compile(r"[a-z0-9]([a-z0-9-]{0,62}\.?)*(:[0-9]{1,5})?")
_ORIGIN = re.compile(r"https?://[a-z0-9.-]+(:[0-9]{1,5})?")


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """What ``timeexpert serve`` was told.

    ``model``: the name in ``/v1/models``. ``frame_size``: height and width of the frames that the model reads.
    ``draws_masks``: whether its answers may have tracks.
    ``loopback``: whether only this machine can reach the server; without a key, the Host header is checked then.
    ``allowed_domains``: ``host`` (its standard port) or ``host:port``. Raises ``UserError``.
    """

    model: str
    frame_size: int
    draws_masks: bool = False
    api_key: str | None = None
    allowed_folder: Path | None = None
    allowed_domains: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()
    samples: Path | None = None
    loopback: bool = True
    limits: ServingLimits = field(default_factory=ServingLimits)

    def __post_init__(self) -> None:
        if self.api_key is not None and not (self.api_key.strip() and self.api_key.isascii()):
            raise UserError("--api-key must be ASCII characters, at least one. Leave it out to ask for no key.")
        for flag, folder in (("--allowed-local-media-path", self.allowed_folder), ("--samples", self.samples)):
            if folder is not None and not folder.is_dir():
                raise UserError(f"{flag} ({folder}) is not a folder.")
        for domain in self.allowed_domains:
            if not _DOMAIN.fullmatch(domain):
                raise UserError(
                    f"--allowed-media-domains ({domain!r}) must be like videos.example.org, without http://."
                )
        for origin in self.cors_origins:
            if not _ORIGIN.fullmatch(origin):
                raise UserError(f"--cors-origin ({origin!r}) must be like https://tool.example.org, without a path.")

    def accepts(self, authorization: str) -> bool:
        """Whether the header ``Authorization`` holds the key; takes the same time whatever it holds."""
        if self.api_key is None:
            return True
        digests = [hashlib.sha256(text.encode("utf-8")).digest() for text in (authorization, f"Bearer {self.api_key}")]
        return hmac.compare_digest(*digests)
