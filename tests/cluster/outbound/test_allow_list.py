"""Addresses that are allowed, and those that only look so."""

import ipaddress

import pytest

from reelray.cluster.outbound.allow_list import AllowList, Reach
from reelray.cluster.outbound.exchange import is_public
from reelray.proto.errors import ForbiddenUrlError, InputError

LIST = AllowList.of(["https://cdn.example/pictures", "http://10.0.0.7:9000/"])


@pytest.mark.parametrize(
    "url",
    [
        "https://cdn.example/pictures",
        "https://cdn.example/pictures/a/b.png?size=3&at=//x",
        "HTTPS://CDN.Example:443/pictures/",
        "http://10.0.0.7:9000",
        "http://10.0.0.7:9000/x%20y",
    ],
)
def test_what_lies_below_a_prefix_is_allowed(url):
    assert LIST.check(url).port in {443, 9000}


@pytest.mark.parametrize(
    "url",
    [
        "http://cdn.example/pictures/a",
        "https://cdn.example:8443/pictures/a",
        "https://cdn.example/picturesque",
        "https://cdn.example/",
        "https://cdn.example/PICTURES/a",
        "https://cdn.example.evil.org/pictures/a",
        "https://evil.org/pictures/a",
        "http://10.0.0.70:9000/",
        "http://10.0.0.7/",
        "http://167772167:9000/",
    ],
)
def test_what_does_not_is_forbidden(url):
    with pytest.raises(ForbiddenUrlError, match="not told to trust"):
        LIST.check(url)


@pytest.mark.parametrize(
    "url",
    [
        "https://cdn.example/pictures/../secret",
        "https://cdn.example/pictures/%2e%2E/secret",
        "https://cdn.example/pictures/..%2fsecret",
        "https://cdn.example/pictures/a%5c..%5csecret",
        "https://cdn.example/pictures//evil.org",
        "https://cdn.example/pictures/./a",
        "https://cdn.example/pictures/..",
        "https://cdn.example/pictures/..;/secret",
        "https://cdn..example/pictures/a",
        "https://.example/pictures/a",
        f"https://{'a' * 64}.example/pictures/a",
        "https://cdn.example\\@evil.org/pictures/a",
        "https://cdn.example@evil.org/pictures/a",
        "https://user:word@cdn.example/pictures/a",
        "https://cdn.example#.evil.org/pictures/a",
        "https://cdn.example/pictures/a#b",
        "https://cdn.example/pictures/a\r\nhost: evil.org",
        "https://cdn.example/pictures/ a",
        "https://cdn。example/pictures/a",
        "https://cdn.example:99999/pictures/a",
        "https://cdn.example:0/pictures/a",
        "//cdn.example/pictures/a",
        "file:///etc/passwd",
        "ftp://cdn.example/pictures/a",
        "",
        "https://cdn.example/pictures/" + "a" * 3000,
    ],
)
def test_what_programs_read_differently_is_no_address(url):
    with pytest.raises(InputError, match="address"):
        LIST.check(url)


def test_by_default_nobody_is_spoken_to():
    for rule in (AllowList(), Reach().urls, Reach().webhooks):
        with pytest.raises(ForbiddenUrlError, match="nobody"):
            rule.check("https://cdn.example/")


def test_prefixes_are_addresses_and_webhooks_need_a_key():
    for wrong in ("cdn.example", "https://cdn.example/?a", "https://"):
        with pytest.raises(InputError):
            AllowList.of([wrong])
    with pytest.raises(InputError, match="REELRAY_WEBHOOK_SECRET"):
        Reach(webhooks=AllowList.of(["https://cdn.example/"]))


@pytest.mark.parametrize(
    "number",
    [
        *("127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0"),
        *("224.0.0.1", "255.255.255.255", "240.0.0.1", "192.0.2.1", "::1", "::", "fe80::1", "fd00::1", "ff02::1"),
        *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "2001:db8::1", "2001:0:1::"),
        *("fec0::1", "3fff::1"),
    ],
)
def test_networks_that_are_not_public(number):
    assert not is_public(ipaddress.ip_address(number))


@pytest.mark.parametrize("number", ["1.1.1.1", "93.184.216.34", "2606:4700::1111", "::ffff:1.1.1.1"])
def test_networks_that_are(number):
    assert is_public(ipaddress.ip_address(number))
