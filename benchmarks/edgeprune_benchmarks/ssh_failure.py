"""What the last words of ``ssh`` mean, and what to do about it.

``ssh`` ends with code 255 when the connection is at fault; any other code is that of
the command at the other end.
"""

from typing import Final

from edgeprune_benchmarks.ssh_address import Address

__all__ = ["connection_broke", "no_connection"]

OF_SSH: Final = 255
KILLED: Final = 128  # and the number of the signal, as shells tell it
CAUSES: Final = (  # in this order: a refused key is the last thing said of several
    (
        "IDENTIFICATION HAS CHANGED",
        "shows another host key than the one this machine knows. Either it was installed anew, or "
        "something else answers in its place: ask who looks after it, then remove the old key "
        "(ssh-keygen -R) and log in by hand once: {login}",
    ),
    (
        "Host key verification failed",
        "shows a host key that this machine does not know. Log in by hand once, compare the "
        "fingerprint and accept it: {login}",
    ),
    (
        "Permission denied",
        "refuses the login. A key is needed, passwords are never asked for: {copy}",
    ),
    (
        "Too many authentication failures",
        "refuses the login after several keys: name the right one by IdentityFile and "
        "IdentitiesOnly in ~/.ssh/config, and try: {login}",
    ),
    ("Could not resolve hostname", "is a name that cannot be resolved: check it, or try: {login}"),
    ("Connection refused", "refuses connections: is sshd running there, at that port?"),
    ("timed out", "does not answer: is it switched on and in this network?"),
    ("No route to host", "cannot be reached: is it switched on and in this network?"),
    ("Network is unreachable", "cannot be reached from this network"),
)
UNKNOWN: Final = "cannot be reached by ssh ({words}); try: {login}"


def no_connection(address: Address, code: int, words: str) -> str:
    """Say why ``ssh`` never got as far as a Python on that machine."""
    if code == OF_SSH:
        found = next((what for sign, what in CAUSES if sign in words), UNKNOWN)
        login = address.login
        copy = login.replace("ssh ", "ssh-copy-id ", 1)
        return f"{address.name} {found.format(login=login, copy=copy, words=_last(words))}"
    if code in (126, 127):
        return (
            f"{address.name} has no {address.python!r} ({_last(words)}): install Python 3.8 or "
            "newer there (sudo apt install python3 python3-numpy), or name one by adding "
            "?python=PATH to the address"
        )
    if "SyntaxError" in words:
        return old_python(address, "too old to say which version it is")
    return f"{address.name} cannot run {address.python!r} (exit code {code}): {_last(words)}"


def old_python(address: Address, version: str) -> str:
    """Say that the Python there is too old."""
    return (
        f"{address.python!r} on {address.name} is {version}; 3.8 or newer is needed: name another "
        "by adding ?python=PATH to the address"
    )


def no_numpy(address: Address) -> str:
    """Say that numpy is missing there, and how it is installed."""
    return (
        f"{address.python!r} on {address.name} has no numpy, which the device runner needs: run "
        f"there {address.python} -m pip install numpy, or name a Python that has it by adding "
        "?python=PATH to the address"
    )


def connection_broke(name: str, code: int, words: str) -> str | None:
    """Say that a connection ended that had been there, or what killed a command there."""
    if code == OF_SSH or code < 0:
        said = f" ({_last(words)})" if words else ""
        return f"the connection to {name} broke{said}: what was sent so far is kept; run it again"
    if code > KILLED:
        hint = " (out of memory?)" if code == KILLED + 9 else ""
        said = f"; its last words:\n{words}" if words else ""
        return f"the device runner on {name} was killed by signal {code - KILLED}{hint}{said}"
    return None


def _last(words: str) -> str:
    return words.strip().rpartition("\n")[2] or "it says nothing"
