#!/bin/sh
# Environment variables in, a running node out. The names are Spilo's where Spilo has one; any PGCORE_ or PATRONI_ variable that the
# agent knows may be set besides and counts more. docs/kubernetes.md lists them.
# Usage: entrypoint.sh [run|validate] [options of that command]
set -eu
umask 077
fail() { printf 'pgcore-node: %s\n' "$*" >&2; exit 1; }

# given NAME VALUE: export PGCORE_NAME unless it is set by either prefix, or the value is empty
given() {
    eval "set_already=\${PGCORE_$1:-\${PATRONI_$1:-}}"
    [ -n "$set_already" ] || [ -z "$2" ] || export "PGCORE_$1=$2"
}

# password USER VARIABLE: from VARIABLE or, a file, from VARIABLE_FILE
password() {
    eval "text=\${$2:-} file=\${$2_FILE:-} known=\${PGCORE_$1_PASSWORD:-\${PGCORE_$1_PASSWORD_FILE:-\${PATRONI_$1_PASSWORD:-}}}"
    [ -n "$text$file$known" ] || fail "$2 is not set: give the password of this role, or the name of a file with it in $2_FILE"
    [ -z "$text" ] || [ -z "$file" ] || fail "both $2 and $2_FILE are set: keep one of them"
    given "$1_PASSWORD" "$text"
    given "$1_PASSWORD_FILE" "$file"
    unset "$2"
}

command=${1:-run}
[ $# -eq 0 ] || shift
case $command in run | validate) ;; *) fail "unknown command '$command': it is run or validate" ;; esac

port=${PGPORT:-5432}
api_port=${APIPORT:-8008}
address=${POD_IP:-$(hostname -i 2>/dev/null | cut -d ' ' -f 1)} || address=
[ -n "$address" ] || fail "the address of this node is not known: set POD_IP"
case $address in *:*) reach="[$address]" every="[::]" ;; *) reach=$address every=0.0.0.0 ;; esac
[ -n "${SCOPE:-}${PGCORE_SCOPE:-}${PATRONI_SCOPE:-}" ] || fail "SCOPE is not set: give the name of the cluster"

given SCOPE "${SCOPE:-}"
given NAME "${POD_NAME:-$(hostname)}"
given RESTAPI_LISTEN "$every:$api_port"
given RESTAPI_CONNECT_ADDRESS "$reach:$api_port"
given POSTGRESQL_LISTEN "*:$port"
given POSTGRESQL_CONNECT_ADDRESS "$reach:$port"
given POSTGRESQL_DATA_DIR "${PGDATA:-/var/lib/postgresql/data}"
given SUPERUSER_USERNAME "${PGUSER_SUPERUSER:-postgres}"
given REPLICATION_USERNAME "${PGUSER_STANDBY:-standby}"
password SUPERUSER PGPASSWORD_SUPERUSER
password REPLICATION PGPASSWORD_STANDBY

stores="${ETCD3_HOSTS:+ETCD3_HOSTS }${ETCD_HOSTS:+ETCD_HOSTS }${CONSUL_HOST:+CONSUL_HOST }${ZOOKEEPER_HOSTS:+ZOOKEEPER_HOSTS }"
others=$(env | sed -n 's/^P[A-Z]*_\(ETCD3*\|CONSUL\|ZOOKEEPER\|EXHIBITOR\|KUBERNETES\|RAFT\)_[A-Z_]*=.*/\1/p')
case $stores in
    *" "*" "*) fail "more than one store is named: ${stores% }; keep one of them" ;;
    "")
        if [ -n "${KUBERNETES_SERVICE_HOST:-}" ] && { [ -z "$others" ] || [ -z "$(echo "$others" | grep -v KUBERNETES)" ]; }; then
            given KUBERNETES_LABELS "${KUBERNETES_LABELS:-application: pgcore}"
            given KUBERNETES_SCOPE_LABEL "${KUBERNETES_SCOPE_LABEL:-}"
            given KUBERNETES_ROLE_LABEL "${KUBERNETES_ROLE_LABEL:-}"
            given KUBERNETES_NAMESPACE "${POD_NAMESPACE:-}"
            if [ "${KUBERNETES_USE_CONFIGMAPS:-false}" != true ] && [ "${PGCORE_KUBERNETES_USE_LEASES:-false}" != true ]; then
                given KUBERNETES_USE_ENDPOINTS true
                given KUBERNETES_POD_IP "$address"
                given KUBERNETES_PORTS "[{name: postgresql, port: $port}]"
            fi
        elif [ -z "$others$(printf %s "${PGCORE_CONFIGURATION:-}${SPILO_CONFIGURATION:-}")" ]; then
            fail "no store is named: set ETCD3_HOSTS, ETCD_HOSTS, CONSUL_HOST or ZOOKEEPER_HOSTS, or run in Kubernetes"
        fi ;;
    *)
        given ETCD3_HOSTS "${ETCD3_HOSTS:-}"
        given ETCD_HOSTS "${ETCD_HOSTS:-}"
        given CONSUL_HOST "${CONSUL_HOST:-}"
        given ZOOKEEPER_HOSTS "${ZOOKEEPER_HOSTS:-}" ;;
esac

# The files are read in this order, the later over the earlier.
files=${NODE_DIRECTORY:-/run/pgcore}
mkdir -p "$files"
given POSTGRESQL_PGPASS "$files/pgpass"
cp "${NODE_BASE:-/usr/share/pgcore/node.yml}" "$files/10-image.yml"
rm -f "$files/50-given.yml"
[ -z "${SPILO_CONFIGURATION:-}" ] || printf '%s\n' "$SPILO_CONFIGURATION" >"$files/50-given.yml"
unset SPILO_CONFIGURATION

# A volume that is given to a group (fsGroup) gets rights with which PostgreSQL refuses to start.
data=${PGCORE_POSTGRESQL_DATA_DIR:-${PATRONI_POSTGRESQL_DATA_DIR:-}}
[ ! -d "$data" ] || [ "$command" != run ] || chmod g-w,o-rwx "$data"
exec pgcore "$command" "$@" "$files"
