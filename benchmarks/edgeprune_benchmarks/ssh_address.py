"""How another machine is named: ``ssh://[user@]host[:port][/cuda:N][?python=…&cache=…]``.

Whatever follows ``ssh://`` may come from a file or a CI variable, and ends up on a
command line. Invariant: no part of an ``Address`` can be taken for an option, and a
password is never repeated.
"""

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl, unquote

from edgeprune.errors import UsageError

__all__ = ["SCHEME", "Address", "parse_address"]

SCHEME: Final = "ssh://"
FORM: Final = "ssh://[user@]host[:port][/cuda:0][?python=PATH&cache=FOLDER]"
USER: Final = re.compile(r"(?!-)[\w.@+-]+")
HOST: Final = re.compile(r"(?!-)[\w.-]+|\[(?P<six>[0-9A-Fa-f:.]+(?:%[\w.-]+)?)\]")
PORT: Final = 65535


@dataclass(frozen=True, kw_only=True)
class Address:
    """A machine that ``ssh`` reaches; ``host`` may be an alias of its configuration."""

    host: str
    user: str | None = None
    port: int | None = None
    python: str = "python3"
    cache: str | None = None  # folder there; None: that machine's own choice

    @property
    def name(self) -> str:
        """What messages call it, as ``ssh`` does."""
        user = f"{self.user}@" if self.user else ""
        return f"{user}{self.host}" + (f" port {self.port}" if self.port else "")

    @property
    def login(self) -> str:
        """The command that logs in there by hand."""
        port = f"-p {self.port} " if self.port else ""
        return f"ssh {port}" + (f"{self.user}@{self.host}" if self.user else self.host)


def parse_address(text: str) -> tuple[Address, str]:
    """Return the machine that ``text`` names, and the device of it: ``cpu`` or ``cuda:N``.

    Raises ``UsageError`` for what is no such address, and for one with a password.
    """
    where, query = _split(text.removeprefix(SCHEME))
    user, at, rest = where.rpartition("@")
    if ":" in user:
        raise UsageError(
            "a device's address must not hold a password, which every process on this machine "
            "could read: log in by a key instead (ssh-copy-id), or keep a connection open "
            "(ControlMaster in ~/.ssh/config)"
        )
    place, _, device = rest.partition("/")
    host, port = _host(place)
    if at and not USER.fullmatch(unquote(user)):
        raise UsageError(f"{unquote(user)!r} cannot be a user's name; an address is {FORM}")
    if device not in ("", "cpu") and not re.fullmatch(r"cuda:\d+", device):
        raise UsageError(f"there is no device {device!r}: use cpu or cuda:0; an address is {FORM}")
    address = Address(host=host, port=port, user=unquote(user) or None, **_query(query))
    return address, device or "cpu"


def _split(text: str) -> tuple[str, str]:
    """Part an address from its query; other question marks may belong to a password."""
    found = re.search(r"\?(?=(?:python|cache)=)", text)
    return (text[: found.start()], text[found.end() :]) if found else (text, "")


def _host(place: str) -> tuple[str, int | None]:
    name, colon, digits = place.partition(":") if not place.startswith("[") else _six(place)
    found = HOST.fullmatch(name)
    if found is None:
        raise UsageError(f"{name!r} cannot be a host's name; an address is {FORM}")
    if colon and not (digits.isascii() and digits.isdecimal() and 0 < int(digits) <= PORT):
        raise UsageError(f"{digits!r} is no port; an address is {FORM}")
    return found["six"] or name, int(digits) if colon else None


def _six(place: str) -> tuple[str, str, str]:
    """Part an IPv6 address in brackets from its port."""
    name, bracket, rest = place.partition("]")
    return name + bracket, rest[:1], rest[1:]


def _query(query: str) -> dict[str, str]:
    words = dict(parse_qsl(query, keep_blank_values=True))
    for name, value in words.items():
        if name not in ("python", "cache") or not value:
            raise UsageError(f"{name!r} cannot be set so; an address is {FORM}")
        if name == "python" and value.startswith("~/"):
            words[name] = f".{value[1:]}"  # words are quoted; logins begin at home
    return words
