"""What a try to log in is counted by (store.attempts): its address and name, or the browser that was let in before.

Strangers who fail under somebody's name make that name wait. Its own browser does not wait with them: who was once let
in got a cookie that says so, and a try that brings it is counted by that cookie alone. (OWASP calls it a device
cookie: https://owasp.org/www-community/Slow_Down_Online_Guessing_Attacks_with_Device_Cookies.)
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets

from cxrnode.store.attempts import Key, Kind

#: For how many seconds a browser keeps the cookie.
KEPT = 180 * 86400


def cookie_of(name: str, secret: bytes) -> str:
    """The cookie's name, one for each person: several may share a browser."""
    tag = hashlib.blake2b(name.encode(), key=secret, person=b"cxrnode cookie", digest_size=6).hexdigest()
    return f"cxrnode_device_{tag}"


def keys_of(name: str, address: str, device: str, secret: bytes) -> tuple[Key, ...]:
    """What a try under this name is counted by. `device` is the value of its cookie, "" without one."""
    if is_known(device, name, secret):
        return (Key(kind=Kind.DEVICE, value=device, secret=secret),)
    return (
        Key(kind=Kind.ADDRESS, value=network_of(address), secret=secret),
        key_of_name(name, secret),
    )


def key_of_name(name: str, secret: bytes) -> Key:
    """What tries under a name are counted by, wherever they come from."""
    return Key(kind=Kind.NAME, value=name.lower(), secret=secret)


def device_for(name: str, secret: bytes) -> str:
    """A new value of the cookie, for a browser in which somebody logged in under this name."""
    own = secrets.token_urlsafe(16)
    return f"{own}.{_mark(own, name, secret)}"


def is_known(device: str, name: str, secret: bytes) -> bool:
    """Whether somebody logged in under this name in the browser that brings this."""
    own, _, mark = device.partition(".")
    return bool(own) and hmac.compare_digest(mark.encode(), _mark(own, name, secret).encode())


def _mark(own: str, name: str, secret: bytes) -> str:
    return hashlib.blake2b(f"{own}:{name}".encode(), key=secret, person=b"cxrnode device", digest_size=20).hexdigest()


def network_of(address: str) -> str:
    """The address, or of one of IPv6 the network of 64 bits that one household has."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if parsed.version == 4:
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((int(parsed), 64), strict=False))
