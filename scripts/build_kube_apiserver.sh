#!/bin/sh
# Builds the kube-apiserver that the tests of the Kubernetes store run against, from the source package of Debian 12, as no package
# holds the program. Usage: scripts/build_kube_apiserver.sh [DIRECTORY]; by default ~/.cache/pgcore/kubernetes, where every clone
# finds it. Takes five to ten minutes and 2.5 GB, of which 110 MB stay. Needs apt-get and make, not root; compiler, sources and all
# that the build writes lie in a folder that is removed. Does nothing when the program is there.
set -eu
umask 022
. "$(dirname "$0")/debian.sh"
target=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/pgcore/kubernetes}
[ ! -x "$target/kube-apiserver" ] || exit 0

mkdir -p "$target"
target=$(cd "$target" && pwd)
work=$(mktemp -d "$target/build.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

apt_of bookworm "$work"
packages="golang-1.19-go golang-1.19-src"
command -v rsync >/dev/null || packages="$packages rsync libpopt0 libxxhash0"
cd "$work"
export APT_CONFIG="$work/apt/apt.conf"
# shellcheck disable=SC2086
apt-get download -q $packages
apt-get source -q --download-only kubernetes
for package in *.deb; do dpkg -x "$package" system; done
# What Debian changes concerns kubectl alone.
sources=$work/go/src/k8s.io/kubernetes
mkdir -p "$sources" "$work/home" "$work/bin"
tar -xzf kubernetes_*.orig.tar.gz --strip-components=1 -C "$sources"
version=$(sed -n 's/^Version: \(.*really\)*\([0-9.]*\).*/\2/p' kubernetes_*.dsc | head -n 1)
rm -rf ./*.deb ./*.tar.* apt

cat >"$work/version" <<VERSION
KUBE_GIT_COMMIT='unknown'
KUBE_GIT_TREE_STATE='archive'
KUBE_GIT_VERSION='v$version'
KUBE_GIT_MAJOR='${version%%.*}'
KUBE_GIT_MINOR='$(echo "$version" | cut -d. -f2)'
VERSION
if [ -x system/usr/bin/rsync ]; then
    # Its libraries are for itself: the shell of the system need not meet them.
    printf '#!/bin/sh\nLD_LIBRARY_PATH=%s exec %s "$@"\n' "$(echo "$work"/system/usr/lib/*-linux-gnu*)" "$work/system/usr/bin/rsync" >bin/rsync
    chmod 755 bin/rsync
fi
export GOROOT="$work/system/usr/lib/go-1.19" GOPATH="$work/go" GOCACHE="$work/cache" GOENV=off GOFLAGS='' GO111MODULE=auto
export GOPROXY=off CGO_ENABLED=0 HOME="$work/home" KUBE_GIT_VERSION_FILE="$work/version" PATH="$GOROOT/bin:$work/bin:$PATH"
nice -n 10 make -C "$sources" WHAT=cmd/kube-apiserver
"$sources"/_output/bin/kube-apiserver --version
# At one blow: who looks for it meanwhile finds a whole one or none.
cp -L "$sources/_output/bin/kube-apiserver" "$work/kube-apiserver"
mv "$work/kube-apiserver" "$target/kube-apiserver"
