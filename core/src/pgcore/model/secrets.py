"""What a secret looks like inside a text, wherever it may be printed: credentials of a URL, ``password=...``."""

from __future__ import annotations

import re

HIDDEN = "***"

_URL = re.compile(r"(://[^/@\s:]*):[^/@\s]*@")
_PAIR = re.compile(r"""(passw\w*|passphrase|secret\w*|token)(['"]?\s*[=:]\s*)('[^']*'|"[^"]*"|[^\s,;&}'"]+)""", re.IGNORECASE)


def text_without_secrets(text: str) -> str:
    """The text with ``***`` for what looks like a secret; doing it twice changes nothing more."""
    if "://" in text:
        text = _URL.sub(rf"\1:{HIDDEN}@", text)
    if "=" in text or ":" in text:
        text = _PAIR.sub(rf"\1\2{HIDDEN}", text)
    return text
