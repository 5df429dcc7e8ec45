"""What the keys of the sections mean, and how the plugins present themselves."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points

import pytest

from pgcore.plugin import ConfigError
from pgcore_dcs_etcd.section import Etcd3Section, EtcdSection, place


@pytest.mark.parametrize(("keys", "urls"), [
    ({"host": "h"}, {"http://h:2379"}),
    ({"host": "h", "port": 4001}, {"http://h:4001"}),
    ({"host": "[::1]:7"}, {"http://[::1]:7"}),
    ({"hosts": "a:1, b ,c:3"}, {"http://a:1", "http://b:2379", "http://c:3"}),
    ({"hosts": ["a:1", "b"], "host": "never", "protocol": "https"}, {"https://a:1", "https://b:2379"}),
    ({"url": "https://u", "hosts": ["never"], "protocol": "http"}, {"https://u:2379"}),
    ({"proxy": "http://p:1", "url": "https://never"}, {"http://p:1"}),
    ({"srv": "d", "hosts": ["never"]}, set()),
])
def test_where_etcd_is(keys, urls):
    assert set(place(Etcd3Section(**keys), "etcd3").urls) == urls


def test_only_proxies_are_a_fixed_list():
    assert place(EtcdSection(proxy="http://p"), "etcd").fixed
    assert place(EtcdSection(hosts="a", use_proxies=True), "etcd").fixed
    assert not place(EtcdSection(url="http://u"), "etcd").fixed


@pytest.mark.parametrize(("keys", "words"), [
    ({}, "nothing says where etcd is"), ({"srv_suffix": "x"}, "nothing says"), ({"host": "h:port"}, "no valid port"),
    ({"hosts": ["a", ":1"]}, "no host"), ({"url": "ftp://h"}, "ftp"), ({"hosts": []}, "nothing says")])
def test_a_section_that_leads_nowhere_is_refused(keys, words):
    with pytest.raises(ConfigError, match=words):
        place(EtcdSection(**keys), "etcd")


def test_secrets_do_not_show():
    shown = repr(Etcd3Section(url="http://u:hidden@h", proxy="http://u:hidden@h", username="u", password="hidden"))
    assert "hidden" not in shown


@pytest.mark.parametrize(("name", "section"), [("etcd3", Etcd3Section), ("etcd", EtcdSection)])
def test_the_entry_point_describes_the_store(name, section):
    [entry] = entry_points(group="pgcore", name=name)
    [backend] = entry.load().pgcore_stores()
    assert (backend.name, backend.section) == (name, section)
    assert backend.ttl_floor(section(host="h"))[0] == 5


@pytest.mark.parametrize(("module", "unwanted"), [
    ("plugin", ["http.client", "etcd", "dns", "urllib3"]), ("plugin_v2", ["http.client", "etcd", "dns", "urllib3"]),
    ("v3", ["etcd", "dns", "urllib3"])])
def test_nothing_heavy_is_imported_before_it_is_needed(module, unwanted):
    code = f"import sys, pgcore_dcs_etcd.{module}; print([name for name in {unwanted!r} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
