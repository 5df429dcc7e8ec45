"""What the keys of the sections mean, and how the plugins present themselves."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points

import pytest
from kazoo.security import Permissions

from pgcore.plugin import ConfigError
from pgcore_dcs_zookeeper.ensemble import Ensemble
from pgcore_dcs_zookeeper.section import ExhibitorSection, ZooKeeperSection, credentials
from pgcore_dcs_zookeeper.tree import Tree


@pytest.mark.parametrize(("hosts", "urls", "chroot"), [
    ("h", {"http://h:2181"}, ""),
    ("a:1, b ,c:3", {"http://a:1", "http://b:2181", "http://c:3"}, ""),
    (["a:1", "b"], {"http://a:1", "http://b:2181"}, ""),
    (["[::1]:7"], {"http://[::1]:7"}, ""),
    ("a:1,b:2/pg/clusters", {"http://a:1", "http://b:2"}, "/pg/clusters"),
])
def test_where_zookeeper_is(hosts, urls, chroot):
    found = Ensemble(ZooKeeperSection(hosts=hosts))
    assert (set(found.endpoints.urls), found.chroot) == (urls, chroot)


@pytest.mark.parametrize(("section", "words"), [
    (ZooKeeperSection(), r"zookeeper\.hosts.*names no host"), (ZooKeeperSection(hosts=[]), "names no host"),
    (ZooKeeperSection(hosts="h:port"), "is no address"), (ExhibitorSection(port=1), r"exhibitor\.hosts"),
    (ExhibitorSection(hosts=["a"]), r"exhibitor\.port.*missing"),
    (ZooKeeperSection(hosts="h", use_ssl=True, cacert="/no/such/file"), "cacert /no/such/file"),
])
def test_a_section_that_leads_nowhere_is_refused(section, words):
    with pytest.raises(ConfigError, match=words):
        Ensemble(section)


def test_tls_keys_have_no_effect_without_use_ssl():
    Ensemble(ZooKeeperSection(hosts="h", cacert="/no/such/file"))


def acl(**set_acls):
    section = ZooKeeperSection(hosts="h", set_acls=set_acls)
    return Tree("", "/service/demo", "a", section, "zookeeper").acl


def test_acls_of_created_nodes():
    [everybody] = acl()
    assert (everybody.id.scheme, everybody.perms) == ("world", Permissions.ALL)
    [subject] = acl(**{"CN=patroni,O=db": ["create", "Read"]})
    assert (subject.id.scheme, subject.id.id, subject.perms) == ("x509", "CN=patroni,O=db", Permissions.CREATE | Permissions.READ)
    [digest] = acl(**{"digest:user:hash=": ["ALL"]})
    assert (digest.id.scheme, digest.id.id, digest.perms) == ("digest", "user:hash=", Permissions.ALL)


@pytest.mark.parametrize("words", [["READ", "EXECUTE"], []])
def test_what_is_no_permission_is_refused(words):
    with pytest.raises(ConfigError, match="CREATE, READ"):
        acl(someone=words)


def test_credentials_may_be_the_lines_of_a_file():
    section = ZooKeeperSection(hosts="h", auth_data="digest: user:pass:word\n\nsasl: other:x\n")
    assert credentials(section, "zookeeper") == {"digest": "user:pass:word", "sasl": "other:x"}
    with pytest.raises(ConfigError, match=r"zookeeper\.auth_data") as refused:
        credentials(ZooKeeperSection(hosts="h", auth_data="hidden"), "zookeeper")
    assert "hidden" not in str(refused.value)


def test_secrets_do_not_show():
    shown = repr(ZooKeeperSection(hosts="h", key_password="hidden", auth_data={"digest": "user:hidden"}))
    assert "hidden" not in shown


@pytest.mark.parametrize(("name", "section"), [("zookeeper", ZooKeeperSection), ("exhibitor", ExhibitorSection)])
def test_the_entry_point_describes_the_store(name, section):
    [entry] = entry_points(group="pgcore", name=name)
    [backend] = entry.load().pgcore_stores()
    assert (backend.name, backend.section) == (name, section)
    assert backend.ttl_floor(section(hosts=["h"]))[0] == 5


IMPORT = """
import sys, time
import pgcore.plugin
began = time.process_time()
import pgcore_dcs_zookeeper.{module}
print((time.process_time() - began) * 1000, [name for name in ("kazoo", "ssl", "http.client", "puresasl") if name in sys.modules])
"""


@pytest.mark.parametrize("module", ["plugin", "plugin_exhibitor"])
def test_selecting_another_store_costs_nothing(module):
    def once():
        run = subprocess.run([sys.executable, "-c", IMPORT.format(module=module)], capture_output=True, text=True, check=True)
        spent, _, loaded = run.stdout.strip().partition(" ")
        return float(spent), loaded

    runs = [once() for _ in range(3)]
    assert {loaded for _, loaded in runs} == {"[]"}
    assert min(spent for spent, _ in runs) < 30
