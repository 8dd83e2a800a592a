"""Headers of every answer, for browsers: nothing is guessed, framed or told on.

``Content-Security-Policy`` (W3C CSP Level 3) keeps a browser from running what is in an answer; the page allows its
own files and nothing else.
"""

from __future__ import annotations

CLOSED = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
SAFE_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": CLOSED,
}
PAGE_POLICY = (
    f"{CLOSED}; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; media-src 'self' blob:"
)
MEDIA_POLICY = f"{CLOSED}; sandbox"  # a video that is opened by itself
